"""Every YAML of configs/ merges, builds, and runs a training and an evaluation step on the CPU.

The models keep their structure and lose their width: a ResNet-18 with GN (a random ResNet with frozen BN has features
of any size), 64 channels above it, few proposals.
"""

from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo as detectron2_model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn

from fcos_rpn import add_fcos_config
from fcos_rpn.config import merge_file
from fcos_rpn.engine.setup import use_datasets
from fcos_rpn.engine.trainer import Trainer
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
    cfg = get_cfg()
    add_fcos_config(cfg)
    merge_file(cfg, detectron2_model_zoo.get_config_file(STOCK))
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "FCOSRPN"
    return cfg


@pytest.fixture(scope="module", params=[*MODELS, f"Detectron2's {STOCK} and one line"])
def cfg(request) -> CfgNode:
    return shrink(get_config(request.param) if request.param in MODELS else stock_config_and_one_line())


@pytest.fixture(scope="module")
def model(cfg) -> nn.Module:
    torch.manual_seed(0)
    return build_model(cfg)


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


@pytest.mark.parametrize("name", CONFIGS)
def test_config_merges(name):
    assert get_config(name).VERSION == 2


@pytest.mark.parametrize("name", MODELS)
def test_optimizer(name):
    Trainer.build_optimizer(get_config(name), nn.Linear(1, 1))


@pytest.mark.parametrize("name", MODELS)
def test_images_without_boxes_train_and_the_schedule_fits_the_run(name):
    cfg = get_config(name)
    assert not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert max([cfg.SOLVER.WARMUP_ITERS, *cfg.SOLVER.STEPS]) < cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("evidence/")])
def test_under_roi_heads_the_losses_of_fcos_proposals_weigh_less(name):
    cfg = get_config(name)
    has_both = cfg.MODEL.PROPOSAL_GENERATOR.NAME == "FCOSRPN" and "GeneralizedRCNN" in cfg.MODEL.META_ARCHITECTURE
    weight = cfg.MODEL.RPN.LOSS_WEIGHT
    assert weight == (0.3 if has_both else 1.0)


@pytest.mark.parametrize("num_boxes", [(2, 3), (0, 2), (0, 0)], ids=["full", "half empty", "empty"])
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
        assert ("instances" in output) == (architecture != "ProposalNetwork")
        assert ("proposals" in output) == (architecture in ("ProposalNetwork", "GeneralizedRCNNWithProposals"))
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
    trainer = Trainer(cfg)
    trainer.train()
    results = Trainer.test(cfg, trainer.model)
    assert results.keys() == {"bbox", "box_detections"}
