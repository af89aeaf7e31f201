"""COCO-Detection/fcos_rpn_R_50_FPN_1x.yaml as a LazyConfig, with every part of the model in view."""

from fcos_rpn.model_zoo import get_config

from .common.fcos_rpn import proposal_network
from .common.recipe import coco, sgd, steps, train

_cfg = get_config("COCO-Detection/fcos_rpn_R_50_FPN_1x.yaml")

model = proposal_network(_cfg)
dataloader = coco(_cfg)
optimizer = sgd(_cfg)
lr_multiplier = steps(_cfg)
train = train(_cfg)
