import logging
import re

import pytest

from fcos_rpn import UserError
from fcos_rpn.engine.divergence import TrainingDiverged
from fcos_rpn.engine.progress import log_to, progress_writers, training_seconds
from fcos_rpn.engine.setup import use_datasets
from fcos_rpn.engine.trainer import Trainer
from fcos_rpn.engine.yaml import build_trainer
from tests.tiny import tiny_config, write_coco_folder

pytestmark = pytest.mark.usefixtures("detectron2_restored")


@pytest.fixture
def trainer(tmp_path):
    folder = write_coco_folder(tmp_path / "coco")

    def trainer(**solver) -> Trainer:
        cfg = tiny_config("ProposalNetwork")
        cfg.DATASETS.TRAIN_FOLDERS = cfg.DATASETS.TEST_FOLDERS = [list(folder)]
        cfg.OUTPUT_DIR = str(tmp_path / "output")
        for name, value in solver.items():
            cfg.SOLVER[name] = value
        use_datasets(cfg)
        writers = progress_writers("tiny", cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR)
        trainer = build_trainer(cfg, writers=writers)
        trainer.resume_or_load()
        return trainer

    return trainer


def shown(capsys) -> str:
    """The training bar as it stands in the end."""
    return [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.startswith("tiny: training:")][-1]


def test_the_bar_ends_at_its_total_although_an_evaluation_follows(trainer, capsys):
    trainer(MAX_ITER=4).train()
    assert re.search(r"100%.* 4/4 \[.*loss=\d", shown(capsys))


def test_the_bar_of_a_resumed_run_begins_where_that_does(trainer, capsys, tmp_path):
    trainer(MAX_ITER=3).train()
    resumed = trainer(MAX_ITER=4)
    (bar,) = (hook._writers[0].bar for hook in resumed._hooks if hasattr(hook, "_writers"))
    resumed.train()
    assert (bar.initial, bar.n) == (3, 4)
    assert " 4/4 " in shown(capsys)


def test_a_run_stopped_during_its_last_evaluation_repeats_only_that(trainer, tmp_path):
    trainer().train()
    (tmp_path / "output" / "results.json").unlink()
    trainer().train()
    assert (tmp_path / "output" / "results.json").exists()


def test_an_error_in_the_first_iteration_is_not_hidden_by_the_bar(trainer, monkeypatch):
    first = trainer()

    def fail(*_: object) -> None:
        raise FloatingPointError("not finite")

    monkeypatch.setattr(first.model, "forward", fail)
    with pytest.raises(TrainingDiverged, match="at iteration 0"):
        first.train()


def test_an_iteration_that_failed_is_not_counted(trainer, capsys):
    with pytest.raises(TrainingDiverged, match="at iteration 1"):
        trainer(BASE_LR=1e30, MAX_ITER=4).train()
    assert " 1/4 " in shown(capsys)


def test_seconds_of_a_resumed_training_count_every_iteration_once(tmp_path):
    log = tmp_path / "metrics.json"
    # 20 iterations of 1 s, 20 of 2 s; killed, and resumed at 20 with 3 s an iteration; then 10 of 4 s.
    lines = [(19, 1.0), (39, 2.0), (39, 3.0), (49, 4.0)]
    log.write_text("".join(f'{{"iteration": {i}, "time": {t}}}\n' for i, t in lines) + '{"iteration": 49}\n')
    assert training_seconds(log) == 20 * 1 + 20 * 3 + 10 * 4


def test_messages_go_to_a_file_and_only_errors_to_the_screen(tmp_path, capsys):
    log_to(tmp_path / "new" / "log.txt")
    logging.getLogger("fcos_rpn.data").info("an information")
    logging.getLogger("detectron2").error("an error")
    written = (tmp_path / "new" / "log.txt").read_text()
    assert "fcos_rpn.data INFO: an information" in written
    assert "detectron2 ERROR: an error" in written
    on_screen = capsys.readouterr().err
    assert "an error" in on_screen
    assert "an information" not in on_screen


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/output: cannot be made or written \(Not a directory\)"):
        log_to(tmp_path / "file" / "output" / "log.txt")
