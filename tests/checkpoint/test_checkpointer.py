import logging
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import Tensor, nn

from fcos_rpn import UserError
from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.checkpoint.checkpointer import CLASS_LAYERS
from tests.tiny import tiny_config
from tests.traps import Trap, full_disk

RCNN = "GeneralizedRCNNWithProposals"


def build(meta_architecture: str = "FCOS", *, seed: int = 0, **keys) -> nn.Module:
    """A tiny model with random weights; `keys` are config keys with __ for the points."""
    cfg = tiny_config(meta_architecture)
    cfg.merge_from_list([part for name, value in keys.items() for part in (name.replace("__", "."), value)])
    torch.manual_seed(seed)
    return build_model(cfg)


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def differing(weights: dict[str, Tensor], others: dict[str, Tensor]) -> set[str]:
    return {name for name in weights if not torch.equal(weights[name], others[name])}


def error_of_loading(model: nn.Module, path: Path | str, **options) -> str:
    with pytest.raises(UserError) as error:
        FCOSCheckpointer(model, **options).load(str(path))
    return str(error.value)


@pytest.fixture
def save(tmp_path):
    def save(content: object, name: str = "file.pth") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def test_round_trip_keeps_weights_and_all_else_that_was_saved(tmp_path):
    saved, loaded = build(seed=0), build(seed=1)
    optimizer = torch.optim.SGD(saved.parameters(), lr=0.25)
    FCOSCheckpointer(saved, str(tmp_path), optimizer=optimizer).save("model_0000006", iteration=6)
    assert differing(saved.state_dict(), loaded.state_dict())

    other_optimizer = torch.optim.SGD(loaded.parameters(), lr=0.5)
    checkpointer = FCOSCheckpointer(loaded, str(tmp_path), require_all=True, optimizer=other_optimizer)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000006.pth")
    assert checkpointer.resume_or_load("", resume=True) == {"iteration": 6}
    assert not differing(saved.state_dict(), loaded.state_dict())
    assert other_optimizer.param_groups[0]["lr"] == 0.25


def test_class_names_stand_beside_the_model_for_detectron2_too(tmp_path):
    model = build()
    FCOSCheckpointer(model, str(tmp_path), class_names=("red", "blue")).save("model", iteration=6)
    for loader in (FCOSCheckpointer, DetectionCheckpointer):
        loaded = build(seed=1)
        others = loader(loaded).load(str(tmp_path / "model.pth"))
        assert others == {"iteration": 6, "class_names": ["red", "blue"]}
        assert not differing(model.state_dict(), loaded.state_dict())


