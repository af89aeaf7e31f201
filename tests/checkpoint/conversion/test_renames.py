import pytest
import torch

from fcos_rpn import UserError
from fcos_rpn.checkpoint.conversion.renames import Rename, Stack, apply_rules

ONE = torch.ones(())


@pytest.mark.parametrize(
    "key",
    ["layer3.0.weight", "layer1.0.gamma", "layer1.x.weight", "alayer1.0.weight", "layer1.0.weights", "layer1x0.bias"],
)
def test_a_key_that_no_rule_fits_is_an_error(key):
    rules = [Rename("layer{stage}.{block}.{part}", "res{stage}.{block}.{part}", {"stage": {"1": "2", "2": "3"}})]
    with pytest.raises(UserError, match=rf"1 of the checkpoint's 2 weights .* among them {key}\."):
        apply_rules({"layer1.0.weight": ONE, key: ONE}, rules)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_numbers_are_stacked_by_level_and_not_by_their_order_in_the_file(shape):
    weights = {f"scales.{level}.scale": torch.full(shape, float(level)) for level in (2, 0, 1)}
    named = apply_rules(weights, [Stack("scales.{level}.scale", "scales")])
    assert named.weights["scales"].tolist() == [0, 1, 2]
    assert named.origins == {"scales": ["scales.0.scale", "scales.1.scale", "scales.2.scale"]}


def test_a_level_that_is_missing_is_an_error():
    weights = {"scales.0.scale": ONE, "scales.2.scale": ONE}
    with pytest.raises(UserError, match=r"has only the levels scales\.0\.scale, scales\.2\.scale"):
        apply_rules(weights, [Stack("scales.{level}.scale", "scales")])


def test_two_keys_that_become_one_are_an_error():
    with pytest.raises(UserError, match="a and b of the checkpoint are both c"):
        apply_rules({"a": ONE, "b": ONE}, [Rename("a", "c"), Rename("b", "c")])
