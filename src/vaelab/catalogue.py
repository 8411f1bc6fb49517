"""Every part by name, what goes with what, and a card for every recipe: what `vaelab models` prints.

All of it is read from the tables that build the models, so that it cannot say something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from .core.errors import BadInput, did_you_mean
from .core.facts import Column, Facts
from .core.settings import LikelihoodConfig, ObjectiveConfig
from .models.fits import missing
from .models.parts import (
    AFTER,
    DECODERS,
    ENCODERS,
    LIKELIHOOD_BUILDERS,
    NETWORKS,
    POSTERIORS,
    PRIORS,
    READERS,
    build_likelihood,
)
from .models.unread import read_by
from .objectives.build import OBJECTIVES, build_objective
from .recipes import RECIPES

# Facts of made-up data, for parts that cannot be built without.
SOME = Facts(
    (4,),
    columns=(Column("a", "number"), *[Column(name, "category", ("x", "y")) for name in "bcd"]),
    vocabulary=5,
    rows=8,
)
ALL_DECODERS = {**DECODERS, **READERS}


def everything() -> str:
    """All parts, the two tables of what goes together, and the names of the recipes."""
    blocks = [
        _listed("encoders", "model.encoder", {name: NETWORKS[name] for name in ENCODERS}),
        _listed("posteriors q(z|x)", "model.posterior", {name: kind.title for name, kind in POSTERIORS.items()}),
        _listed("priors p(z)", "prior", {name: kind.title for name, kind in PRIORS.items()}),
        _listed("fitted after training", "prior.after", {name: kind.title for name, kind in AFTER.items()}),
        _listed("decoders", "model.decoder", {name: NETWORKS[name] for name in ALL_DECODERS}),
        _listed("likelihoods p(x|z)", "likelihood", {name: _likelihood(name) for name in LIKELIHOOD_BUILDERS}),
        _listed("objectives", "objective", {name: kind.title for name, kind in OBJECTIVES.items()}),
        _matrix("posterior and prior", POSTERIORS, PRIORS, lambda q, p: missing(q, p) is None),
        _matrix("posterior and objective", POSTERIORS, OBJECTIVES, lambda q, name: bool(_priors_for(q, name))),
        "Likelihoods go with all of them, but tokens and mixed not with prior=vamp and objective.adversarial,\n"
        "which need entries that are numbers. Strings take likelihood=tokens, and it takes them alone;\n"
        "decoder=pixel_cnn takes likelihoods that are a product over entries. A hierarchy is model.groups=[...],\n"
        "with posterior=diagonal alone. A condition, such as data.condition=labels, goes to encoder,\n"
        "decoder and the standard normal prior (model.condition_on); other priors are the same for every condition.",
        _listed("recipes", "--recipe", {name: recipe.title for name, recipe in RECIPES.items()}),
        "`vaelab models NAME` says more about a part or a recipe, `vaelab settings` lists all settings.",
    ]
    return "\n\n".join(blocks)


def about(name: str) -> str:
    """All about a part or a recipe.

    Raises:
        BadInput: with the nearest name there is.
    """
    found = [card(name)] if name in RECIPES else []
    found += [describe(name) for table, describe in KINDS if name in table]
    if not found:
        raise BadInput("name", name, "no such part or recipe", did_you_mean(name, [*RECIPES, *_all_parts()]))
    return "\n\n".join(found)


def card(name: str) -> str:
    """The model card of a recipe: source, published figure, ours, command, settings."""
    recipe = RECIPES[name]
    settings = yaml.safe_dump(dict(recipe.settings), sort_keys=False, default_flow_style=None, width=110)
    lines = [
        name,
        f"  {recipe.title}",
        f"  source     {recipe.source}",
        f"  published  {recipe.published}",
        f"  ours       {recipe.ours}",
        f"  command    {recipe.command(name)}",
        *(f"    {line}" for line in settings.strip().splitlines()),
    ]
    return "\n".join(lines)


def _posterior(name: str) -> str:
    fits = [prior for prior in PRIORS if missing(name, prior) is None]
    goes = [objective for objective in OBJECTIVES if _priors_for(name, objective)]
    return _part(name, "posterior", POSTERIORS[name].title, {"priors": fits, "objectives": goes}, "model.posterior")


def _network(what: str) -> Callable[[str], str]:
    return lambda name: _part(name, what, NETWORKS[name], {}, f"model.{what}")


def _fitted(name: str) -> str:
    fits = [q for q, kind in POSTERIORS.items() if AFTER[name].needs <= kind.offers]
    return _part(name, "fitted after training", AFTER[name].title, {"posteriors": fits}, "prior.after")


def _prior(name: str) -> str:
    fits = [q for q in POSTERIORS if missing(q, name) is None]
    return _part(name, "prior", PRIORS[name].title, {"posteriors": fits}, "prior.name")


def _of_objective(name: str) -> str:
    goes = {q: _priors_for(q, name) for q in POSTERIORS}
    lines = {
        "with": [f"{q} ({', '.join(priors)})" for q, priors in goes.items() if priors],
        "samples of z": [f"objective.samples={ObjectiveConfig(name=name).drawn}"],
    }
    return _part(name, "objective", OBJECTIVES[name].title, lines, "objective.name")


def _of_likelihood(name: str) -> str:
    likelihood = build_likelihood(LikelihoodConfig(name=name), SOME)
    kind = "mass" if likelihood.discrete else "density"
    return _part(name, f"likelihood, a {kind}", _likelihood(name), {"entries": [likelihood.support]}, "likelihood.name")


def _part(name: str, what: str, title: str, lines: Mapping[str, Iterable[str]], chosen: str = "") -> str:
    """A part's name and title, what goes with it, and the settings that are read where `chosen` names it."""
    settings = read_by(chosen, name) if chosen else []
    lines = {**lines, "set by": [f"{chosen}={name}"] if chosen else [], "settings": settings}
    lines = {key: values for key, values in lines.items() if values}
    return "\n".join([f"{name} ({what})", f"  {title}", *(f"  {key}: {', '.join(v)}" for key, v in lines.items())])


