"""`python -m dev.benchmark` within this process."""

import json

import pytest
import torch

from dev.benchmark import __main__ as benchmark
from dev.benchmark import losses
from fcos_rpn import UserError


@pytest.fixture(autouse=True)
def small_and_restored(monkeypatch):
    monkeypatch.setattr(losses, "QUICK_SIZE", (64, 96))
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(*arguments: object) -> None:
    benchmark.main([str(argument) for argument in arguments])


def test_one_subject(tmp_path, capsys):
    run("loss", "--quick", "--threads", 1, "--output", tmp_path / "new")
    out = capsys.readouterr().out
    assert "loss: forward and backward of the losses" in out
    assert "/ detectron2" in out
    content = json.loads((tmp_path / "new" / "loss.json").read_text())
    assert content["environment"]["threads"] == 1
    (ours,) = (row for row in content["rows"] if row["case"] == "fcos_rpn")
    assert ours["ratio_to_torchvision"] > 0
    assert ours["peak_mib"] > 0


def test_what_was_measured_before_a_stop_is_kept(tmp_path, monkeypatch):
    """Of all subjects, the second one stops after its first comparison."""

    def stopped(setup):
        yield next(losses.comparisons(setup))
        raise KeyboardInterrupt

    subjects = {"one": ("about", losses.comparisons), "two": ("about", stopped)}
    monkeypatch.setattr(benchmark, "SUBJECTS", subjects)
    with pytest.raises(KeyboardInterrupt):
        run("all", "--quick", "--output", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"one.json", "two.json"}
    assert json.loads((tmp_path / "two.json").read_text())["rows"]


def test_inference_takes_backbone_size_and_batch(monkeypatch):
    def prepare(setup, *, backbone, size, batch_size):
        return iter([(backbone, size, batch_size)])

    monkeypatch.setattr(benchmark.inference, "comparisons", prepare)
    parse = benchmark.build_argument_parser().parse_args
    arguments = ["inference", "--backbone", "mobilenet_v2", "--size", "64", "96", "--batch", "3"]
    assert list(benchmark.comparisons("inference", parse(arguments))(None)) == [("mobilenet_v2", (64, 96), 3)]
    assert list(benchmark.comparisons("inference", parse(["inference"]))(None)) == [("R50", None, 1)]


def test_mistakes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU here"):
        run("loss", "--device", "cuda")
    with pytest.raises(UserError, match="--amp needs a GPU"):
        run("loss", "--amp")