def test_failure_while_saving_leaves_the_old_file(tmp_path):
    model = build()
    checkpointer = FCOSCheckpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    old = copy_weights(model)
    with torch.no_grad():
        model.core.head.scales.fill_(7)

    size = (tmp_path / "model_final.pth").stat().st_size
    for name in ("model_final", "model_later"):
        message = rf"{name}\.pth: cannot be written \(File too large\).* --resume continues from .*final\.pth"
        with full_disk(size // 2), pytest.raises(UserError, match=message):
            checkpointer.save(name)
    assert {path.name for path in tmp_path.iterdir()} == {"model_final.pth", "last_checkpoint"}
    checkpointer.resume_or_load("", resume=True)
    assert not differing(old, model.state_dict())


class Counter:
    """A trainer's state."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


@pytest.fixture
def saved(tmp_path) -> Path:
    """The folder of a training that wrote checkpoints of iteration 1, 3, 5 and the final one of 6."""
    counter = Counter()
    checkpointer = FCOSCheckpointer(nn.Linear(2, 2), str(tmp_path / "output"), trainer=counter)
    (tmp_path / "output").mkdir()
    for counter.count in (1, 3, 5, 6):
        name = "model_final" if counter.count == 6 else f"model_{counter.count:07d}"
        checkpointer.save(name, iteration=counter.count)
    return tmp_path / "output"


def resumed_count(folder: Path, **options) -> int:
    counter = Counter()
    checkpointer = FCOSCheckpointer(nn.Linear(2, 2), str(folder), trainer=counter)
    checkpointer.save_to_disk = options.get("save_to_disk", True)
    checkpointer.resume_or_load("", resume=True)
    return counter.count


@pytest.fixture
def warnings(caplog):
    logger = logging.getLogger("fvcore.common.checkpoint")
    logger.addHandler(caplog.handler)
    # Without those that came twice, by the logger's parents as well.
    yield lambda: [*dict.fromkeys(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)]
    logger.removeHandler(caplog.handler)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BREAKAGES = {
    "missing": (Path.unlink, "there is no such file, though last_checkpoint names it"),
    "truncated": (truncate, "it is truncated, or no checkpoint"),
    "text": (lambda path: path.write_text("<html>404</html>"), "it is truncated, or no checkpoint"),
    "list": (lambda path: torch.save([1, 2], path), "it is not a checkpoint of a training: it lacks model, trainer"),
    "weights alone": (
        lambda path: torch.save({"model": nn.Linear(2, 2).state_dict()}, path),
        "it is not a checkpoint of a training: it lacks trainer",
    ),
}


def test_the_last_checkpoint_is_resumed(saved, warnings):
    assert resumed_count(saved) == 6
    (saved / "last_checkpoint").write_text("model_0000003.pth")
    assert resumed_count(saved) == 3
    assert warnings() == []


@pytest.mark.parametrize(("spoil", "reason"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_checkpoint_is_named_and_the_one_before_it_resumed(saved, warnings, spoil, reason):
    spoil(saved / "model_final.pth")
    assert resumed_count(saved) == 5
    (warning,) = warnings()
    assert warning.startswith(f"{saved / 'model_final.pth'}: {reason}")
    assert warning.endswith(f"\nContinuing from {saved / 'model_0000005.pth'} instead")


def test_only_checkpoints_of_earlier_iterations_come_before_one(saved, warnings):
    (saved / "last_checkpoint").write_text("model_0000003.pth")
    truncate(saved / "model_0000003.pth")
    assert resumed_count(saved) == 1  # not 5, which may be of an earlier training in this folder
    (saved / "last_checkpoint").write_text("model_0000005.pth")
    (saved / "model_0000005.pth").unlink()
    assert resumed_count(saved) == 1
    _, warning = warnings()
    assert "model_0000005.pth: there is no such file" in warning
    assert "model_0000003.pth: it is truncated" in warning


def test_without_any_whole_checkpoint_all_are_named(saved):
    for path in saved.glob("*.pth"):
        truncate(path)
    with pytest.raises(UserError, match="no whole checkpoint to continue from") as error:
        resumed_count(saved)
    message = str(error.value)
    assert [message.count(f"{path}: it is truncated") for path in saved.glob("*.pth")] == [1, 1, 1, 1]
    assert f"remove {saved}/last_checkpoint to start from the beginning" in message


def test_half_written_files_are_removed_by_the_next_training_alone(saved):
    partials = [saved / "model_0000007.pth.partial", saved / "last_checkpoint.partial"]
    for partial in partials:
        partial.write_text("half")
    FCOSCheckpointer(nn.Linear(2, 2), str(saved)).resume_or_load("", resume=True)  # evaluates while a training writes
    assert resumed_count(saved, save_to_disk=False) == 6  # another process of the same training
    assert all(partial.exists() for partial in partials)
    assert resumed_count(saved) == 6
    assert not any(partial.exists() for partial in partials)


@pytest.mark.parametrize("keyword", [{"save_dir": ""}, {"save_to_disk": False}])
def test_nothing_is_saved_without_a_folder_or_by_other_processes(tmp_path, monkeypatch, keyword):
    monkeypatch.chdir(tmp_path)
    FCOSCheckpointer(build(), **{"save_dir": str(tmp_path), **keyword}).save("model")
    assert not list(tmp_path.iterdir())


def test_evaluation_without_weights_is_an_error():
    assert "evaluation needs weights" in error_of_loading(build(), "", require_all=True)
    assert FCOSCheckpointer(build()).load("") == {}


def test_a_backbone_alone_starts_a_training_but_no_evaluation(save):
    model = build(seed=0)
    own = copy_weights(model)
    backbone = {name: w for name, w in build(seed=1).state_dict().items() if name.startswith("backbone.bottom_up.")}
    path = save({"model": backbone})
    message = error_of_loading(model, path, require_all=True)
    num_missing = len(own) - len(backbone)
    assert message.startswith(f"{path}: the checkpoint lacks {num_missing} of the model's {len(own)} weights")
    assert "backbone.fpn_lateral3.weight" in message

    FCOSCheckpointer(model).load(str(path))
    loaded = model.state_dict()
    assert not differing(backbone, loaded)
    assert not differing({name: weight for name, weight in own.items() if name not in backbone}, loaded)


@pytest.mark.parametrize("options", [{}, {"require_all": True}, {"reset_class_layers": True}])
def test_other_shapes_are_an_error_and_listed(save, options):
    # The class layer differs, too, which must not hide the rest.
    path = save(build(MODEL__FPN__OUT_CHANNELS="96", MODEL__FCOS__NUM_CLASSES="5").state_dict())
    message = error_of_loading(build(), path, **options)
    assert message.startswith(f"{path}: the checkpoint does not fit the model:\n")
    assert "\n  core.head.bbox_pred.weight: (4, 96, 3, 3) in the file, (4, 64, 3, 3) in the model\n" in message


CLASS_LAYERS_OF_FCOS = """\
  core.head.cls_logits.weight: (5, 64, 3, 3) in the file, (2, 64, 3, 3) in the model
  core.head.cls_logits.bias: (5,) in the file, (2,) in the model"""


def test_class_layers_of_another_shape_start_anew_only_if_asked_for_and_never_in_an_evaluation(save, warnings):
    saved, model = build(seed=0, MODEL__FCOS__NUM_CLASSES="5"), build(seed=1)
    own = copy_weights(model)
    path = save(saved.state_dict())
    for options in ({}, {"require_all": True, "reset_class_layers": True}):
        message = error_of_loading(model, path, **options)
        assert message.startswith(f"{path}: the checkpoint was trained on other classes:\n{CLASS_LAYERS_OF_FCOS}\n")
        assert ("--reset-class-layers" in message) == (not options)

    model.load_state_dict(own)
    FCOSCheckpointer(model, reset_class_layers=True).load(str(path))
    class_layers = {"core.head.cls_logits.weight", "core.head.cls_logits.bias"}
    loaded = model.state_dict()
    assert not differing({name: own[name] for name in class_layers}, loaded)
    others = {name: weight for name, weight in saved.state_dict().items() if name not in class_layers}
    assert not differing(others, loaded)
    assert CLASS_LAYERS_OF_FCOS in warnings()[0]


@pytest.mark.parametrize("roi_heads", ["StandardROIHeads", "CascadeROIHeads"])
def test_class_layers_are_those_that_change_with_the_classes(roi_heads):
    def shapes(num_classes: int, num_keypoints: int) -> dict[str, torch.Size]:
        keys = {
            "MODEL__ROI_HEADS__NAME": roi_heads,
            "MODEL__ROI_HEADS__NUM_CLASSES": str(num_classes),
            "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": str(roi_heads == "CascadeROIHeads"),
            "MODEL__MASK_ON": "True",
            "MODEL__ROI_MASK_HEAD__NUM_CONV": "1",
            "MODEL__KEYPOINT_ON": "True",
            "MODEL__ROI_KEYPOINT_HEAD__CONV_DIMS": "(8,)",
            "MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": str(num_keypoints),
        }
        return {name: weight.shape for name, weight in build("GeneralizedRCNN", **keys).state_dict().items()}

    two, five = shapes(2, 3), shapes(5, 7)
    changed = {name for name in two if two[name] != five[name]}
    assert len(changed) >= 6  # weight and bias of classes, masks and keypoints
    assert all(any(layer in name for layer in CLASS_LAYERS) for name in changed)


def test_one_stage_weights_start_a_two_stage_training(save):
    one_stage, rcnn = build("FCOS", seed=0), build(RCNN, seed=1)
    own = copy_weights(rcnn)
    path = save({"model": one_stage.state_dict(), "iteration": 5})
    # Two classes of the detector against the one of the proposal generator.
    assert "proposal_generator.core.head.cls_logits.bias: (2,) in the file, (1,) in the" in error_of_loading(rcnn, path)

    FCOSCheckpointer(rcnn, reset_class_layers=True).load(str(path))
    loaded = rcnn.state_dict()
    class_layers = {f"proposal_generator.core.head.cls_logits.{name}" for name in ("weight", "bias")}
    renamed = {
        f"proposal_generator.{name}" if name.startswith("core.") else name: weight
        for name, weight in one_stage.state_dict().items()
    }
    assert differing(renamed | {name: own[name] for name in class_layers}, loaded) == set()
    assert {name for name in loaded if ".core." in name} == {name for name in renamed if ".core." in name}


def test_proposal_generator_starts_a_one_stage_training(save):
    proposals, one_stage = build("ProposalNetwork", seed=0), build("FCOS", seed=1, MODEL__FCOS__NUM_CLASSES="1")
    FCOSCheckpointer(one_stage, require_all=True).load(str(save(proposals.state_dict())))
    weights = {name.removeprefix("proposal_generator."): weight for name, weight in proposals.state_dict().items()}
    assert not differing(one_stage.state_dict(), weights)


def test_proposal_networks_weights_load_into_faster_rcnn_unchanged(save):
    proposals, rcnn = build("ProposalNetwork", seed=0), build(RCNN, seed=1)
    FCOSCheckpointer(rcnn).load(str(save(proposals.state_dict())))
    assert not differing(proposals.state_dict(), rcnn.state_dict())


@pytest.mark.parametrize("prefix", ["features.", ""], ids=["whole network", "features alone"])
def test_torchvisions_weights_load_as_they_are(save, prefix):
    torch.manual_seed(1)
    network = torchvision.models.mobilenet_v2(weights=None)
    source = network if prefix else network.features
    model = build(seed=0, MODEL__TORCHVISION__NAME="mobilenet_v2")
    FCOSCheckpointer(model).load(str(save(source.state_dict())))
    body = model.backbone.bottom_up.body.state_dict()
    features = network.features.state_dict()
    assert not differing({f"features.{name}": weight for name, weight in features.items()}, body)
    assert body.keys() == {f"features.{name}" for name in features}


class Detector(nn.Module):
    """The class layer of an FCOS, and a layer below it."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.core = nn.Module()
        self.core.head = nn.Sequential()
        self.core.head.bbox_tower = nn.Linear(3, 3)
        self.core.head.cls_logits = nn.Linear(3, num_classes)


@pytest.mark.parametrize(
    "wrapped",
    [
        "module.{}",  # DistributedDataParallel
        "module.module.{}",  # its average
        "model.{}",  # Lightning
        "_orig_mod.{}",
        "_orig_mod.module.{}",
    ],
)
def test_names_of_wrapped_models_load(save, wrapped):
    saved, model = Detector(), Detector()
    path = save({"model": {wrapped.format(name): weight for name, weight in saved.state_dict().items()}})
    FCOSCheckpointer(model, require_all=True).load(str(path))
    assert not differing(saved.state_dict(), model.state_dict())
    assert "was trained on other classes" in error_of_loading(Detector(3), path)


def test_compiled_models_are_saved_and_loaded_under_plain_names(tmp_path):
    models = [Detector(), Detector(), torch.compile(Detector(), backend="eager")]
    plain, compiled_core, _ = models
    compiled_core.core = torch.compile(compiled_core.core, backend="eager")
    for model in models:
        FCOSCheckpointer(model, str(tmp_path)).save("model")
        assert torch.load(tmp_path / "model.pth")["model"].keys() == plain.state_dict().keys()
        for other in models:
            FCOSCheckpointer(other, require_all=True).load(str(tmp_path / "model.pth"))
            assert [*map(torch.equal, other.state_dict().values(), model.state_dict().values())] == [True] * 4
    torch.save({"core.head.cls_logits.bias": torch.zeros(2)}, tmp_path / "part.pth")
    message = error_of_loading(compiled_core, tmp_path / "part.pth", require_all=True)
    assert "lacks 3 of the model's 4 weights, among them core.head.bbox_tower.weight" in message


@pytest.fixture
def red_and_blue(tmp_path) -> Path:
    """The folder of a training."""
    FCOSCheckpointer(Detector(), str(tmp_path), class_names=["red", "blue"], trainer=Counter()).save("model")
    return tmp_path


def options_of(kind: str) -> dict[str, Any]:
    options: dict[str, dict[str, Any]] = {"evaluated": {"require_all": True}, "resumed": {"trainer": Counter()}}
    return options.get(kind, {})


@pytest.mark.parametrize("kind", ["evaluated", "resumed", "started from"])
def test_classes_in_another_order_are_an_error(red_and_blue, kind):
    message = error_of_loading(Detector(), red_and_blue / "model.pth", class_names=["blue", "red"], **options_of(kind))
    assert "in another order:\n  checkpoint: red, blue\n  data: blue, red\n" in message
    assert ("--reset-class-layers" in message) == (kind != "evaluated")
    assert ("without --resume" in message) == (kind == "resumed")


@pytest.mark.parametrize("kind", ["evaluated", "resumed", "started from"])
def test_classes_of_other_names_are_a_warning(red_and_blue, warnings, kind):
    FCOSCheckpointer(Detector(), class_names=["red", "bleu"], **options_of(kind)).load(str(red_and_blue / "model.pth"))
    assert warnings() == ["The checkpoint and the data have other names for classes: blue -> bleu"]


def test_class_layers_start_anew_also_where_only_names_differ(red_and_blue, warnings):
    model = Detector()
    own = copy_weights(model)
    FCOSCheckpointer(model, class_names=["blue", "red"], reset_class_layers=True).load(str(red_and_blue / "model.pth"))
    kept = {name for name in own if torch.equal(own[name], model.state_dict()[name])}
    assert kept == {"core.head.cls_logits.weight", "core.head.cls_logits.bias"}
    assert "The classes have other names, so their layers start anew" in warnings()[0]


def test_a_proposal_generator_has_no_classes_to_compare(tmp_path, warnings):
    saved, model = nn.Module(), nn.Module()
    saved.proposal_generator, model.proposal_generator = Detector(1), Detector(1)
    FCOSCheckpointer(saved, str(tmp_path), class_names=["red", "blue"]).save("model")
    FCOSCheckpointer(model, class_names=["blue", "red"], reset_class_layers=True).load(str(tmp_path / "model.pth"))
    assert not differing(saved.state_dict(), model.state_dict())
    assert warnings() == []


@pytest.mark.parametrize("reset_class_layers", [False, True])
def test_a_training_is_not_resumed_with_other_classes(red_and_blue, reset_class_layers):
    message = error_of_loading(
        Detector(3), red_and_blue / "model.pth", trainer=Counter(), reset_class_layers=reset_class_layers
    )
    assert "was trained on other classes (red, blue):\n  core.head.cls_logits.weight: (2, 3)" in message
    assert "start a new training from these weights: without --resume" in message
    assert message.endswith("and --reset-class-layers")


def trainer_of(optimizer: torch.optim.Optimizer) -> SimpleNamespace:
    return SimpleNamespace(state_dict=lambda: {"optimizer": optimizer.state_dict()})


def sgd(num_groups: int = 2) -> torch.optim.Optimizer:
    parameters = list(Detector().parameters())
    return torch.optim.SGD([{"params": parameters[:2]}, {"params": parameters[2:]}][:num_groups], lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        (trainer_of(sgd(1)), r"its optimizer has groups of \[2, 2\] parameters, this one's \[2\]"),
        (trainer_of(torch.optim.AdamW(sgd().param_groups)), "it has another optimizer, without betas, eps"),
        (Counter(), "KeyError: 'count'"),
    ],
    ids=["groups", "optimizer", "state"],
)
def test_a_state_of_another_training_is_no_broken_file(tmp_path, trainer, reason):
    FCOSCheckpointer(Detector(), str(tmp_path), trainer=trainer_of(sgd())).save("model")
    checkpointer = FCOSCheckpointer(Detector(), str(tmp_path), trainer=trainer)
    message = rf"model\.pth: its weights fit, but the state of its trainer is .*: {reason}\.\n"
    with pytest.raises(UserError, match=message):
        checkpointer.resume_or_load("", resume=True)


