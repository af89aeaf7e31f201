"""A graph in a file: what is written, which packages that takes, and that a file of the final name is a whole one."""

import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import torch
from torch.export import ExportedProgram

from ..errors import UserError, install_hint

OPSET = 20
"""Of ONNX's operators; the first that has all that are needed, a deformable convolution among them, is 19."""


class Format(NamedTuple):
    suffix: str
    packages: Sequence[str]
    """Those that are needed to write it, beyond torch."""
    write: Callable[[ExportedProgram, Sequence[str], Mapping[str, str], BinaryIO], None]
    """Takes the graph, the names of its outputs, what else the file shall tell, and the file."""


def as_onnx(program: ExportedProgram, output_names: Sequence[str], notes: Mapping[str, str], file: BinaryIO) -> None:
    """All in one file; the notes are in its `metadata_props`."""
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
    """For `torch.export.load`; each note is one of its `extra_files`. Outputs have no names."""
    content = io.BytesIO()  # by name, torch would want its own ending
    torch.export.save(program, content, extra_files=dict(notes))
    file.write(content.getbuffer())


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxscript"), as_onnx),
    "torch_export": Format(".pt2", (), as_torch_export),
}


def require_packages(names: Sequence[str], *, wanted_for: str) -> None:
    """
    Raises:
        UserError: if one is not installed.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{wanted_for} needs {' and '.join(missing)}, which is not installed: {install_hint('export')}")
