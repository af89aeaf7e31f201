"""COCO-Detection/faster_rcnn_fcos_rpn_R_50_FPN_1x.yaml as a LazyConfig, with every part of the model in view."""

from fcos_rpn.model_zoo import get_config

from .common.fcos_rpn import faster_rcnn
from .common.recipe import coco, sgd, steps, train

_cfg = get_config("COCO-Detection/faster_rcnn_fcos_rpn_R_50_FPN_1x.yaml")

model = faster_rcnn(_cfg)
dataloader = coco(_cfg)
optimizer = sgd(_cfg)
lr_multiplier = steps(_cfg)
train = train(_cfg)