def test_averaged_weights_are_for_evaluation_and_not_for_resuming(save):
    last, averaged, model = Detector(), Detector(), Detector()
    path = save({"model": last.state_dict(), "model_ema": averaged.state_dict(), "trainer": {"count": 3}})
    FCOSCheckpointer(model, require_all=True).load(str(path))
    assert not differing(averaged.state_dict(), model.state_dict())
    FCOSCheckpointer(model, trainer=Counter()).load(str(path))
    assert not differing(last.state_dict(), model.state_dict())


def test_caffe2s_names_are_translated_and_their_shapes_checked(tmp_path):
    path = tmp_path / "R-18.pkl"
    stem = np.full((64, 3, 7, 7), 0.5, dtype=np.float32)
    weights = {"conv1_w": stem, "conv1_w_momentum": np.ones(1), "fc1000_w": np.ones((1000, 512))}
    path.write_bytes(pickle.dumps(weights))
    model = build(MODEL__BACKBONE__NAME="build_p5_p67_resnet_fpn_backbone")
    FCOSCheckpointer(model).load(str(path))
    assert torch.equal(model.backbone.bottom_up.stem.conv1.weight, torch.from_numpy(stem))

    weights["res2_0_branch2a_w"] = np.ones((64, 64, 1, 1))  # a bottleneck's first convolution
    path.write_bytes(pickle.dumps(weights))
    message = error_of_loading(model, path)
    assert "backbone.bottom_up.res2.0.conv1.weight: (64, 64, 1, 1) in the file, (64, 64, 3, 3) in the model" in message


