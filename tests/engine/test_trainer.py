import itertools
import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from fcos_rpn import UserError
from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.engine.divergence import TrainingDiverged
from fcos_rpn.engine.setup import use_datasets
from fcos_rpn.engine.trainer import Trainer
from fcos_rpn.engine.yaml import (
    build_optimizer,
    build_trainer,
    evaluate_weights,
    with_test_time_augmentation,
)
from tests.tiny import CATEGORIES, tiny_config

RCNN = "GeneralizedRCNNWithProposals"
AP_SECTIONS = {"bbox", "box_detections"}
AR_SECTIONS = {"box_proposals"}


@pytest.fixture
def config(tmp_path, coco_folder):
    def config(meta_architecture: str = "FCOS", proposal_generator: str = "FCOSRPN", **solver) -> CfgNode:
        """Trains and tests on a folder; `solver` are keys of SOLVER."""
        cfg = tiny_config(meta_architecture, proposal_generator)
        cfg.MODEL.FCOS.SCORE_THRESH_TEST = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # so that it detects untrained
        cfg.DATASETS.TRAIN_FOLDERS = cfg.DATASETS.TEST_FOLDERS = [coco_folder]
        cfg.OUTPUT_DIR = str(tmp_path / "output")
        for name, value in solver.items():
            cfg.SOLVER[name] = value
        use_datasets(cfg)
        return cfg

    return config


@pytest.fixture
def train_loop_log(caplog):
    """What the training loop logs, tracebacks included."""
    logger = logging.getLogger("fcos_rpn.engine.trainer")
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def train(cfg: CfgNode, *, resume: bool = False) -> Trainer:
    trainer = build_trainer(cfg)
    trainer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("meta_architecture", "proposal_generator", "sections"),
    [
        ("FCOS", "FCOSRPN", AP_SECTIONS | AR_SECTIONS),
        (RCNN, "FCOSRPN", AP_SECTIONS | AR_SECTIONS),
        (RCNN, "RPN", AP_SECTIONS | AR_SECTIONS),
        ("GeneralizedRCNN", "FCOSRPN", AP_SECTIONS),
        ("ProposalNetwork", "FCOSRPN", AR_SECTIONS),
    ],
)
def test_training_ends_with_weights_and_results(config, meta_architecture, proposal_generator, sections):
    cfg = config(meta_architecture, proposal_generator)
    train(cfg)

    output = Path(cfg.OUTPUT_DIR)
    assert torch.load(output / "model_final.pth", weights_only=True)["class_names"] == list(CATEGORIES.values())
    results = json.loads((output / "results.json").read_text())
    (name,) = cfg.DATASETS.TEST
    assert results.keys() == {name}
    assert results[name].keys() == sections
    for section in AR_SECTIONS & sections:
        assert results[name][section].keys() == {f"AR{area}@{n}" for area in ("", "s", "m", "l") for n in (100, 1000)}
    if "bbox" in sections:
        assert results[name]["bbox"].keys() >= {"AP", "AP50", "AP75", *(f"AP-{name}" for name in CATEGORIES.values())}

    detections = output / "inference" / name / "coco_instances_results.json"
    assert detections.exists() == ("bbox" in sections)
    files = [path.rename(f"{path}.before") for path in (output / "results.json", detections) if path.exists()]
    cfg.MODEL.WEIGHTS = str(output / "model_final.pth")
    evaluate_weights(cfg)
    for before in files:
        assert json.loads(before.with_suffix("").read_text()) == json.loads(before.read_text()) != []


@pytest.mark.parametrize("part", ["core", "whole model"])
def test_compiled_models_train_and_are_evaluated_and_saved_under_plain_names(config, part):
    cfg = config()
    model = build_model(cfg)
    names = model.state_dict().keys()
    if part == "core":
        model.core = torch.compile(model.core, backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    results = build_trainer(cfg, model=model).train()
    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    assert torch.load(cfg.MODEL.WEIGHTS)["model"].keys() == names
    assert json.dumps(evaluate_weights(cfg)) == json.dumps(results)
    torch._dynamo.reset()


def with_random_weights(cfg: CfgNode) -> CfgNode:
    Path(cfg.OUTPUT_DIR).mkdir()
    torch.manual_seed(0)
    FCOSCheckpointer(build_model(cfg), cfg.OUTPUT_DIR).save("model_final")
    return cfg


@pytest.mark.parametrize("meta_architecture", ["FCOS", RCNN])
def test_evaluation_with_test_time_augmentation(config, meta_architecture):
    cfg = with_random_weights(config(meta_architecture))
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES = True, (32, 64)
    results = evaluate_weights(cfg, resume=True)
    assert results.keys() == AP_SECTIONS | AR_SECTIONS | {f"{section}_TTA" for section in AP_SECTIONS}
    (of_file,) = json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text()).values()
    assert of_file.keys() == results.keys()


