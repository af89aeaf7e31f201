import logging
import re

import pytest
from detectron2.utils.events import EventStorage

from fcos_rpn import UserError
from fcos_rpn.engine.progress import ProgressBar, log_to, training_seconds


@pytest.mark.parametrize("start", [0, 3])
def test_the_bar_counts_the_iterations_of_this_run_that_have_a_loss(capsys, start):
    """The fifth iteration fails, so that it has none; a resumed run begins where it is."""
    with EventStorage(start) as storage:
        bar = ProgressBar("tiny", 5)
        bar.write()  # nothing is trained yet
        for _ in range(start, 4):
            storage.put_scalar("total_loss", 1.5)
            bar.write()
            storage.step()
        bar.write()
        bar.close()
    assert (bar.bar.initial, bar.bar.n) == (start, 4)
    last = re.split(r"[\r\n]+", capsys.readouterr().err.strip())[-1]
    assert re.search(r"^tiny: training: +80%.* 4/5 \[.*loss=1\.50", last)


def test_seconds_of_a_resumed_training_count_every_iteration_once(tmp_path):
    log = tmp_path / "metrics.json"
    # 20 iterations of 1 s, 20 of 2 s; killed, and resumed at 20 with 3 s an iteration; then 10 of 4 s.
    lines = [(19, 1.0), (39, 2.0), (39, 3.0), (49, 4.0)]
    log.write_text("".join(f'{{"iteration": {i}, "time": {t}}}\n' for i, t in lines) + '{"iteration": 49}\n')
    assert training_seconds(log) == 20 * 1 + 20 * 3 + 10 * 4


def test_messages_go_to_a_file_and_only_errors_to_the_screen(tmp_path, capsys, detectron2_restored):
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
