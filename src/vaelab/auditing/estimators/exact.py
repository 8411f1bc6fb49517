"""VAEs whose log p(x) is known exactly: the yardstick for estimators of the likelihood and for weighted objectives."""

from __future__ import annotations

import functools
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import rulers
from ...rulers import LOG_2PI, by_quadrature, log_standard_normal, log_sum_exp

_SHIFT, _SPREAD = 0.7, 2.0  # the encoder misses the posterior by this, in its std and variance: some 1 nat of looseness
_SIZES, _ANGLE = (2.2, 1.5), 0.6  # singular values of W, and its turn: a posterior with stds 0.41 and 0.55, correlated


class Encoded(tuple[Any, ...]):
    """What `encode` returns: unpacks to (mu, logvar), and has the names other libraries use, the Normal's included."""

    @property
    def embedding(self) -> Any:
        return self[0]

    mu = embedding

    @property
    def log_covariance(self) -> Any:
        return self[1]

    logvar = log_var = log_covariance

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.distributions.Normal(self[0], torch.exp(0.5 * self[1])), name)


class Decoded(Tensor):
    """What `decode` returns: the decoder's output, which answers to `["reconstruction"]` and `.reconstruction` too."""

    def __getitem__(self, key: Any) -> Any:
        return self if key == "reconstruction" else super().__getitem__(key)

    @property
    def reconstruction(self) -> Decoded:
        return self