def test_test_time_augmentation_resizes_the_picture_itself(config):
    """From the smaller pictures of the plain evaluation, its own could not be made."""
    cfg = with_random_weights(config())

    def detections(folder: str) -> torch.Tensor:
        (name,) = cfg.DATASETS.TEST
        file = Path(cfg.OUTPUT_DIR, folder, "inference", name, "coco_instances_results.json")
        return torch.tensor(
            [[found["image_id"], found["score"], *found["bbox"]] for found in json.loads(file.read_text())]
        )

    assert cfg.INPUT.MIN_SIZE_TEST == 64
    evaluate_weights(cfg, resume=True)
    of_64 = detections("")
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = True, (64,), False
    evaluate_weights(cfg, resume=True)
    assert detections("").shape != of_64.shape
    # Detections of nearly the same score may stand the other way round.
    distances = torch.cdist(detections("TTA"), of_64, compute_mode="donot_use_mm_for_euclid_dist")
    assert len(distances) == len(of_64)
    assert distances.amin(dim=0).max() < 1e-3
    assert distances.amin(dim=1).max() < 1e-3


def test_models_without_test_time_augmentation_are_named():
    cfg = tiny_config("ProposalNetwork")
    with pytest.raises(UserError, match=r"TEST\.AUG\.ENABLED True: .* not for this ProposalNetwork; set it False"):
        with_test_time_augmentation(cfg, build_model(cfg))
    cfg = tiny_config(RCNN)
    rcnn = build_model(cfg)
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(UserError, match=f"R-CNNs without keypoints .* not for this {RCNN}"):
        with_test_time_augmentation(cfg, rcnn)
    cfg.TEST.AUG.MIN_SIZES = ()
    with pytest.raises(UserError, match=r"TEST\.AUG\.MIN_SIZES is empty"):
        with_test_time_augmentation(cfg, rcnn)


@pytest.mark.parametrize("meta_architecture", ["FCOS", RCNN])
def test_a_killed_and_resumed_training_ends_with_the_same_bits(config, tmp_path, monkeypatch, meta_architecture):
    cfg = config(meta_architecture, MAX_ITER=5, CHECKPOINT_PERIOD=2, BASE_LR=0.01, STEPS=(3,), WARMUP_ITERS=2)
    cfg.MODEL.TORCHVISION.NORM = "BN"  # its statistics have to go on as well
    cfg.INPUT.MIN_SIZE_TRAIN = (64, 80)
    cfg.DATASETS.TEST = ()
    cfg.SEED = 1
    torch.manual_seed(0)  # of the random weights
    build_trainer(cfg).train()
    undisturbed = torch.load(Path(cfg.OUTPUT_DIR, "model_final.pth"))

    cfg.OUTPUT_DIR = str(tmp_path / "killed")
    cfg.DATALOADER.NUM_WORKERS = 1
    torch.manual_seed(0)
    killed = build_trainer(cfg)
    run_step = killed.run_step

    def step_or_die() -> None:
        if killed.iter == 3:
            raise KeyboardInterrupt
        run_step()

    monkeypatch.setattr(killed, "run_step", step_or_die)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    cfg.DATALOADER.NUM_WORKERS = 0
    resumed = build_trainer(cfg)  # of other random weights
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    resumed.train()

    final = torch.load(Path(cfg.OUTPUT_DIR, "model_final.pth"))
    weights, others = final["model"], undisturbed["model"]
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    momenta, others = (content["trainer"]["optimizer"]["state"] for content in (final, undisturbed))
    assert len(momenta) == len(others) > 0
    assert all(torch.equal(momenta[i]["momentum_buffer"], others[i]["momentum_buffer"]) for i in others)


def test_a_training_killed_before_its_final_checkpoint_writes_that_when_resumed(config):
    cfg = config(CHECKPOINT_PERIOD=2)
    cfg.DATASETS.TEST = ()
    train(cfg)
    output = Path(cfg.OUTPUT_DIR)
    (output / "model_final.pth").rename(output / "before.pth")
    (output / "last_checkpoint").write_text("model_0000001.pth")
    train(cfg, resume=True)
    final, before = (torch.load(output / name) for name in ("model_final.pth", "before.pth"))
    assert final["iteration"] == final["trainer"]["iteration"] == 1
    assert all(torch.equal(weight, before["model"][name]) for name, weight in final["model"].items())
    assert (output / "last_checkpoint").read_text() == "model_final.pth"


