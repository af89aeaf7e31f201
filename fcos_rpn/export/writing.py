"""Write a graph to a file."""

import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import torch
from torch.export import ExportedProgram

from ..errors import UserError, install_hint

OPSET = 20
"""ONNX's opset. A deformable convolution needs 19."""


class Format(NamedTuple):
    suffix: str
    packages: Sequence[str]
    """Packages that writing needs besides torch."""
    write: Callable[[ExportedProgram, Sequence[str], Mapping[str, str], BinaryIO], None]
    """Takes the graph, the names of its outputs, notes and the file."""


def as_onnx(program: ExportedProgram, output_names: Sequence[str], notes: Mapping[str, str], file: BinaryIO) -> None:
    """Write ONNX with the weights inside and the notes as `metadata_props`."""
    exported = torch.onnx.export(
        program,
        dynamo=True,
        dynamic_shapes={"image": {1: "height", 2: "width"}},  # their names alone
        input_names=["image"],
        output_names=list(output_names),
        opset_version=OPSET,
        verbose=False,
    )
    assert exported is not None
    exported.model.metadata_props.update(notes)
    file.write(exported.model_proto.SerializeToString())


def as_torch_export(
    program: ExportedProgram, output_names: Sequence[str], notes: Mapping[str, str], file: BinaryIO
) -> None:
    """Write for `torch.export.load`, with the notes as `extra_files`. Outputs have no names."""
    content = io.BytesIO()  # by name, torch would want its own ending
    torch.export.save(program, content, extra_files=dict(notes))
    file.write(content.getbuffer())


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxscript"), as_onnx),
    "torch_export": Format(".pt2", (), as_torch_export),
}


def require_packages(names: Sequence[str], *, wanted_for: str) -> None:
    """Require packages to be installed.

    Raises:
        UserError: if one is not.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{wanted_for} needs {' and '.join(missing)}, which is not installed: {install_hint('export')}")