class Part(nn.Module):
    """A method of a model as a module of its own, for code that wants `encoder` and `decoder`."""

    def __init__(self, method: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = method


def in_kind(method: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a method of tensors take arrays as well, and answer in arrays where it got some."""

    @functools.wraps(method)
    def wrapped(self: KnownVAE, *given: Any) -> Any:
        tensors = [torch.as_tensor(item, dtype=self.weight.dtype) for item in given]
        result = method(self, *tensors)
        if not any(isinstance(item, np.ndarray) for item in given):
            return result
        if isinstance(result, tuple):
            return type(result)(part.detach().numpy() for part in result)
        return result.detach().numpy()

    return wrapped


class KnownVAE(nn.Module, ABC):
    """A VAE with a linear decoder, a standard normal prior and a deliberately inexact encoder.

    `p(x|z)` has the parameters `W z + m`; the encoder's mean is `A (x - m) + shift` with a fixed diagonal variance, so
    that the bound is loose by some 1 nat and the draws matter. Shapes: x `[..., P]`, z, mu and logvar `[..., D]`.

    Args:
        pixels: P.
        seed: Draws W and m.
        dtype: Of the parameters, and of what the methods return.
    """

    family = ""
    latents = 2

    def __init__(self, pixels: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        turn = np.array([[math.cos(_ANGLE), math.sin(_ANGLE)], [-math.sin(_ANGLE), math.cos(_ANGLE)]])
        weight = np.linalg.qr(draw.normal(size=(pixels, self.latents)))[0] * _SIZES @ turn
        offset = draw.normal(0, 1.0, pixels)
        self.pixels = pixels
        self.weight = nn.Parameter(torch.tensor(weight, dtype=dtype))
        self.offset = nn.Parameter(torch.tensor(offset, dtype=dtype))
        self.covariance = np.linalg.inv(np.eye(self.latents) + self.information * weight.T @ weight)
        variance = np.diag(self.covariance)
        self.register_buffer("gain", torch.tensor(self.information * self.covariance @ weight.T, dtype=dtype))
        self.register_buffer("shift", torch.tensor(_SHIFT * np.sqrt(variance), dtype=dtype))
        self.register_buffer("log_variance", torch.tensor(np.log(_SPREAD * variance), dtype=dtype))
        self.encoder, self.decoder = Part(self.encode), Part(self.decode)
        self.latent_dim, self.input_dim, self.device = self.latents, (pixels,), torch.device("cpu")
        loss = {"gaussian": "mse"}.get(self.family, "bce")
        self.model_config = SimpleNamespace(reconstruction_loss=loss, latent_dim=self.latents, input_dim=(pixels,))
        self.decoded: list[tuple[Tensor, Tensor]] = []

    information = 1.0  # of one output entry about its own parameter: 1/sigma^2, or p(1-p)
    gain: Tensor
    shift: Tensor
    log_variance: Tensor

    def encode(self, x: Any, *_: Any) -> Encoded:
        """Mean and log-variance of the inexact posterior, each [..., D]."""
        return Encoded(self._encode(x))

    @in_kind
    def _encode(self, x: Tensor) -> Encoded:
        mu = (x - self.offset) @ self.gain.T + self.shift
        return Encoded((mu, self.log_variance.expand_as(mu)))

    @in_kind
    def decode(self, z: Tensor) -> Tensor:
        """The decoder's output [..., P]; what it was asked is kept in `decoded`."""
        output = self.output(z @ self.weight.T + self.offset).as_subclass(Decoded)
        self.decoded.append((z, output))
        return output

    @in_kind
    def log_px_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) in nats per sample, [...]; x and z broadcast."""
        return self.log_density(x, self.decode(z).as_subclass(Tensor)).sum(-1)

    def reparameterize(self, mu: Any, logvar: Any) -> Any:
        """A draw of N(mu, exp(logvar))."""
        exp: Callable[[Any], Any] = np.exp if isinstance(logvar, np.ndarray) else torch.exp
        return self._sample_gauss(mu, exp(0.5 * logvar))[0]

    reparametrize = reparameterization = reparameterize

    def _sample_gauss(self, mu: Any, std: Any) -> tuple[Any, Any]:
        noise = np.random.standard_normal(mu.shape) if isinstance(mu, np.ndarray) else torch.randn_like(mu)
        return mu + std * noise, noise

    def forward(self, x: Any) -> tuple[Any, Any, Any]:
        """(output, mu, logvar) at one draw of the posterior."""
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar

    def drawn(self) -> int:
        """Latent vectors decoded since the count was last asked for."""
        count = sum(z.shape[:-1].numel() for z, _ in self.decoded)
        self.decoded.clear()
        return count

    @abstractmethod
    def output(self, parameter: Tensor) -> Tensor:
        """The decoder's output from W z + m."""

    @staticmethod
    @abstractmethod
    def log_density(x: Any, output: Any) -> Any:
        """log p(x|output) of each entry, in nats; tensors or float64 arrays."""

    @abstractmethod
    def sample(self, rows: int, seed: int, stretch: float = 1.0, noise: float = 1.0) -> np.ndarray:
        """Rows of data [rows, P]; stretch scales the latent part, noise the rest, for rows unlike the model's own."""

    def parameters_of(self, z: np.ndarray) -> np.ndarray:
        """W z + m in float64: [..., P] from [..., D]."""
        return np.asarray(z @ array(self.weight).T + array(self.offset))

    def outputs(self, z: np.ndarray) -> np.ndarray:
        """The decoder's output in float64, uncounted: [..., P] from [..., D]."""
        return self.output(torch.from_numpy(self.parameters_of(z))).numpy()

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean [B, D] and standard deviation [D] of the encoder's posterior in float64."""
        mean = (x - array(self.offset)) @ array(self.gain).T + array(self.shift)
        return mean, np.exp(0.5 * array(self.log_variance))

    def log_likelihood(self, x: np.ndarray, log_density: Callable[[Any, Any], Any] | None = None) -> np.ndarray:
        """log p(x) [B] in nats by quadrature over both latents, exact to rounding; of another density if given."""
        density = log_density or self.log_density

        def log_joint(z: np.ndarray) -> np.ndarray:
            outputs = self.outputs(z)
            log_px = np.stack([density(row, outputs).sum(-1) for row in np.asarray(x, float)], 1)
            return log_px + log_standard_normal(z)[:, None]

        return by_quadrature(log_joint, self.latents).values

    def log_weights(
        self,
        x: np.ndarray,
        samples: int,
        seed: int,
        log_density: Callable[[Any, Any], Any] | None = None,
        prior: bool = False,
    ) -> np.ndarray:
        """log p(x|z) + log p(z) - log q(z) at draws of the encoder (or of the prior): [samples, B]."""
        noise = np.random.default_rng(seed).standard_normal((samples, len(x), self.latents))
        mean, std = (0.0, np.ones(self.latents)) if prior else self.posterior(x)
        z = mean + std * noise
        ratio = (0.5 * noise**2 - 0.5 * z**2 + np.log(std)).sum(-1)
        return (log_density or self.log_density)(x, self.outputs(z)).sum(-1) + ratio


class LinearGaussian(KnownVAE):
    """x = W z + m + eps with eps ~ N(0, I): log p(x) = log N(x; m, W W^T + I).

    Reference: Tipping and Bishop, Probabilistic Principal Component Analysis, 1999.

    Example:
        >>> model = LinearGaussian()
        >>> x = model.sample(3, seed=0)
        >>> bool(np.allclose(model.exact(x), model.log_likelihood(x)))
        True
    """

    family = "gaussian"
    sigma = 1.0

    def output(self, parameter: Tensor) -> Tensor:
        return parameter

    @staticmethod
    def log_density(x: Any, output: Any) -> Any:
        return -0.5 * (x - output) ** 2 - 0.5 * LOG_2PI

    def sample(self, rows: int, seed: int, stretch: float = 1.0, noise: float = 1.0) -> np.ndarray:
        draw = np.random.default_rng(seed)
        mean = self.parameters_of(stretch * draw.standard_normal((rows, self.latents)))
        return mean + noise * draw.standard_normal((rows, self.pixels))

    def exact(self, x: np.ndarray) -> np.ndarray:
        """log p(x) [B] in nats in closed form."""
        return self._ruler.log_prob(x)

    def elbo(self, x: np.ndarray) -> np.ndarray:
        """The evidence lower bound [B] of the inexact encoder, in nats in closed form."""
        mean, std = self.posterior(x)
        return self._ruler.elbo(x, mean, std**2)

    @property
    def _ruler(self) -> rulers.LinearGaussian:
        return rulers.LinearGaussian(array(self.weight), array(self.offset), np.array(self.sigma**2))


class LinearBernoulli(KnownVAE):
    """x ~ Bernoulli(sigmoid(W z + m)), with probabilities as the decoder's output."""

    family = "bernoulli"
    information = 0.25

    def output(self, parameter: Tensor) -> Tensor:
        return torch.sigmoid(parameter)

    @staticmethod
    def log_density(x: Any, output: Any) -> Any:
        log, log1p = (torch.log, torch.log1p) if isinstance(output, Tensor) else (np.log, np.log1p)
        return x * log(output) + (1 - x) * log1p(-output)

    def sample(self, rows: int, seed: int, stretch: float = 1.0, noise: float = 1.0) -> np.ndarray:
        draw = np.random.default_rng(seed)
        parameter = self.parameters_of(stretch * draw.standard_normal((rows, self.latents))) * noise
        return (draw.random((rows, self.pixels)) < 1 / (1 + np.exp(-parameter))).astype(float)


class LinearBernoulliLogits(LinearBernoulli):
    """x ~ Bernoulli(sigmoid(W z + m)), with logits as the decoder's output."""

    family = "bernoulli on logits"

    def output(self, parameter: Tensor) -> Tensor:
        return parameter

    @staticmethod
    def log_density(x: Any, output: Any) -> Any:
        softplus = nn.functional.softplus(output) if isinstance(output, Tensor) else np.logaddexp(0.0, output)
        return x * output - softplus


FAMILIES: dict[str, type[KnownVAE]] = {
    kind.family: kind for kind in (LinearGaussian, LinearBernoulli, LinearBernoulliLogits)
}


def array(tensor: Tensor) -> np.ndarray:
    """A parameter as float64 numbers."""
    return tensor.detach().double().numpy()


def log_mean_exp(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """log of the mean of exponentials along an axis.

    Example:
        >>> float(log_mean_exp(np.log(np.array([1.0, 3.0]))).round(6)) == round(math.log(2), 6)
        True
    """
    return log_sum_exp(values, axis) - math.log(values.shape[axis])


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's global generators, and puts them back as they were."""
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(tensor)
