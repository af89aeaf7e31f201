"""Every YAML of configs/ builds, and one of each kind trains and evaluates a step on the CPU.

The models keep their structure and lose their width: a ResNet-18 with GN (a random ResNet with frozen BN has features
of any size), 64 channels above it, few proposals.
"""

from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo as detectron2_model_zoo
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn

from fcos_rpn.config import read_config
from fcos_rpn.engine import yaml
from fcos_rpn.engine.setup import use_datasets
from fcos_rpn.model_zoo import get_config
from tests.tiny import tiny_batch, write_coco_folder

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml"))
MODELS = [name for name in CONFIGS if not Path(name).name.startswith("Base-")]
STOCK = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"

SIZES = [(64, 96), (90, 70)]
"""Height and width of the two images of a batch: both get padded."""


def shrink(cfg: CfgNode) -> CfgNode:
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 1, 64
    cfg.MODEL.RESNETS.NORM = "GN"
    cfg.MODEL.TIMM.NAME = "test_resnet"
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16] * len(cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS)
    # An untrained model is to show something.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    return cfg


def num_classes(cfg: CfgNode) -> int:
    of_one_stage = {"FCOS": cfg.MODEL.FCOS, "RetinaNet": cfg.MODEL.RETINANET}
    return of_one_stage.get(cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS).NUM_CLASSES


def stock_config_and_one_line() -> CfgNode:
    return read_config(detectron2_model_zoo.get_config_file(STOCK), ["MODEL.PROPOSAL_GENERATOR.NAME", "FCOSRPN"])


def losses_of(cfg: CfgNode, is_two_stage: bool) -> set[str]:
    of_fcos = {"cls", "loc", "ctr"} if cfg.MODEL.FCOS.CENTERNESS in ("reg", "cls", "iou") else {"cls", "loc"}
    if cfg.MODEL.META_ARCHITECTURE == "FCOS":
        return {f"loss_fcos_{name}" for name in of_fcos}
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return {"loss_cls", "loss_box_reg"}
    of_rpn = of_fcos if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "FCOSRPN" else {"cls", "loc"}
    names = {f"loss_rpn_{name}" for name in of_rpn}
    if is_two_stage:
        stages = ["_stage0", "_stage1", "_stage2"] if cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads" else [""]
        names |= {name + stage for stage in stages for name in ("loss_cls", "loss_box_reg")}
        names |= {"loss_mask"} if cfg.MODEL.MASK_ON else set()
        names |= {"loss_keypoint"} if cfg.MODEL.KEYPOINT_ON else set()
    return names


def kind_of(cfg: CfgNode) -> tuple[object, ...]:
    """The parts of a model and what it loses: one config of each kind is trained and evaluated."""
    model = cfg.MODEL
    of_generator = (model.PROPOSAL_GENERATOR.NAME, model.RPN.HEAD_NAME)
    of_heads = (model.ROI_HEADS.NAME, model.MASK_ON, model.KEYPOINT_ON)
    is_two_stage = "RCNN" in model.META_ARCHITECTURE
    return (
        *(model.META_ARCHITECTURE, model.BACKBONE.NAME, frozenset(losses_of(cfg, is_two_stage))),
        *(of_generator if is_two_stage or model.META_ARCHITECTURE.endswith("ProposalNetwork") else ()),
        *(of_heads if is_two_stage else ()),
    )


KINDS = {kind_of(get_config(name)): name for name in reversed(MODELS)}


@pytest.mark.parametrize("name", MODELS)
def test_config_fits_together(name):
    cfg = get_config(name)
    assert not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS  # images without boxes train
    assert max([cfg.SOLVER.WARMUP_ITERS, *cfg.SOLVER.STEPS]) < cfg.SOLVER.MAX_ITER
    has_both = cfg.MODEL.PROPOSAL_GENERATOR.NAME == "FCOSRPN" and "GeneralizedRCNN" in cfg.MODEL.META_ARCHITECTURE
    assert (0.3 if has_both else 1.0) == cfg.MODEL.RPN.LOSS_WEIGHT
    yaml.build_optimizer(cfg, build_model(shrink(cfg)))


@pytest.fixture(scope="module", params=[*KINDS.values(), f"Detectron2's {STOCK} and one line"])
def cfg(request) -> CfgNode:
    return shrink(get_config(request.param) if request.param in MODELS else stock_config_and_one_line())


@pytest.fixture(scope="module")
def model(cfg) -> nn.Module:
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("num_boxes", [(0, 3), (0, 0)], ids=["half empty", "empty"])
def test_training_step(cfg, model, num_boxes):
    batch = tiny_batch(
        SIZES,
        num_boxes,
        num_classes=num_classes(cfg),
        with_masks=cfg.MODEL.MASK_ON,
        num_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0,
    )
    model.train().zero_grad()
    with EventStorage():
        losses = model(batch)
    assert losses.keys() == losses_of(cfg, is_two_stage=hasattr(model, "roi_heads"))
    assert all(torch.isfinite(loss) for loss in losses.values())

    sum(losses.values()).backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    # Of several processes, each waits for all gradients of the others.
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in trained.values())


@torch.no_grad()
def test_evaluation_step(cfg, model):
    batch = [{"image": x["image"], "height": 128, "width": 192} for x in tiny_batch(SIZES, (0, 0))]
    outputs = model.eval()(batch)
    assert len(outputs) == len(batch)
    architecture = cfg.MODEL.META_ARCHITECTURE
    for output in outputs:
        assert ("instances" in output) == ("ProposalNetwork" not in architecture)
        assert ("proposals" in output) == ("Proposal" in architecture)
        if "instances" in output:
            found = output["instances"]
            assert_within_image(found, found.pred_boxes.tensor, cfg.TEST.DETECTIONS_PER_IMAGE)
            assert found.has("pred_masks") == cfg.MODEL.MASK_ON
            assert found.has("pred_keypoints") == cfg.MODEL.KEYPOINT_ON
        if "proposals" in output:
            proposed = output["proposals"]
            assert_within_image(proposed, proposed.proposal_boxes.tensor, cfg.MODEL.RPN.POST_NMS_TOPK_TEST)


def assert_within_image(instances: Instances, boxes: torch.Tensor, most: int) -> None:
    assert 0 < len(instances) <= most
    assert instances.image_size == (128, 192)
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([192, 128, 192, 128])).all()


def test_stock_config_and_one_line_train_and_evaluate(tmp_path, detectron2_restored):
    cfg = shrink(stock_config_and_one_line())
    cfg.DATASETS.TRAIN_FOLDERS = cfg.DATASETS.TEST_FOLDERS = [list(write_coco_folder(tmp_path / "coco"))]
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = cfg.SOLVER.MAX_ITER = 2
    use_datasets(cfg)
    results = yaml.build_trainer(cfg).train()
    assert results.keys() == {"bbox", "box_detections"}
