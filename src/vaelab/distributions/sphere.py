r"""Codes on the unit sphere S^{L-1}: the von Mises-Fisher posterior and the uniform prior.

Everything about the von Mises-Fisher distribution follows from one integral over the angle t from its mean direction,

.. math:: Z(\kappa) = \int_0^\pi e^{\kappa (\cos t - 1)} \sin^{L-2} t \, dt
          = e^{-\kappa} I_\nu(\kappa) \, \sqrt\pi \, \Gamma(\nu + 1/2) (2 / \kappa)^\nu, \quad \nu = L/2 - 1,

Poisson's integral of the modified Bessel function. The integrand is smooth with one bump, so that Gauss's rule over
the bump gives it to the last digits for any L >= 2 and any concentration from 0 up to 1e15, where the Bessel function
itself over- or underflows; and its parts are the angle's distribution function, of which samples are the inverse.

References: Davidson et al., Hyperspherical Variational Auto-Encoders, 2018; Figurnov, Mohamed and Mnih, Implicit
Reparameterization Gradients, 2018.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadInput
from .normal import full_precision

SPHERE = frozenset({"density", "continuous", "sphere"})
SHORTEST = 1e-12  # length below which `normalize` leaves a vector shorter than 1
PANELS, NODES = 64, 6  # of the bump, which they cover far into its tails
MOST = 1e12  # concentration that a network can ask for: codes within a millionth of their mean direction
REACH = 12.0  # deviations of the bump to either side: what lies beyond is below double precision
NEWTON = 8  # steps to the inverse within a panel; they converge quadratically but at the poles


class UniformSphere:
    """The uniform distribution on the unit sphere in L dimensions, one row.

    Example:
        >>> UniformSphere(3).log_prob(torch.eye(3)[None, :1])  # minus log 4 pi
        tensor([[-2.5310]])
    """

    offers = SPHERE

    def __init__(self, size: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        self.size, self.device, self.dtype = size, device, dtype

    @property
    def mean(self) -> Tensor:
        """Zeros, [1, L]."""
        return torch.zeros(1, self.size, device=self.device, dtype=self.dtype)

    @property
    def variance(self) -> Tensor:
        """1 / L in each dimension, [1, L]."""
        return torch.full_like(self.mean, 1 / self.size)

    def log_prob(self, z: Tensor) -> Tensor:
        """Minus the logarithm of the sphere's area, in nats, for z [K, B, L] on it, [K, B]."""
        return z.new_full(z.shape[:-1], -log_area(self.size))

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples [count, L]; the generator is on our device."""
        noise = torch.randn(count, self.size, generator=generator, device=self.device, dtype=self.dtype)
        return F.normalize(noise, dim=-1)


class VonMisesFisher:
    r"""q(z|x) with density proportional to exp(kappa mu.z) on the unit sphere, for each row.

    A sample is a function of L + 1 standard normal numbers: one gives the angle from mu, by the inverse of its
    distribution function; the others, less their part along mu, give the direction away from it. The gradient is that
    of this function, exact in mu and in kappa: dt/dkappa = -(dF/dkappa) / F'(t), where a rejection sampler would need a
    correction that knows the whole loss.

    Args:
        direction: mu, unit vectors, [B, L] with L >= 2.
        concentration: kappa from 0, the uniform distribution, up to 1e15, beyond which the angle at the mode is lost
            to rounding, [B, 1].

    Raises:
        BadInput: for fewer than two dimensions.
    """

    offers = SPHERE

    def __init__(self, direction: Tensor, concentration: Tensor) -> None:
        if direction.shape[-1] < 2:
            raise BadInput("model.latent", direction.shape[-1], "a sphere takes at least 2 dimensions")
        self.direction, self.concentration = direction, concentration
        self._angle = Angle(concentration.double().squeeze(-1), direction.shape[-1])

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows, and standard normal numbers that a sample of one takes."""
        rows, size = self.direction.shape
        return rows, size + 1

    @property
    def mean(self) -> Tensor:
        """E[cos t] mu, inside the sphere, [B, L]."""
        return (1 + self._angle.cosine).to(self.direction.dtype).unsqueeze(-1) * self.direction

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, [B, L]: along mu that of cos t, across it E[sin² t] / (L - 1)."""
        off, squares = self._angle.cosine, self._angle.squares  # of cos t - 1, which keeps its digits near 0
        along, across = squares - off.square(), -(squares + 2 * off) / (self.direction.shape[-1] - 1)
        along, across = (part.to(self.direction.dtype).unsqueeze(-1) for part in (along, across))
        return across + (along - across) * self.direction.square()

    def pushed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [K, B, L] from standard noise [K, B, L + 1], and their log-density in nats, [K, B]."""
        angle = self._angle.quantile(noise[..., 0].double())
        cosine, sine = (part.to(noise.dtype).unsqueeze(-1) for part in (angle.cos(), angle.sin()))
        away = self._across(self._across(noise[..., 1:]))  # twice: rounding may leave as much along mu as across
        # cos t - 1 as -2 sin²(t / 2) keeps its digits where the concentration is large.
        log_q = self._log_density(-2 * (angle / 2).sin().square()).to(noise.dtype)
        return cosine * self.direction + sine * away, log_q

    def _across(self, v: Tensor) -> Tensor:
        """The unit vectors of the parts of v that stand at a right angle to mu."""
        return F.normalize(v - (v * self.direction).sum(-1, keepdim=True) * self.direction, dim=-1)

    def rsample_with_log_prob(self, samples: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Samples [K, B, L] that carry gradients, and their log-density in nats, [K, B].

        Raises:
            BadInput: for noise of another shape.
        """
        shape = (samples, *self.noise_shape)
        if noise is None:
            noise = torch.randn(shape, dtype=self.direction.dtype, device=self.direction.device)
        elif noise.shape != shape:
            raise BadInput("noise", tuple(noise.shape), f"must have the shape (samples, rows, latent + 1) = {shape}")
        return self.pushed(noise)

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """The samples alone, [K, B, L]."""
        return self.rsample_with_log_prob(samples, noise)[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, with respect to the sphere's area, of z [K, B, L] on it, [K, B]."""
        # |z - mu|² / 2 = 1 - mu.z on the sphere, without cancellation.
        return self._log_density((z - self.direction).double().square().sum(-1) * -0.5).to(z.dtype)

    def _log_density(self, off: Tensor) -> Tensor:
        """From cos t - 1, [K, B]."""
        return self._angle.concentration * off - self._angle.log_total - log_area(self.direction.shape[-1] - 1)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L] where B = 1, else [count, B, L]; the generator is on our device."""
        like = self.direction
        noise = torch.randn((count, *self.noise_shape), generator=generator, dtype=like.dtype, device=like.device)
        return self.pushed(noise)[0].squeeze(1)

    def divergence(self, prior: Any, z: Tensor) -> tuple[Tensor, bool] | None:
        """KL from the uniform distribution in nats, [B, 1], in closed form; None for another prior.

        kappa E[cos t - 1] - log Z(kappa) + log Z(0), for Z of this module.
        """
        if not isinstance(prior, UniformSphere):
            return None
        size = self.direction.shape[-1]
        log_flat = log_area(size) - log_area(size - 1)
        kl = self._angle.concentration * self._angle.cosine - self._angle.log_total + log_flat
        return kl.to(self.direction.dtype).unsqueeze(-1), True


class Angle:
    r"""The angle t in [0, pi] from the mean direction, with density e^{kappa (cos t - 1)} sin^{L-2} t / Z, in float64.

    Args:
        concentration: kappa, [B].
        size: L.

    Attributes:
        log_total: log Z, [B].
        cosine: E[cos t - 1], [B].
        squares: E[(cos t - 1)²], [B].
    """

    def __init__(self, concentration: Tensor, size: int) -> None:
        self.concentration, self.power = concentration, size - 2
        self._x, self._w = (part.to(concentration) for part in _rule())
        self._set_panels(concentration.detach())
        width = self._edges.diff(dim=-1)[..., None]
        nodes = self._edges[:, :-1, None] + width * self._x
        masses = self._density(nodes) * width * self._w
        off = -2 * (nodes / 2).sin().square()
        self._panels = masses.sum(2)
        total = self._panels.sum(1)
        self.log_total = total.log() + self._top
        self.cosine, self.squares = ((masses * part).sum((1, 2)) / total for part in (off, off.square()))

    def quantile(self, noise: Tensor) -> Tensor:
        """The angle whose upper tail has the mass that a standard normal number's lower tail has, [K, B].

        Its gradient in kappa is that of the inverse distribution function.
        """
        begins = F.pad(self._panels.cumsum(1), (1, 0))
        share = 0.5 * torch.special.erfc(noise.T / math.sqrt(2))
        with torch.no_grad():
            wanted = share * begins[:, -1:]
            panel = torch.searchsorted(begins, wanted.contiguous()).sub(1).clamp(0, PANELS - 1)
            left, right = self._edges.gather(1, panel), self._edges.gather(1, panel + 1)
            wanted = wanted - begins.gather(1, panel)
            angle = left + (right - left) * wanted / self._panels.gather(1, panel).clamp(min=1e-300)
            for _ in range(NEWTON):
                step = (self._part(left, angle) - wanted) / self._density(angle[..., None])[..., 0].clamp(min=1e-300)
                angle = (angle - step).clamp(left, right)
            density = self._density(angle[..., None])[..., 0].clamp(min=1e-300)
        below = begins.gather(1, panel) + self._part(left, angle) - share * begins[:, -1:]
        return (angle - (below - below.detach()) / density).T

    def _part(self, left: Tensor, right: Tensor) -> Tensor:
        """The mass between angles of one panel, [B, K]."""
        width = (right - left)[..., None]
        return (self._density(left[..., None] + width * self._x) * width * self._w).sum(-1)

    def _density(self, angle: Tensor) -> Tensor:
        """In units of that at the mode, [B, ..., ...]: the power of a sine underflows in many dimensions."""
        return (self._log_density(angle, self.concentration[:, None, None]) - self._top[:, None, None]).exp()

    def _log_density(self, angle: Tensor, kappa: Tensor) -> Tensor:
        return torch.xlogy(angle.new_tensor(self.power), angle.sin()) - 2 * kappa * (angle / 2).sin().square()

    def _set_panels(self, kappa: Tensor) -> None:
        """The panels' edges, [B, PANELS + 1], far to either side of the mode, and the log-density there, [B]."""
        # At the mode kappa sin² t = (L - 2) cos t.
        cosine = 2 * kappa / (self.power + (self.power**2 + 4 * kappa.square()).sqrt()).clamp(min=1e-300)
        mode = cosine.clamp(max=1.0).acos() if self.power else torch.zeros_like(kappa)
        bend = kappa * mode.cos() + (self.power / mode.sin().square().clamp(min=1e-300) if self.power else 0.0)
        reach = REACH * bend.clamp(min=1e-12).rsqrt()
        low, high = (mode - reach).clamp(min=0.0), (mode + reach).clamp(max=math.pi)
        steps = torch.linspace(0, 1, PANELS + 1, dtype=kappa.dtype, device=kappa.device)
        self._edges = low[:, None] + (high - low)[:, None] * steps
        self._top = self._log_density(mode, kappa)


