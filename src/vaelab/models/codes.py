"""Models with codes: which book a config names, how many codes a row gets, and how they are laid out."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from torch import nn

from ..core.config import Config
from ..core.errors import BadInput
from ..core.facts import Shape
from ..core.settings import ModelConfig
from ..distributions.code_posteriors import GumbelPosterior, QuantisedPosterior
from ..distributions.quantize import GridBook, LearnedBook, Quantiser, VectorBook
from ..nets.conv import map_shape

if TYPE_CHECKING:
    from .parts import Plan

MOST_POSITIONS = 16  # codes of a row where no map of an encoder says how many
ENTRIES_OF_A_CODE = 8  # and entries of a row for each, at least
SIZES: dict[str, Callable[[ModelConfig], int]] = {
    "vq": lambda model: model.code_size,
    "residual_vq": lambda model: model.code_size * model.quantizers,
    "fsq": lambda model: len(model.code_levels),
    "gumbel": lambda model: model.code_size,
}
QUANTISERS: dict[str, Callable[[ModelConfig], Quantiser]] = {
    "vq": lambda model: VectorBook(model.codebook, model.code_size, commitment=model.commitment),
    "residual_vq": lambda model: VectorBook(
        model.codebook, model.code_size, model.quantizers, commitment=model.commitment
    ),
    "fsq": lambda model: GridBook(model.code_levels),
}


def has_codes(model: ModelConfig) -> bool:
    """Whether z is made of entries of a book."""
    return model.posterior in SIZES


def default_latent(model: ModelConfig, encoder: str, shape: Shape) -> int:
    """Dimensions of z where none are asked for: a code for each pixel of an encoder's last map, else 16 at most."""
    if encoder == "conv":
        positions = prod(map_shape(shape, model.channels)[1:])
    else:
        positions = min(MOST_POSITIONS, max(1, prod(shape) // ENTRIES_OF_A_CODE))
    return positions * SIZES[model.posterior](model)


def quantised(plan: Plan, net: nn.Module, features: int) -> nn.Module:
    """The posterior of a deterministic code."""
    positions, grid = _layout(plan, features)
    book, given = QUANTISERS[plan.config.model.posterior](plan.config.model), plan.given_to("encoder")
    return QuantisedPosterior(net, features, positions, book, grid, conditioned=bool(given))


def gumbel(plan: Plan, net: nn.Module, features: int) -> nn.Module:
    """The posterior of a categorical code."""
    (positions, grid), model = _layout(plan, features), plan.config.model
    book = LearnedBook(model.codebook, model.code_size)
    return GumbelPosterior(net, features, positions, book, model.temperature, grid)


def grid_of(config: Config, shape: Shape, kind: str | None) -> Shape | None:
    """The (channels, height, width) whose pixels are the codes' positions, with `kind` of network; None: vectors."""
    if kind != "conv" or not has_codes(config.model):
        return None
    grid = map_shape(shape, config.model.channels)
    return grid if prod(grid[1:]) * SIZES[config.model.posterior](config.model) == config.model.latent else None


def _layout(plan: Plan, features: int) -> tuple[int, Any]:
    """Positions, and the grid they lie on."""
    model, size = plan.config.model, SIZES[plan.config.model.posterior](plan.config.model)
    positions, left = divmod(plan.latent, size)
    if left or not positions:
        rule = f"is no multiple of the {size} entries that a code of model.posterior={model.posterior} takes"
        raise BadInput("model.latent", plan.latent, rule, f"such as {max(1, positions) * size}")
    grid = grid_of(plan.config, plan.facts.shape, model.encoder)
    return positions, grid if grid is not None and prod(grid) == features else None
