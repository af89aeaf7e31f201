"""Find the FCOS in a model of any kind."""

from typing import NamedTuple

from torch import nn

from .core import FCOSCore
from .meta_arch import FCOS
from .postprocess import FCOSPostProcessor
from .proposal_generator import FCOSRPN


class FCOSParts(NamedTuple):
    core: FCOSCore
    postprocessor: FCOSPostProcessor
    """Selects boxes at inference."""


def find_fcos(model: nn.Module) -> FCOSParts | None:
    """Return the parts of an `FCOS`, or of the `FCOSRPN` of another model; None if there is neither."""
    if isinstance(model, FCOS):
        return FCOSParts(model.core, model.postprocessor)
    generator = getattr(model, "proposal_generator", None)
    return FCOSParts(generator.core, generator.test_postprocessor) if isinstance(generator, FCOSRPN) else None
