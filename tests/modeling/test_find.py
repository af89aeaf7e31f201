import pytest
from detectron2.modeling import build_model
from torch import nn

from fcos_rpn.modeling.find import find_fcos
from tests.tiny import tiny_config


@pytest.mark.parametrize("architecture", ["FCOS", "ProposalNetwork"])
def test_finds_core_and_test_time_selection_of_both_roles(architecture):
    model = build_model(tiny_config(architecture))
    part = model if architecture == "FCOS" else model.proposal_generator
    core, postprocessor = find_fcos(model)
    assert core is part.core
    assert postprocessor is (part.postprocessor if architecture == "FCOS" else part.test_postprocessor)


def test_other_models_have_none():
    assert find_fcos(build_model(tiny_config("ProposalNetwork", "RPN"))) is None
    assert find_fcos(nn.Linear(1, 1)) is None