def log_area(size: int) -> float:
    """Logarithm of the area of the unit sphere in that many dimensions; two points in one.

    Example:
        >>> round(math.exp(log_area(3)) / math.pi, 6)
        4.0
    """
    return math.log(2) + size / 2 * math.log(math.pi) - math.lgamma(size / 2)


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Gauss's nodes and weights on [0, 1], [NODES] each."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


class VonMisesFisherPosterior(nn.Module):
    """q(z|x) on the unit sphere: a network, and one linear layer for the mean direction and the concentration.

    The concentration is k / (1 + k / 1e12) with k = log(1 + e^h), which begins at L, where samples are some 50 degrees
    from their mean. Outputs of 0, which have no direction, stand for the first axis.

    Args:
        net: Maps a batch [B, ...] to features [B, features].
        features: Width of the features.
        latent: Entries L of z, at least 2; z has L - 1 degrees of freedom.

    Raises:
        BadInput: for fewer than two entries.
    """

    def __init__(self, net: nn.Module, features: int, latent: int) -> None:
        super().__init__()
        if latent < 2:
            raise BadInput("model.latent", latent, "a sphere takes at least 2 dimensions", "model.latent=2")
        self.latent, self.noise_size = latent, latent + 1
        self.net, self.head = net, nn.Linear(features, latent + 1)

    def start(self) -> None:
        """Begin at a concentration of L."""
        with torch.no_grad():
            self.head.bias[-1].fill_(self.latent + math.log(-math.expm1(-self.latent)))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> VonMisesFisher:
        """The posterior of each row of x, [B, ...]; a network that reads a condition [B, C] takes it as well."""
        features = self.net(x) if condition is None else self.net(x, condition)
        direction, raw = full_precision(self.head(features)).tensor_split((self.latent,), dim=-1)
        kappa = F.softplus(raw)
        return VonMisesFisher(unit(direction), kappa / (1 + kappa / MOST))