def test_without_resume_an_old_output_is_not_taken_up(config):
    train(config())
    trainer = build_trainer(config())
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0


def test_a_single_value_to_normalize_is_named(config):
    """P7 of one image of 64 pixels is a single cell."""
    cfg = config(IMS_PER_BATCH=1)
    cfg.MODEL.FCOS.NORM = "BN"
    with pytest.raises(UserError, match=r"has one cell, and the batch one image .* normalize with GN .*1, 64, 1, 1\]"):
        train(cfg)


def test_divergence_says_when_and_what_to_do(config, train_loop_log):
    """In the last iteration, after which Detectron2 would still evaluate."""
    cfg = config(RCNN, BASE_LR=1e30, MAX_ITER=2)
    with pytest.raises(TrainingDiverged) as error:
        train(cfg)
    first, images, advice = str(error.value).splitlines()
    assert first.startswith("training diverged at iteration 1, learning rate 1e+30: FCOSRPN predicted infinite or NaN")
    images = images.removeprefix("Images: ").split(", ")
    assert {Path(image).name for image in images} < {"1.png", "2.png", "3.png", "4.png"}
    assert advice == (
        "There is no checkpoint yet. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS, or set "
        "SOLVER.CLIP_GRADIENTS.ENABLED True"
    )
    assert not Path(cfg.OUTPUT_DIR, "results.json").exists()
    assert "Training from iteration 0 to 2" in train_loop_log.text
    assert "Traceback" not in train_loop_log.text


def test_steps_are_skipped_and_counted_until_there_is_one_too_many(config):
    cfg = config(MAX_ITER=5, SKIP_NONFINITE_LOSSES=1, CHECKPOINT_PERIOD=1)
    cfg.DATASETS.TEST = ()
    cfg.MODEL.TORCHVISION.NORM = "BN"
    trainer = build_trainer(cfg)
    forward = trainer.model.forward

    def spoilt(batch):
        losses = forward(batch)
        return {**losses, "loss_fcos_loc": losses["loss_fcos_loc"] / 0} if trainer.iter in (1, 3, 4) else losses

    trainer.model.forward = spoilt
    with pytest.raises(TrainingDiverged, match=r"at iteration 4, .*: loss_fcos_loc is inf\n") as error:
        trainer.train()
    assert f"finite weights is {Path(cfg.OUTPUT_DIR, 'model_0000003.pth')}. " in str(error.value)

    saved = [torch.load(Path(cfg.OUTPUT_DIR, f"model_{number:07d}.pth")) for number in range(4)]
    is_same = [
        all(torch.equal(weight, after["model"][name]) for name, weight in before["model"].items())
        for before, after in itertools.pairwise(saved)
    ]
    assert is_same == [True, False, True]
    assert saved[3]["trainer"]["hooks"]["DivergenceGuard"] == {"num_skipped": 2, "num_in_a_row": 1}
    lines = [json.loads(line) for line in Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()]
    counted = {line["iteration"]: line["num_skipped_steps"] for line in lines if "num_skipped_steps" in line}
    assert counted == {3: 2}  # Detectron2 writes the latest value every 20 iterations and at the end


def test_settings_that_the_checkpoint_overrules_are_said(config, caplog):
    logging.getLogger("fcos_rpn.engine.replay").addHandler(caplog.handler)
    train(config(BASE_LR=0.02, MAX_ITER=1))
    resumed = train(config(BASE_LR=0.01, WEIGHT_DECAY=0.5, MAX_ITER=2), resume=True)
    logging.getLogger("fcos_rpn.engine.replay").removeHandler(caplog.handler)
    assert resumed.optimizer.param_groups[0]["initial_lr"] == 0.02
    last = Path(resumed.output_dir, "model_final.pth")
    messages = [*dict.fromkeys(record.getMessage() for record in caplog.records if "ignored" in record.getMessage())]
    assert messages == [  # and none of the momentum, which is the same
        f"SOLVER.{key} {given:g} is ignored: the checkpoint's training has {own:g} and goes on with it. To train with "
        f"another one, start anew from its weights, without --resume: MODEL.WEIGHTS {last} and another OUTPUT_DIR"
        for key, given, own in (("BASE_LR", 0.01, 0.02), ("WEIGHT_DECAY", 0.5, 0.0001))
    ]


