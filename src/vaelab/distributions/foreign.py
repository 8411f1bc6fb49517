"""Distributions of `torch.distributions`, as a user's own posterior or prior may return them, in our shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from ..core.errors import BadInput
from .normal import DiagonalNormal, Distribution, FullNormal, full_precision


def as_distribution(given: Any) -> Distribution:
    """What a posterior or prior module returned, as a `Distribution` over rows [B] and dimensions [L].

    Independent and multivariate normals become ours, which take base noise and know their divergences per dimension;
    others are wrapped. A distribution without event dimension is read as [B, L] or [L].

    Raises:
        BadInput: for something that is no distribution, or whose samples are no vectors.

    Example:
        >>> as_distribution(td.Laplace(torch.zeros(5, 2), torch.ones(5, 2))).mean.shape
        torch.Size([5, 2])
    """
    if not isinstance(given, td.Distribution):
        if not callable(getattr(given, "log_prob", None)):
            raise BadInput("distribution", type(given).__name__, "must offer log_prob", "return a distribution object")
        return given
    if not given.event_shape:
        given = td.Independent(given, 1, validate_args=False) if given.batch_shape else given
    if len(given.event_shape) != 1 or len(given.batch_shape) > 1:
        shape = (tuple(given.batch_shape), tuple(given.event_shape))
        raise BadInput("distribution", f"batch and event shape {shape}", "must be one vector, or one for each row")
    if not given.batch_shape:
        given = given.expand((1,))
    base = given.base_dist if isinstance(given, td.Independent) else given
    return OURS.get(type(base), Foreign)(given)


def diagonal_normal(found: Any, argument: str) -> DiagonalNormal:
    """What an encoder network returned as numbers: [B, 2 L], or a pair mean [B, L] and log-variance, in L or fewer.

    A log-variance that several dimensions or rows share is spread over them, since a density adds up dimensions.

    Raises:
        BadInput: for other shapes.
    """
    parts = found.chunk(2, -1) if isinstance(found, Tensor) else tuple(found)
    if len(parts) != 2:
        raise BadInput(argument, f"{len(parts)} results", "must give two", "the mean and the log-variance, [B, L] each")
    mean, log_variance = (full_precision(torch.as_tensor(part)) for part in parts)
    try:
        fits = mean.ndim == 2 and torch.broadcast_shapes(mean.shape, log_variance.shape) == mean.shape
    except RuntimeError:
        fits = False
    if not fits:
        seen = f"mean {tuple(mean.shape)} and log-variance {tuple(log_variance.shape)}"
        raise BadInput(argument, seen, "must be vectors of one size for each row", "[B, L] each")
    return DiagonalNormal(mean, (0.5 * log_variance).expand(mean.shape))


class Foreign:
    """A distribution of `torch.distributions` with batch shape [B] and event shape [L]."""

    def __init__(self, inner: td.Distribution) -> None:
        self.inner = inner

    @property
    def mean(self) -> Tensor:
        """Mean, [B, L]."""
        return self.inner.mean

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, [B, L]."""
        return self.inner.variance

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """Samples [K, B, L] that carry gradients.

        Raises:
            BadInput: where the distribution has no such samples, and for base noise, which it cannot take.
        """
        if noise is not None or not self.inner.has_rsample:
            rule = "cannot be sampled with gradients" if noise is None else "takes no base noise"
            raise BadInput("posterior", self._name, rule, "return a normal distribution")
        return self.inner.rsample(torch.Size((samples,)))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B]."""
        return self.inner.log_prob(z)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L] where B = 1, else [count, B, L]."""
        with seeded(generator):
            return self.inner.sample(torch.Size((count,))).squeeze(1)

    def as_torch(self) -> td.Distribution:
        """The wrapped distribution."""
        return self.inner

    @property
    def _name(self) -> str:
        return type(getattr(self.inner, "base_dist", self.inner)).__name__


@contextmanager
def seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Draw from the generator by seeding the global one for a moment: `torch.distributions` knows no generators."""
    if generator is None:
        yield
        return
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    with torch.random.fork_rng():
        torch.manual_seed(int(seed))
        yield


def _diagonal(given: Any) -> Distribution:
    base = given.base_dist
    return DiagonalNormal(base.loc, base.scale.log(), base.scale)


def _full(given: Any) -> Distribution:
    return FullNormal(given.loc, given.scale_tril)


OURS: dict[type, Callable[[Any], Distribution]] = {td.Normal: _diagonal, td.MultivariateNormal: _full}
