"""Hierarchies of latent groups, drawn from the top down, each group in units of its prior given the groups above it.

A group's code z_g stands for u_g = mean_g(u_<g) + deviation_g(u_<g) z_g. So p(z) is N(0, I) for every group below the
top one, whatever mean and deviation are, while p(u_g | u_<g) is any diagonal normal: the same model and the same bound
as with u, but codes of all groups have one scale, can be walked along one by one, and mean "as expected" at 0.

Shapes: K samples, B rows, L latent dimensions of all G groups together, the top group first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadInput
from ..core.tables import pick
from .kl import divergence
from .normal import EUCLIDEAN, ROW_POINTS, DiagonalNormal, StandardNormal, fixed_noise, full_precision
from .posteriors import SCALES

SMALL = 0.1  # of the usual start values: what a group says of the next one begins as a whisper


class Descent(nn.Module):
    r"""The way down: what each group's code stands for, and the state below it.

    .. math:: u_g = \mu_g(u_{<g}) + \sigma_g(u_{<g}) z_g, \quad u_1 = z_1

    Args:
        path: From a group's number, the state above it and its u to the state below it; it has `widths`.
        heads: For each group but the first, a network from the state above it to mean and log-variance.
        sizes: L of each group, the top one first.

    Example:
        >>> from ..nets.residual import Chain
        >>> Descent(Chain((2, 3)), [nn.Linear(2, 6)], (2, 3))(torch.zeros(7, 5)).shape
        torch.Size([7, 5])
    """

    def __init__(self, path: nn.Module, heads: Sequence[nn.Module], sizes: Sequence[int]) -> None:
        super().__init__()
        self.path, self.heads, self.sizes = path, nn.ModuleList(heads), tuple(sizes)

    def start(self) -> None:
        """Begin near u = z for every group, whatever stands above it."""
        with torch.no_grad():
            for head in self.heads:
                _last_linear(head).weight.mul_(SMALL)

    def forward(self, z: Tensor) -> Tensor:
        """The state below all groups, which the decoder reads, for z [..., L]."""
        state = None
        for group, part in enumerate(z.split(self.sizes, -1)):
            state = self.below(group, state, part)
        assert state is not None
        return state

    def below(self, group: int, state: Tensor | None, z: Tensor) -> Tensor:
        """The state below a group, from the one above it (None: it is the top one) and its code."""
        return self.path(group, state, z if state is None else self._meant(group, state, z))

    def _meant(self, group: int, state: Tensor, z: Tensor) -> Tensor:
        mean, raw = full_precision(self.heads[group - 1](state)).chunk(2, -1)
        return torch.addcmul(mean, SCALES["log_variance"][0](raw)[1], z)


class GroupPrior(nn.Module):
    """p(z): any prior for the top group, and N(0, I) for the groups below it.

    Args:
        top: A module whose forward gives p(z_1), or p(z_1|c).
        below: Dimensions of the other groups together.

    Example:
        >>> from .priors import StandardNormalPrior
        >>> GroupPrior(StandardNormalPrior(2), 3)().sample(7).shape
        torch.Size([7, 5])
    """

    def __init__(self, top: nn.Module, below: int) -> None:
        super().__init__()
        self.top, self.below, self.latent = top, below, int(top.latent) + below  # type: ignore[arg-type]

    def forward(self, *condition: Tensor) -> Any:
        """p(z), or p(z|c)."""
        top = self.top(*condition)
        if isinstance(top, StandardNormal):
            return StandardNormal(self.latent, top.device, top.dtype)
        return GroupedPrior(top, self.below)


class GroupedPrior:
    """p(z_1) N(z_2; 0, I), side by side.

    Args:
        top: p(z_1), with one row or with B.
        below: Dimensions of z_2.
    """

    offers = EUCLIDEAN

    def __init__(self, top: Any, below: int) -> None:
        self.top, self.below = top, below

    @property
    def mean(self) -> Tensor:
        """Mean, [B, L]."""
        return self._beside(self.top.mean, torch.zeros_like)

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, [B, L]."""
        return self._beside(self.top.variance, torch.ones_like)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L] where B = 1, else [count, B, L]."""
        return self._beside(self.top.sample(count, generator), lambda like: _noise_like(like, generator))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B]."""
        top, rest = z.tensor_split((-self.below,), -1)
        return self.top.log_prob(top) + StandardNormal(self.below).log_prob(rest)

    def _beside(self, top: Tensor, rest: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([top, rest(top.new_empty(*top.shape[:-1], self.below))], -1)


class BottomUp(nn.Module):
    r"""q(z|x): diagonal normals from the top group down, q(z_g | x, z_<g).

    In units of the prior: where the bound has no use for a group, the network has only to say nothing.

    Reference: Vahdat and Kautz, NVAE: A Deep Hierarchical Variational Autoencoder, 2020, on residual normals.

    Args:
        climb: Rows to features for each group, the top one first, [B, F].
        heads: For each group a network from its features, and from the state above it for all but the first, to its
            means and to what `scale` makes deviations of.
        sizes: L of each group.
        scale: A name of `vaelab.distributions.posteriors.SCALES`.
    """

    def __init__(
        self, climb: nn.Module, heads: Sequence[nn.Module], sizes: Sequence[int], scale: str = "log_variance"
    ) -> None:
        super().__init__()
        self.deviations, self.begin = pick(SCALES, scale, "model.scale")
        self.climb, self.heads, self.sizes = climb, nn.ModuleList(heads), tuple(sizes)

    def start(self) -> None:
        """Begin a little narrower than the prior, so that z says something from the start."""
        with torch.no_grad():
            for head, size in zip(self.heads, self.sizes, strict=True):
                _last_linear(head).bias[size:].fill_(self.begin)

    def forward(self, x: Tensor, *condition: Tensor) -> list[Tensor]:
        """What each group's posterior reads of rows [B, ...]."""
        return self.climb(x, *condition)

    def conditional(self, group: int, features: Tensor, state: Tensor | None) -> DiagonalNormal:
        """q(z_g | x, z_<g), from the group's features and the state above it (None: it is the top one)."""
        head = self.heads[group]
        mean, raw = full_precision(head(features) if state is None else head(features, state)).chunk(2, -1)
        return DiagonalNormal(mean, *self.deviations(raw))


class TopPosterior(nn.Module):
    """q(z_1|x) alone: what a prior of the top group that reads the encoder is built on.

    Args:
        encoder: Of the whole hierarchy, which owns the weights.
    """

    def __init__(self, encoder: BottomUp) -> None:
        super().__init__()
        self.whole = (encoder,)  # in a tuple, so that the weights are no one else's
        self.latent = self.noise_size = encoder.sizes[0]

    def forward(self, x: Tensor, *condition: Tensor) -> DiagonalNormal:
        """q(z_1|x) for rows [B, ...]."""
        encoder = self.whole[0]
        return encoder.conditional(0, encoder(x, *condition)[0], None)


@dataclass(frozen=True)
class Walk:
    """What one walk down found.

    Args:
        z: The codes of all groups side by side, [K, B, L].
        parts: Each group's.
        q: q(z_g | x, z_<g) of each group.
        state: What the decoder reads, [K, B, width].
    """

    z: Tensor
    parts: list[Tensor]
    q: list[DiagonalNormal]
    state: Tensor


class LadderPosterior:
    """The q(z|x) of a `BottomUp` over a `Descent`: log q(z|x) = sum_g log q(z_g | x, z_<g).

    Below the top group it is no normal distribution, and its mean and variance have no closed form: they are those of a
    fixed set of base noise, as a flow's are.

    Args:
        encoder: What says where each group's posterior is.
        descent: The way down.
        features: Of each group, [B, F].
    """

    offers = EUCLIDEAN

    def __init__(self, encoder: BottomUp, descent: Descent, features: Sequence[Tensor]) -> None:
        self.encoder, self.descent, self.features = encoder, descent, features
        self.walk: Walk | None = None  # of the last samples, since what follows asks about the same ones

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """L of each group, the top one first."""
        return self.descent.sizes

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows, and standard normal numbers that a sample of one takes."""
        return len(self.features[0]), sum(self.group_sizes)

    def pushed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Samples from standard noise, both [K, B, L], and their log-density in nats, [K, B]."""
        parts = noise.split(self.group_sizes, -1)
        self.walk = self._walked(lambda group, q: q.push(parts[group]))
        return self.walk.z, _total(q.log_prob_pushed(part) for q, part in zip(self.walk.q, parts, strict=True))

    def rsample_with_log_prob(self, samples: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Samples [K, B, L] that carry gradients, and their log-density in nats, [K, B].

        Raises:
            BadInput: for base noise of another shape.
        """
        shape = (samples, *self.noise_shape)
        if noise is not None and noise.shape != shape:
            raise BadInput("noise", tuple(noise.shape), f"must have the shape (samples, rows, latent) = {shape}")
        return self.pushed(full_precision(self.features[0].new_empty(shape)).normal_() if noise is None else noise)

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """Samples [K, B, L] that carry gradients; from base noise of that shape where it is given."""
        return self.rsample_with_log_prob(samples, noise)[0]

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L] where B = 1, else [count, B, L]."""
        like = full_precision(self.features[0].new_empty(count, *self.noise_shape))
        return self.pushed(_noise_like(like, generator))[0].squeeze(1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B]."""
        walk = self._through(z)
        return _total(q.log_prob(part) for q, part in zip(walk.q, walk.parts, strict=True))

    def divergence(self, prior: Any, z: Tensor) -> tuple[Tensor, bool] | None:
        """KL(q(z_g | x, z_<g) || p(z_g)) in nats of each group, a mean over the z_<g of the samples, [B, G].

        Each is a closed form given the groups above it, but for a top prior that has none. The sum is exact only for a
        single group, and unbiased for more. None for a prior that is not one of groups.
        """
        sizes = self.group_sizes
        top = StandardNormal(sizes[0]) if isinstance(prior, StandardNormal) else getattr(prior, "top", None)
        if top is None:
            return None
        walk = self._through(z)
        first, exact = divergence(walk.q[0], top, walk.parts[0])
        pairs = zip(walk.q[1:], sizes[1:], strict=True)
        below = [divergence(q, StandardNormal(size), z)[0].sum(-1).mean(0) for q, size in pairs]
        return torch.stack([first.sum(1), *below], 1), exact and not below

    @cached_property
    def along(self) -> Walk:
        """The walk along the means."""
        return self._walked(lambda group, q: q.mean)

    @property
    def mode(self) -> Tensor:
        """Each group's likeliest code given that the groups above it are at theirs, [B, L]: what stands for a row."""
        return self.along.z

    @property
    def mean(self) -> Tensor:
        """Mean over the fixed noise, [B, L]."""
        return self._spread.mean(0)

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension over the fixed noise, [B, L]."""
        return self._spread.var(0, correction=0)

    @cached_property
    def _spread(self) -> Tensor:
        """z of the fixed noise, [points, B, L]; the walk of the last samples stays."""
        noise = fixed_noise(ROW_POINTS, self.noise_shape).to(full_precision(self.features[0]))
        parts = noise.split(self.group_sizes, -1)
        return self._walked(lambda group, q: q.push(parts[group])).z

    def _through(self, z: Tensor) -> Walk:
        """The walk through given codes."""
        if self.walk is not None and self.walk.z is z:
            return self.walk
        parts = z.split(self.group_sizes, -1)
        return self._walked(lambda group, q: parts[group])

    def _walked(self, place: Callable[[int, DiagonalNormal], Tensor]) -> Walk:
        """Walks down; `place` says where in its posterior each group's code is."""
        state: Tensor | None = None
        parts: list[Tensor] = []
        found: list[DiagonalNormal] = []
        for group, features in enumerate(self.features):
            found.append(self.encoder.conditional(group, features, state))
            parts.append(place(group, found[-1]))
            state = self.descent.below(group, state, parts[-1])
        assert state is not None
        return Walk(torch.cat(parts, -1), parts, found, state)


def _total(nats: Iterable[Tensor]) -> Tensor:
    first, *others = nats
    return sum(others, first)


def _noise_like(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _last_linear(module: nn.Module) -> nn.Linear:
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