def _priors_for(posterior: str, objective: str) -> list[str]:
    requires = build_objective(ObjectiveConfig(name=objective), SOME, 4).requires
    return [prior for prior in PRIORS if missing(posterior, prior, requires) is None]


def _first(documented: Any) -> str:
    """The first sentence of a docstring."""
    return " ".join((documented.__doc__ or "").split("\n\n")[0].split()).rstrip(".")


def _likelihood(name: str) -> str:
    return _first(build_likelihood(LikelihoodConfig(name=name), SOME))


def _all_parts() -> list[str]:
    return list(dict.fromkeys(name for table, _ in KINDS for name in table))


def _listed(title: str, setting: str, names: Mapping[str, str]) -> str:
    wide = max(map(len, names))
    return "\n".join(
        [f"{title}: {setting}=...", *(f"  {name:<{wide}}  {text}".rstrip() for name, text in names.items())]
    )


def _matrix(title: str, rows: Iterable[str], columns: Iterable[str], fits: Callable[[str, str], bool]) -> str:
    """A table with a mark where two parts go together."""
    columns, wide = list(columns), max(map(len, rows)) + 2
    head = " " * wide + "  ".join(columns)
    lines = [
        f"{row:<{wide}}" + "  ".join(("x" if fits(row, column) else ".").center(len(column)) for column in columns)
        for row in rows
    ]
    return "\n".join([f"{title} (x: they go together)", head, *(line.rstrip() for line in lines)])


KINDS: list[tuple[Mapping[str, Any], Callable[[str], str]]] = [
    (ENCODERS, _network("encoder")),
    (POSTERIORS, _posterior),
    (PRIORS, _prior),
    (AFTER, _fitted),
    (ALL_DECODERS, _network("decoder")),
    (OBJECTIVES, _of_objective),
    (LIKELIHOOD_BUILDERS, _of_likelihood),
]
