"""Converts a checkpoint: every key is used or dropped by name, every key of the model filled, every shape checked.

Names come from the table of the source, settings from a table and from the shapes. A model is built from the settings,
and the weights must be exactly its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor, nn

from ...config import add_fcos_config, merge_overrides, require_registered_parts
from ...errors import UserError, require_one_of
from ..checkpointer import CLASS_LAYERS, rename
from .architecture import needless_biases, read_architecture
from .renames import Fill, Named, apply_rules
from .source_settings import LEVELS, LEVELS_KEY, OF_FCOS_ALONE, OWN, RECIPES, ROLES, SETTINGS
from .tables import FILLS, OWN_RULES, RULES

NO_BIAS = "a bias before a normalization; all of them are zero, so the head needs none"
MOST_SHOWN = 20
"""Lines of an error that lists keys."""

PIXELS = {"pixel_mean": "MODEL.PIXEL_MEAN", "pixel_std": "MODEL.PIXEL_STD"}


class Conversion(NamedTuple):
    """A converted checkpoint, and what became of every key."""

    weights: dict[str, Tensor]
    settings: dict[str, Any]
    """Config key -> value, on top of Detectron2's defaults or, for `fcos_rpn`, of the given config."""
    read_from_weights: frozenset[str]
    """Keys of the settings that were read from the weights; the others come from tables."""
    origins: dict[str, list[str]]
    """Key of the model -> keys of the source."""
    dropped: dict[str, str]
    """Key of the source -> why it is not used."""
    filled: dict[str, str]
    """Key of the model that the source does not have -> what it got."""


def convert_state_dict(
    weights: Mapping[str, Any],
    *,
    source: str,
    target: str,
    recipe: str | None = None,
    cfg: CfgNode | None = None,
    overrides: Sequence[str] = (),
) -> Conversion:
    """Convert the weights of a model.

    Args:
        weights: its state dict.
        source: the implementation that it comes from: a source of `RULES`, or `fcos_rpn`.
        target: the role, `FCOS` or `FCOSRPN`. A class layer of another number of classes starts anew; the RPN role
            has one class.
        recipe: one of the source's; needed only where there are several.
        cfg: the config of the checkpoint, for `fcos_rpn` only. Left as it is.
        overrides: KEY VALUE pairs that take precedence over the tables.

    Raises:
        UserError: on an unknown name, or if a key or a shape is not as expected.
    """
    require_one_of("source", source, (*RULES, OWN))
    require_one_of("target", target, ROLES)
    fills: Sequence[Fill] = ()
    read_from_weights: frozenset[str] = frozenset()
    weights = rename(_require_tensors(weights), {})  # only removes what wrappers put into names
    if source == OWN:
        named = apply_rules(weights, OWN_RULES)
        settings = _own_settings(cfg, target)
    elif cfg is not None:
        raise UserError(f"only source {OWN} takes a config; that of {source} comes from tables and shapes")
    else:
        named = _without_needless_biases(apply_rules(weights, RULES[source]))
        shapes = read_architecture(named.weights)
        shapes |= {key: _pixels(weights[name]) for name, key in PIXELS.items() if name in weights}
        settings = {
            **SETTINGS[source],
            **_recipe(source, recipe),
            **ROLES[target],
            LEVELS_KEY[target]: LEVELS,
            **shapes,
        }
        read_from_weights, fills = frozenset(shapes), FILLS.get(source, ())
        _require_pixels(settings, read_from_weights, overrides)
        if target != "FCOS":
            settings = {key: value for key, value in settings.items() if key not in OF_FCOS_ALONE}

    cfg = _configured(cfg, settings, overrides)
    settings |= {key: _value(cfg, key) for key in overrides[::2]}
    return _fit(named, _new_model(cfg).state_dict(), fills)._replace(
        settings=settings, read_from_weights=read_from_weights
    )


def _fit(named: Named, model: Mapping[str, Tensor], fills: Sequence[Fill]) -> Conversion:
    """Give weights exactly the keys and shapes of a new model of the target's role; sets no settings."""
    weights: dict[str, Tensor] = {}
    origins: dict[str, list[str]] = {}
    dropped, filled = dict(named.dropped), dict[str, str]()
    for (key, value), name in zip(named.weights.items(), rename(named.weights, model), strict=True):
        if name in model and value.shape != model[name].shape and any(layer in name for layer in CLASS_LAYERS):
            reason = f"of {len(value)} classes, where the model has {len(model[name])}"
            dropped.update(dict.fromkeys(named.origins[key], reason))
            weights[name] = model[name]
            filled[name] = "initialized as in a new model, since the source has other classes"
        else:
            weights[name], origins[name] = value, named.origins[key]
    for fill in fills:
        (name,) = rename({fill.target: None}, model)
        weights[name] = torch.full_like(model[name], fill.value)
        filled[name] = fill.reason
    _require_all(weights, origins, model)
    ordered = {key: weights[key].contiguous() for key in model}
    return Conversion(ordered, {}, frozenset(), origins, dropped, filled)