@pytest.mark.parametrize(
    ("error", "is_logged"),
    [(ZeroDivisionError("a mistake of ours"), True), (RuntimeError("DataLoader worker (pid 7) is killed"), False)],
)
def test_other_errors_are_logged_with_their_traceback(config, train_loop_log, monkeypatch, error, is_logged):
    def fail(*_: object) -> None:
        raise error

    trainer = build_trainer(config())
    monkeypatch.setattr(trainer.model, "forward", fail)
    with pytest.raises(type(error)):
        trainer.train()
    assert ("Traceback" in train_loop_log.text) is is_logged


def test_float16_on_the_cpu_is_refused(config):
    cfg = config()
    cfg.SOLVER.AMP.ENABLED = True
    with pytest.raises(UserError, match=r"SOLVER\.AMP\.PRECISION float16 needs a GPU"):
        build_trainer(cfg)
    cfg.SOLVER.AMP.PRECISION = "float8"
    with pytest.raises(UserError, match="must be one of 'float16', 'bfloat16'"):
        build_trainer(cfg)


def test_bfloat16_trains_evaluates_and_resumes_on_the_cpu(config):
    cfg = config(MAX_ITER=3, CHECKPOINT_PERIOD=2, BASE_LR=0.01)
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.PRECISION, cfg.SEED = True, "bfloat16", 1
    seen: list[torch.dtype] = []
    torch.manual_seed(0)  # of the random weights
    trainer = build_trainer(cfg)
    convolution = next(module for module in trainer.model.backbone.modules() if isinstance(module, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    trainer.train()
    assert set(seen) == {torch.bfloat16}
    assert all(weight.dtype == torch.float32 for weight in trainer.raw_model.parameters())
    Path(cfg.OUTPUT_DIR, "last_checkpoint").write_text("model_0000001.pth")
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 2
    weights = resumed.raw_model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in trainer.raw_model.state_dict().items())


def test_a_checkpoint_of_detectron2s_default_trainer_is_resumed(config):
    first = train(config(MAX_ITER=1))
    file = Path(first.output_dir, "model_final.pth")
    content = torch.load(file)
    content["trainer"]["_trainer"] = {"iteration": 0, "optimizer": content["trainer"].pop("optimizer")}
    torch.save(content, file)
    resumed = build_trainer(config(MAX_ITER=2))
    resumed.resume_or_load()
    assert resumed.start_iter == 1
    momenta, loaded = (trainer.optimizer.state_dict()["state"] for trainer in (first, resumed))
    assert all(torch.equal(momenta[i]["momentum_buffer"], loaded[i]["momentum_buffer"]) for i in momenta)


def test_batch_must_be_divisible_among_the_processes(monkeypatch):
    cfg = tiny_config()
    cfg.SOLVER.IMS_PER_BATCH = 5
    monkeypatch.setattr("fcos_rpn.engine.trainer.comm.get_world_size", lambda: 2)
    with pytest.raises(UserError, match="IMS_PER_BATCH 5 cannot be divided among 2 processes"):
        build_trainer(cfg)


def clip_by(kind: str) -> CfgNode:
    cfg = tiny_config()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = 1.0, 0.0, 0.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 5.0
    return cfg


# Gradients of norms 30 and 40, of 50 together: 5 / 50 of each; or each bounded by 5 by itself.
@pytest.mark.parametrize(("kind", "expected"), [("full_model", [-3.0, -4.0]), ("norm", [-5.0, -5.0])])
def test_gradients_are_clipped(kind, expected):
    model = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = build_optimizer(clip_by(kind), model)
    model.weight.grad, model.bias.grad = torch.tensor([[30.0]]), torch.tensor([40.0])
    optimizer.step()
    assert [model.weight.item(), model.bias.item()] == pytest.approx(expected, rel=1e-5)


def test_an_unknown_way_of_clipping_is_named():
    with pytest.raises(UserError, match=r"CLIP_TYPE must be one of 'value', 'norm', 'full_model', not 'all'"):
        build_optimizer(clip_by("all"), torch.nn.Linear(1, 1))


def test_batches_for_a_reference_number_of_processes(config):
    cfg = config(REFERENCE_WORLD_SIZE=3, IMS_PER_BATCH=4)
    with pytest.raises(
        UserError, match=r"IMS_PER_BATCH 4 cannot be divided among the SOLVER.REFERENCE_WORLD_SIZE of 3"
    ):
        build_trainer(cfg)
    # 6 images for 3 processes are 2 for the one that there is, at a third of the rate and three times the iterations.
    scaled = build_trainer(config(REFERENCE_WORLD_SIZE=3, IMS_PER_BATCH=6, BASE_LR=0.03, MAX_ITER=2, WARMUP_ITERS=0))
    assert (scaled.data_loader.batch_size, scaled.max_iter) == (2, 6)
    assert scaled.optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.01)
