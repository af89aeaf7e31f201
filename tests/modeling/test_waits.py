"""How often the host waits for a GPU, counted without one.

Device "meta" plays the GPU. Its tensors hold values on the CPU; a mode computes with these, counts the operations for
which the host would wait, and refuses operations that mix devices.
"""

import collections
import contextlib

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.tiny import tiny_batch, tiny_config

GPU = torch.device("meta")

WAITING = {"nonzero", "_local_scalar_dense", "nms", "_unique2", "unique_dim", "repeat_interleave", "bincount", "equal"}
INDEXING = {"index", "index_put_", "_index_put_impl_"}


class GPUTensor(torch.Tensor):
    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=GPU
        )

    def __init__(self, values):
        self.values_on_cpu = values

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside of the mode")


class CountedWaits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.waits = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        are_on_gpu = {isinstance(tensor, GPUTensor) for tensor in tensors if tensor.dim() > 0}
        target = kwargs.get("device")
        moves = name in ("_to_copy", "copy_")
        assert moves or are_on_gpu != {True, False}, f"{name} mixes devices"
        is_on_gpu = any(isinstance(tensor, GPUTensor) for tensor in tensors)
        has_mask = name in INDEXING and any(
            tensor.dtype == torch.bool for tensor in tree_leaves(args[1]) if tensor is not None
        )
        if is_on_gpu and (
            name in WAITING or has_mask or (moves and (target == torch.device("cpu") or False in are_on_gpu))
        ):
            self.waits[name] += 1

        arguments = tree_map_only(GPUTensor, lambda tensor: tensor.values_on_cpu, (args, kwargs))
        args_on_cpu, kwargs_on_cpu = tree_map_only(torch.device, lambda _: torch.device("cpu"), arguments)
        result = function(*args_on_cpu, **kwargs_on_cpu)
        if name.endswith("_") and isinstance(args[0], GPUTensor):
            return args[0]
        if is_on_gpu if target is None else target == GPU:
            return tree_map_only(torch.Tensor, GPUTensor, result)
        return result


def move_to_gpu(model):
    with CountedWaits():
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    moved = torch.nn.Parameter(GPUTensor(parameter.data), requires_grad=parameter.requires_grad)
                    module._parameters[name] = moved
            for name, buffer in module._buffers.items():
                module._buffers[name] = buffer if buffer is None else GPUTensor(buffer)
    return model


def random_model(architecture):
    cfg = tiny_config(architecture)
    cfg.MODEL.BACKBONE.NAME = "build_p5_p67_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.VIS_PERIOD = 20
    torch.manual_seed(0)
    model = build_model(cfg)
    if architecture == "FCOS":
        torch.nn.init.zeros_(model.core.head.cls_logits.bias)  # a new model detects nothing
    return model


def run(model, iteration):
    """A run on the emulated GPU of 8 images: what it returns, and how often it waits."""
    with CountedWaits() as counted, EventStorage(iteration):
        found = model(tiny_batch([(64, 96), (80, 80)] * 4, [2, 1] * 4))
        if model.training:
            sum(found.values()).backward()
    return found, sum(counted.waits.values())


@pytest.mark.parametrize(("architecture", "most"), [("FCOS", 6), ("BatchedProposalNetwork", 16)])
def test_a_training_step_waits_seldom_and_mixes_no_devices(monkeypatch, architecture, most):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # not known for "meta"
    model = move_to_gpu(random_model(architecture).train())
    _, waits = run(model, iteration=1)
    assert waits <= most
    run(model, iteration=20)  # with figures and a picture in the log


@pytest.mark.parametrize("architecture", ["FCOS", "BatchedProposalNetwork"])
@torch.no_grad()
def test_inference_waits_once_per_image_and_twice_more_and_finds_the_same(architecture):
    model = random_model(architecture).eval()
    expected = model(tiny_batch([(64, 96), (80, 80)] * 4, [2, 1] * 4))
    found, waits = run(move_to_gpu(model), iteration=1)
    assert waits <= 10
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(*ours.values(), *theirs.values())


def assert_same(found: Instances, expected: Instances):
    assert len(found) == len(expected) > 3
    for name, value in expected.get_fields().items():
        ours = getattr(found.get(name), "tensor", found.get(name))
        assert torch.equal(ours.values_on_cpu, getattr(value, "tensor", value)), name