def unit(v: Tensor) -> Tensor:
    """Vectors [..., L] scaled to length 1; the first axis where they are too short for that.

    Example:
        >>> unit(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        tensor([[0., 1.],
                [1., 0.]])
    """
    length = v.detach().norm(dim=-1, keepdim=True)
    axis = F.one_hot(torch.zeros((), dtype=torch.long, device=v.device), v.shape[-1]).to(v.dtype)
    return F.normalize(torch.where(length > SHORTEST, v, axis), dim=-1)


class UniformSpherePrior(nn.Module):
    """p(z) uniform on the unit sphere, on the module's device and in its precision."""

    anchor: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def forward(self, context: Tensor | None = None) -> UniformSphere:
        """The uniform distribution; it depends on no context."""
        return UniformSphere(self.latent, self.anchor.device, self.anchor.dtype)


class OnSphere(nn.Module):
    """A decoder network that sees any point as the nearest one of the unit sphere, so that means and paths decode.

    It sees the sphere with radius sqrt(L), on which entries are of order one, as networks expect them.

    Args:
        net: Reads codes [N, L] and whatever is given beside them.
        latent: L; entries beyond it are left as they are.
    """

    def __init__(self, net: nn.Module, latent: int) -> None:
        super().__init__()
        self.net, self.latent = net, latent

    def forward(self, z: Tensor) -> Tensor:
        code, beside = z.tensor_split((self.latent,), dim=-1)
        return self.net(torch.cat([F.normalize(code, dim=-1) * math.sqrt(self.latent), beside], -1))
