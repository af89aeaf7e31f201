"""Both formats against the model itself, at sizes other than the traced one."""

import io

import onnxruntime
import pytest
import torch

from fcos_rpn import UserError
from fcos_rpn.export import as_onnx, as_torch_export, export_graph, network_of, require_packages
from tests.export.small_networks import SIZES, TRACED_SIZE, found_by, noise, require_same, small_config, small_model

NOTES = {"channels": "BGR"}


@pytest.fixture(scope="module", params=["FCOS", "ProposalNetwork", "GeneralizedRCNN"])
def exported(request):
    """A model, its network, and its graph."""
    model = small_model(small_config(request.param))
    network = network_of(model)
    return model, network, export_graph(network, size=TRACED_SIZE)


@pytest.fixture(scope="module")
def onnx_session(exported):
    _, network, program = exported
    file = io.BytesIO()
    as_onnx(program, network.output_names, NOTES, file)
    return onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def loaded_program(exported):
    _, network, program = exported
    file = io.BytesIO()
    as_torch_export(program, network.output_names, NOTES, file)
    notes = dict.fromkeys(NOTES, "")
    loaded = torch.export.load(io.BytesIO(file.getvalue()), extra_files=notes)
    assert notes == NOTES
    return loaded.module()


@pytest.mark.parametrize("size", [TRACED_SIZE, *SIZES])
def test_onnxruntime_finds_what_the_model_finds(exported, onnx_session, size):
    expected = found_by(exported[0], noise(size))
    found = onnx_session.run(None, {"image": noise(size).numpy()})
    assert len(expected[0]) > 10
    require_same([torch.from_numpy(output) for output in found], expected)


@pytest.mark.parametrize("size", [TRACED_SIZE, *SIZES])
def test_torch_export_finds_what_the_model_finds(exported, loaded_program, size):
    require_same(loaded_program(noise(size)), found_by(exported[0], noise(size)))


def test_nothing_found_is_no_error(exported, onnx_session, loaded_program):
    image = torch.full((3, *SIZES[0]), torch.nan)  # of which every prediction is NaN
    assert [len(output) for output in found_by(exported[0], image)] == [0] * len(exported[1].output_names)
    for found in (onnx_session.run(None, {"image": image.numpy()}), loaded_program(image)):
        assert found[0].shape == (0, 4)
        assert {len(output) for output in found} == {0}


def test_onnx_tells_names_and_notes(exported, onnx_session):
    (image,) = onnx_session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", [3, "height", "width"])
    assert [output.name for output in onnx_session.get_outputs()] == exported[1].output_names
    assert onnx_session.get_modelmeta().custom_metadata_map == NOTES


def test_torch_export_refuses_a_side_that_is_too_short(loaded_program):
    with pytest.raises(AssertionError, match="129"):
        loaded_program(noise((128, 200)))


def test_missing_packages_are_named():
    require_packages(["torch"], wanted_for="--format x")
    with pytest.raises(
        UserError,
        match=r"^--format x needs nothing_1 and nothing_2, which .*: pip install '\.\[export\]' in the checkout",
    ):
        require_packages(["torch", "nothing_1", "nothing_2"], wanted_for="--format x")