def _require_all(weights: Mapping[str, Tensor], origins: Mapping[str, list[str]], model: Mapping[str, Tensor]) -> None:
    """Require the keys and shapes of the model.

    Raises:
        UserError: lists all differences.
    """
    faults = [f"  {key}: missing" for key in model if key not in weights]
    faults += [f"  {', '.join(origins[key])}: the model has no {key}" for key in weights if key not in model]
    faults += [
        f"  {key}: {tuple(value.shape)} in the checkpoint, {tuple(model[key].shape)} in the model"
        for key, value in weights.items()
        if key in model and value.shape != model[key].shape
    ]
    if faults:
        more = [f"  and {len(faults) - MOST_SHOWN} more"] if len(faults) > MOST_SHOWN else []
        raise UserError(
            "the checkpoint does not fit the model that its config describes:\n" + "\n".join(faults[:MOST_SHOWN] + more)
        )


def _own_settings(cfg: CfgNode | None, target: str) -> dict[str, Any]:
    if cfg is None:
        raise UserError(f"a checkpoint of {OWN} needs the config that it was trained with")
    role = "FCOS" if cfg.MODEL.META_ARCHITECTURE == "FCOS" else "FCOSRPN"
    if role == "FCOSRPN" and cfg.MODEL.PROPOSAL_GENERATOR.NAME != "FCOSRPN":
        raise UserError(
            f"the config has neither FCOS nor FCOSRPN: MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}, "
            f"MODEL.PROPOSAL_GENERATOR.NAME {cfg.MODEL.PROPOSAL_GENERATOR.NAME}"
        )
    return {**ROLES[target], LEVELS_KEY[target]: list(_value(cfg, LEVELS_KEY[role]))}


def _recipe(source: str, recipe: str | None) -> dict[str, Any]:
    recipes = RECIPES[source]
    if recipe is None and len(recipes) > 1:
        choices = " or ".join(
            f"{name} (BBOX_ACTIVATION {settings['MODEL.FCOS.BBOX_ACTIVATION']}, "
            f"CENTERNESS {settings['MODEL.FCOS.CENTERNESS']})"
            for name, settings in recipes.items()
        )
        raise UserError(f"the recipe cannot be read from weights of {source}: give --recipe {choices}")
    recipe = recipe or next(iter(recipes))
    require_one_of(f"recipe of {source}", recipe, recipes)
    return recipes[recipe]


def _without_needless_biases(named: Named) -> Named:
    for key in needless_biases(named.weights):
        del named.weights[key]
        named.dropped.update(dict.fromkeys(named.origins.pop(key), NO_BIAS))
    return named


def _require_pixels(settings: Mapping[str, Any], read_from_weights: frozenset[str], overrides: Sequence[str]) -> None:
    """Require that someone says how images are normalized for a ResNeXt, which differs from file to file.

    Raises:
        UserError: if neither the weights nor the overrides do.
    """
    given = {*read_from_weights, *overrides[::2]}
    if settings["MODEL.RESNETS.NUM_GROUPS"] > 1 and not given.issuperset(PIXELS.values()):
        raise UserError(
            "the backbone is a ResNeXt, whose files differ in how images are normalized: add MODEL.PIXEL_MEAN [...] "
            "MODEL.PIXEL_STD [...] as in its authors' config, and INPUT.FORMAT and MODEL.RESNETS.STRIDE_IN_1X1 if they "
            f"are not {settings['INPUT.FORMAT']} and {settings['MODEL.RESNETS.STRIDE_IN_1X1']}"
        )


def _require_tensors(weights: Mapping[str, Any]) -> Mapping[str, Tensor]:
    if others := [key for key, value in weights.items() if not isinstance(value, Tensor)]:
        raise UserError(
            f"not a weight: {', '.join(map(str, others[:5]))} of the checkpoint; give a model's state dict alone"
        )
    return weights


def _configured(cfg: CfgNode | None, settings: Mapping[str, Any], overrides: Sequence[str]) -> CfgNode:
    if cfg is None:
        cfg = get_cfg()
        add_fcos_config(cfg)
    cfg = cfg.clone()
    merge_overrides(cfg, [word for key, value in settings.items() for word in (key, repr(value))])
    merge_overrides(cfg, overrides)
    cfg.MODEL.DEVICE = "cpu"
    require_registered_parts(cfg)
    return cfg


def _new_model(cfg: CfgNode) -> nn.Module:
    """Build a model with initial weights that are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(cfg)


def _value(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for name in key.split("."):
        value = value[name]
    return value


def _pixels(weight: Tensor) -> list[float]:
    return [round(value, 4) for value in weight.flatten().tolist()]
