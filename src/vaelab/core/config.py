"""One typed config for everything; each default stands here and nowhere else.

A config comes from a YAML file, a nested dict, `key=value` overrides, or all three, later ones winning. Unknown keys
are refused with a suggestion, and all problems are reported at once. The resolved config is saved with the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from .errors import BadInput, did_you_mean
from .settings import (
    DataConfig,
    Int,
    LikelihoodConfig,
    ModelConfig,
    ObjectiveConfig,
    PriorConfig,
    ReportConfig,
    Section,
    TrainConfig,
)

OPEN = ("data.kinds",)  # mappings whose keys are no settings: names of columns
UNCONTROLLED = {
    "objective.beta": 1.0,
    "objective.anneal": "constant",
    "objective.free_bits": 0.0,
    "objective.capacity": None,
    "train.on_collapse": "none",  # a controller opens a collapsed posterior by itself
    "train.patience": None,  # and the last weights are the ones kept
}


class Config(Section):
    """Every setting of a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    prior: PriorConfig = PriorConfig()
    likelihood: LikelihoodConfig = LikelihoodConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    report: ReportConfig = ReportConfig()
    seed: Int = Field(0, ge=0, lt=2**63, description="of everything random")
    recipe: str | None = Field(None, description="name of the recipe these settings started from")

    @model_validator(mode="after")
    def _one_hand_on_beta(self) -> Self:
        """Whatever else moves beta, bends the rate or chooses the weights would work against a controller."""
        settings = flat(self.model_dump()) if self.objective.controlled else {}
        for name, off in UNCONTROLLED.items():
            if settings.get(name, off) != off:
                raise ValueError(f"a target moves beta by itself; leave {name} at {'null' if off is None else off}")
        if settings and settings["objective.target_rate"] and settings["objective.target_reconstruction"] is not None:
            raise ValueError("target_rate and target_reconstruction both move beta; set one of them to null")
        return self

    def updated(self, **sections: Mapping[str, Any]) -> Config:
        """A copy with some settings replaced; `config.updated(train={"steps": 10})`."""
        return build_config(self.model_dump(), sections)

    def edited(self, edit: Mapping[str, Any]) -> Config:
        """A copy with the settings of a finding's `edit`, under dotted names: `{"objective.beta": 1.0}`."""
        return build_config(self.model_dump(), nested(edit))


def build_config(*layers: Mapping[str, Any]) -> Config:
    """A `Config` from nested mappings, later ones winning.

    Raises:
        BadInput: naming every unknown key and every value that breaks a rule, a line each.

    Example:
        >>> build_config({"train": {"steps": 10}}, {"train": {"steps": 20}}).train.steps
        20
    """
    try:
        return Config.model_validate(merged(*layers))
    except ValidationError as error:
        raise BadInput.collect(_problem(item) for item in error.errors()) from None


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings of settings as one, later ones winning.

    Example:
        >>> merged({"train": {"steps": 10}}, {"train": {"batch_size": 8}})
        {'train': {'steps': 10, 'batch_size': 8}}
    """
    found: dict[str, Any] = {}
    for layer in layers:
        found = _merge(found, layer)
    return found


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """A nested dict from `section.key=value` strings; values are read as YAML, and `1e-3` is a number.

    Raises:
        BadInput: for a string without `=`, an empty key, or a key given twice.

    Example:
        >>> parse_overrides(["train.learning_rate=1e-3", "likelihood=bernoulli"])
        {'train': {'learning_rate': 0.001}, 'likelihood': 'bernoulli'}
    """
    from .files import parse_yaml

    given: dict[str, Any] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip(".") or key in given:
            rule = "given twice" if key in given else "settings are written section.key=value"
            raise BadInput("setting", item, rule, "such as train.steps=2000")
        given[key] = parse_yaml(text, where=key) if text else None
    return nested(given)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configs differ, as `{"train.steps": (old, new)}`."""
    left, right = flat(old.model_dump()), flat(new.model_dump())
    return {key: (left.get(key), right.get(key)) for key in left | right if left.get(key) != right.get(key)}


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names.

    Example:
        >>> flat({"train": {"steps": 5}})
        {'train.steps': 5}
    """
    found: dict[str, Any] = {}
    for key, value in nested.items():
        name = prefix + key
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and name not in OPEN else {name: value}
    return found


def nested(flat_settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`.

    Example:
        >>> nested({"train.steps": 5, "train.on_nan": "skip"})
        {'train': {'steps': 5, 'on_nan': 'skip'}}
    """
    found: dict[str, Any] = {}
    for key, value in flat_settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        found = _merge(found, value)
    return found


def _merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(layer, Mapping):
        raise BadInput("config", type(layer).__name__, "must be a mapping of sections", "such as {'train': {...}}")
    merged = dict(base)
    for key, value in layer.items():
        known = merged.get(key)
        if isinstance(known, Mapping) and isinstance(value, str):
            value = {"name": value}
        elif isinstance(known, str) and isinstance(value, Mapping) and key in ("prior", "likelihood", "objective"):
            known = {"name": known}
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(known, value) if both else value  # type: ignore[arg-type]
    return merged


def _problem(item: Any) -> BadInput:
    """A line in our words from one of pydantic's records."""
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        *parents, key = item["loc"]
        nested = [f"{section}.{key}" for section in _keys(()) if not parents and key in _keys((section,))]
        fix = f"did you mean {nested[0]}?" if nested else did_you_mean(str(key), _keys(parents))
        return BadInput(path, None, "no such setting", fix)
    received = item["input"] if not isinstance(item["input"], Mapping) else "these settings"
    rule = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if isinstance(received, float) and not math.isfinite(received):
        rule = "must be a finite number"
    elif "Input should be" in item["msg"]:
        rule = f"must be {rule}"
    return BadInput(path or "config", received, rule, _meant(item))


ELSEWHERE = {
    ("prior.name", "gmm"): "it is fitted after training: prior.after=gmm; prior=mixture is learned with the rest"
}


def _meant(item: Any) -> str:
    """What a name that is none of those allowed may have been meant to be."""
    if item["type"] != "literal_error" or not isinstance(item["input"], str):
        return ""
    path = ".".join(str(part) for part in item["loc"])
    allowed = re.findall("'([^']*)'", item["ctx"]["expected"])
    near = did_you_mean(item["input"], allowed)  # the list of what there is stands in the rule already
    return ELSEWHERE.get((path, item["input"])) or (near if near.endswith("?") else "")


def _keys(parents: Sequence[Any]) -> list[str]:
    model: Any = Config
    for part in parents:
        model = model.model_fields[part].annotation
    return list(getattr(model, "model_fields", ()))


def describe_settings() -> str:
    """Every setting as a line: its name, its default, and what it does."""
    import yaml

    lines: list[str] = []
    for section, entry in Config.model_fields.items():
        kind = entry.annotation
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            lines.append(f"{section:<28} {entry.default!s:<14} {entry.description or ''}".rstrip())
            continue
        lines.append(f"\n{section}: {(kind.__doc__ or '').strip()}")
        for name, item in kind.model_fields.items():
            default = yaml.safe_dump(_plain_value(item.default), default_flow_style=True).removesuffix("...\n").strip()
            allowed = _allowed(item.annotation)
            described = "; ".join(text for text in (allowed, item.description) if text)
            lines.append(f"{section}.{name:<{max(1, 27 - len(section))}} {default:<14} {described}".rstrip())
    return "\n".join(lines).strip()


def _plain_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _allowed(annotation: Any) -> str:
    """The names a setting takes, where it takes names."""
    options = [a for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal for a in get_args(part)]
    return " | ".join(dict.fromkeys(options))