def test_the_last_finite_checkpoint_is_this_trainings_own(tmp_path):
    model = nn.Linear(2, 2)
    checkpointer = FCOSCheckpointer(model, str(tmp_path), trainer=Counter())
    FCOSCheckpointer(model, str(tmp_path), trainer=Counter()).save("model_0000009")  # of an earlier training
    assert checkpointer.last_finite() is None
    checkpointer.save("model_0000010")
    assert checkpointer.last_finite() == tmp_path / "model_0000010.pth"
    with torch.no_grad():
        model.weight[0, 0] = torch.inf
    checkpointer.save("model_0000011")
    checkpointer.save("model_final")
    assert checkpointer.last_finite() == tmp_path / "model_0000010.pth"
    (tmp_path / "model_0000010.pth").write_bytes(b"PK")
    (tmp_path / "model_0000009.pth").unlink()
    assert checkpointer.last_finite() is None


def test_the_checkpoint_that_a_training_was_resumed_from_is_its_last(saved):
    checkpointer = FCOSCheckpointer(nn.Linear(2, 2), str(saved), trainer=Counter())
    (saved / "last_checkpoint").write_text("model_0000003.pth")
    checkpointer.resume_or_load("", resume=True)
    assert checkpointer.last_finite() == saved / "model_0000003.pth"


def test_code_in_the_last_checkpoint_is_not_executed(saved, warnings):
    torch.save({"model": {}, "trainer": Trap(saved / "trap")}, saved / "model_final.pth")
    assert resumed_count(saved) == 5
    assert "posix.mkdir" in warnings()[0]
    assert not (saved / "trap").exists()


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_file_none_of_whose_weights_fits_is_an_error(save, norm):
    path = save({"model": {"conv.weight": torch.zeros(3)}})
    message = error_of_loading(build(MODEL__TORCHVISION__NORM=norm), path)
    assert message.startswith(f"{path}: none of the checkpoint's 1 weights is one of the model's ")
