"""Normal distributions pushed through invertible maps, as posterior q(z|x) and as prior p(z).

The maps are those of the package zuko (extra `flows`); densities, samples and their errors are written here.

References: Rezende and Mohamed, Variational Inference with Normalizing Flows, 2015; Kingma, Salimans et al., Improved
Variational Inference with Inverse Autoregressive Flow, 2016; Dinh, Sohl-Dickstein and Bengio, Density Estimation using
Real NVP, 2017; Papamakarios, Pavlakou and Murray, Masked Autoregressive Flow for Density Estimation, 2017; Durkan et
al., Neural Spline Flows, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution as TorchDistribution

from ..core.errors import BadInput, MissingExtra
from ..core.tables import pick
from .fitting import minimise
from .normal import EUCLIDEAN, ROW_POINTS, Normal, StandardNormal, fixed_noise, full_precision
from .posteriors import GaussianPosterior

BINS = 8  # of a spline, which bends within ±5 and is the identity beyond
NEAR_IDENTITY = 0.01  # of the usual start of a step's last layer: nearly no bend, and a gradient for all weights
PRIOR_POINTS = 2048  # of base noise, for the moments of a prior


class Flow:
    r"""A normal u pushed through maps: z = f(u), log q(z) = log N(u) - log \|det f'(u)\|.

    Mean and variance have no closed form; they are those of a fixed set of base noise (antithetic, with variance one
    in each dimension), so that they are exact for maps that scale and shift, repeatable, and differentiable.

    Args:
        base: Normal, B rows or one.
        maps: From u to z, in order; each offers `call_and_ladj` and `inv`.
        points: Base noise vectors that mean and variance are taken over.
    """

    offers = EUCLIDEAN

    def __init__(self, base: Normal, maps: Sequence[Any], points: int = ROW_POINTS) -> None:
        self.base, self.maps, self.points = base, maps, points

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows, and standard normal numbers that a sample of one takes."""
        return self.base.noise_shape

    def pushed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Samples from standard noise, both [K, B, L], and their log-density in nats, [K, B], from the same pass."""
        z, log_det = _through(self.maps, self.base.push(noise))
        return z, self.base.log_prob_pushed(noise) - log_det

    def rsample_with_log_prob(self, samples: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Samples [K, B, L] that carry gradients, and their log-density in nats, [K, B].

        Raises:
            BadInput: for noise of another shape.
        """
        shape = (samples, *self.noise_shape)
        if noise is None:
            noise = torch.randn(shape, dtype=self.base.mean.dtype, device=self.base.mean.device)
        elif noise.shape != shape:
            raise BadInput("noise", tuple(noise.shape), f"must have the shape (samples, rows, latent) = {shape}")
        return self.pushed(noise)

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """The samples alone, [K, B, L]."""
        return self.rsample_with_log_prob(samples, noise)[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B], by the inverse maps; of an autoregressive one in L passes."""
        u, log_det = _through([one.inv for one in reversed(self.maps)], z)
        return self.base.log_prob(u) + log_det

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L] where B = 1, else [count, B, L]; the generator is on our device."""
        mean = self.base.mean
        noise = torch.randn((count, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        return self.pushed(noise)[0].squeeze(1)

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
        """z of the fixed noise, [points, B, L]."""
        return self.pushed(fixed_noise(self.points, self.noise_shape).to(self.base.mean))[0]


def _through(maps: Iterable[Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """x [K, B, L] through maps one after the other, and the sum of their log-determinants, [K, B]."""
    log_det = x.new_zeros(x.shape[:-1])
    with torch.autocast(x.device.type, enabled=False):  # a density to three digits is none
        for one in maps:
            x, more = one.call_and_ladj(x)
            log_det = log_det + more
    return x, log_det


def _zuko(purpose: str) -> Any:
    """The module of flows of the package; importing it switches off checks of `torch.distributions`, which stay on.

    Raises:
        MissingExtra: where it is not installed.
    """
    checks = TorchDistribution._validate_args
    try:
        import zuko.flows
        import zuko.transforms
    except ImportError:
        raise MissingExtra("zuko", "flows", purpose) from None
    finally:
        TorchDistribution.set_default_validate_args(checks)
    return zuko


def _autoregressive(zuko: Any, size: int, number: int, **net: Any) -> nn.Module:
    order = torch.arange(size)
    return zuko.flows.autoregressive.MaskedAutoregressiveTransform(
        size, order=order.flip(0) if number % 2 else order, **net
    )


def _coupling(zuko: Any, size: int, number: int, **net: Any) -> nn.Module:
    return zuko.flows.coupling.GeneralCouplingTransform(size, mask=torch.arange(size) % 2 == number % 2, **net)


def _spline(zuko: Any, size: int, number: int, **net: Any) -> nn.Module:
    bent = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
    return _coupling(zuko, size, number, **bent, **net)


STEPS: dict[str, Callable[..., nn.Module]] = {"iaf": _autoregressive, "coupling": _coupling, "spline": _spline}


def flow_steps(
    kind: str, size: int, steps: int, hidden: Sequence[int], context: int = 0, purpose: str = "flow"
) -> nn.ModuleList:
    """Maps of vectors of a size, each near the identity at first; neighbours see the dimensions in another order.

    Args:
        kind: "iaf" (autoregressive), "coupling" (affine) or "spline" (coupling, rational quadratic splines).
        size: L.
        steps: How many.
        hidden: Widths of the network in each.
        context: Entries of what the networks read besides.
        purpose: The setting that asks for them, for the error's text.

    Raises:
        BadInput: for an unknown kind.
        MissingExtra: where the package zuko is not installed.
    """
    build, zuko = pick(STEPS, kind, "flow"), _zuko(purpose)
    net = {"context": context, "hidden_features": tuple(hidden), "activation": nn.SiLU}
    made = nn.ModuleList([build(zuko, size, number, **net) for number in range(steps)])
    with torch.no_grad():
        for step in made:
            last: Any = step.hyper[-1] if hasattr(step, "hyper") else step  # type: ignore[index]
            for parameter in last.parameters():
                parameter.mul_(NEAR_IDENTITY)
    return made


class FlowPosterior(nn.Module):
    r"""q(z|x): the diagonal normal of `GaussianPosterior` and maps after it, all from the same features.

    .. math:: u = \mu(x) + \sigma(x) \epsilon, \quad z = f_n \circ \dots \circ f_1(u; x)

    Without maps it is that normal, and it starts near it. The pass that draws z gives log q(z|x) as well. For `iaf` the
    density of other points takes L passes; for `coupling` and `spline` either way is one.

    Args:
        net: Maps a batch [B, ...] to features [B, features].
        features: Width of the features.
        latent: Dimensions L of z.
        kind: "iaf", "coupling" or "spline".
        steps: Maps, 0 or more.
        hidden: Widths of the network in each.
        scale: As of `GaussianPosterior`.

    Raises:
        BadInput: for an unknown kind.
        MissingExtra: where the package zuko is not installed.
    """

    def __init__(
        self,
        net: nn.Module,
        features: int,
        latent: int,
        kind: str = "iaf",
        steps: int = 2,
        hidden: Sequence[int] = (128, 128),
        scale: str = "log_variance",
    ) -> None:
        super().__init__()
        self.latent, self.noise_size, self.net = latent, latent, net
        self.base = GaussianPosterior(nn.Identity(), features, latent, scale=scale)
        self.steps = flow_steps(kind, latent, steps, hidden, features, f"model.posterior={kind}")

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Flow:
        """The posterior of each row of x, [B, ...]; a network that reads a condition [B, C] takes it as well."""
        features = full_precision(self.net(x) if condition is None else self.net(x, condition))
        return Flow(self.base(features), [step(features) for step in self.steps])


class FlowPrior(nn.Module):
    """p(z): a masked autoregressive flow of the standard normal, whose density is one pass, and a sample L of them.

    Args:
        latent: Dimensions L of z.
        steps: Maps.
        hidden: Widths of the network in each.

    Raises:
        MissingExtra: where the package zuko is not installed.
    """

    anchor: Tensor

    def __init__(self, latent: int, steps: int = 4, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.latent = latent
        self.steps = flow_steps("iaf", latent, steps, hidden, purpose="prior.name=flow")
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def forward(self, context: Tensor | None = None) -> Flow:
        """The prior, one row; it depends on no context."""
        base = StandardNormal(self.latent, self.anchor.device, self.anchor.dtype)
        return Flow(base, [step().inv for step in self.steps], PRIOR_POINTS)

    def fit(self, z: Tensor, steps: int, seed: int) -> None:
        """Moves the flow to codes z [N, L] by maximum likelihood."""
        minimise(self, lambda part: -self().log_prob(part[None]).mean(), z, steps, seed)
