"""Linear VAEs and the models with a known log p(x) that they are: one read out of the other, in either direction."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.errors import BadInput
from ..core.seeds import generator
from ..distributions.likelihoods import Decoder, Gaussian
from ..distributions.normal import StandardNormal
from ..distributions.observations import NormalObservation
from ..models.vae import VAE
from ..rulers import LinearGaussian

PROBES = 16  # random codes that must be decoded as the weight and the offset say
TOLERANCE = 1e-8  # share of the output's size by which they may not: rounding in double precision, and nothing else


@torch.no_grad()
def linear_gaussian_of(model: Any) -> LinearGaussian:
    """The exact model of a VAE with a linear decoder, constant Gaussian noise and a standard normal prior.

    The decoder is read at 0 and at the unit vectors, in double precision and in the mode of evaluation, from a copy.

    Raises:
        BadInput: for another prior or likelihood, and for a decoder or a noise that random codes show to be otherwise.
    """
    model = copy.deepcopy(model).cpu().double().eval()
    prior = model.prior_distribution()
    if not isinstance(prior, StandardNormal):
        raise BadInput("model", f"the prior {type(prior).__name__}", "must be the standard normal")
    unit = torch.eye(prior.size, dtype=torch.float64)
    probes = torch.randn(PROBES, prior.size, generator=generator(0, "probes"), dtype=torch.float64)
    codes = torch.cat([torch.zeros_like(unit[:1]), unit, 3 * probes])
    observation = model.decode(codes[None])
    if not isinstance(observation, NormalObservation):
        raise BadInput("model", type(observation).__name__, "must have a Gaussian likelihood")
    means = observation.mean[0].flatten(1).numpy()
    log_sigma = observation.log_sigma(None).expand_as(observation.mean)[0].flatten(1).numpy()
    weight, offset = (means[1 : prior.size + 1] - means[0]).T, means[0]
    off = np.abs(codes.numpy() @ weight.T + offset - means).max() / max(np.abs(means).max(), 1e-300)
    if not off <= TOLERANCE or not np.ptp(log_sigma, axis=0).max() <= TOLERANCE:
        raise BadInput("model", f"a decoder {off:.1e} off a straight line", "must be linear, and its noise constant")
    return LinearGaussian(weight, offset, np.exp(2 * log_sigma[0]))


@torch.no_grad()
def linear_vae(ruler: LinearGaussian, shift: float = 0.0, spread: float = 1.0) -> VAE:
    """A VAE of ours in double precision that is an exact model, and whose encoder misses the posterior as told.

    Its q(z|x) has independent dimensions, about the posterior's mean plus `shift` of its deviations, with `spread`
    times its variances; the bound is loose by the same number of nats for every row.

    Raises:
        BadInput: for noise that differs between the entries of a row.
    """
    if np.ptp(ruler.variance) > 0:
        raise BadInput("variance", "several numbers", "must be the same for all entries of a row")
    entries, latent = ruler.weight.shape
    encoder, decoder = (nn.utils.skip_init(nn.Linear, *sizes) for sizes in ((entries, 2 * latent), (latent, entries)))
    model = VAE(encoder, Decoder(decoder, Gaussian("shared")), latent=latent).double()
    covariance = np.linalg.inv(ruler.precision)
    gain, variance = covariance @ ruler.weight.T / ruler.variance, np.diag(covariance)
    centre = shift * np.sqrt(variance) - gain @ ruler.offset
    values = {
        "encoder.weight": np.concatenate([gain, np.zeros_like(gain)]),
        "encoder.bias": np.concatenate([centre, np.log(spread * variance)]),
        "decoder.net.weight": ruler.weight,
        "decoder.net.bias": ruler.offset,
        "decoder.likelihood.noise.log_sigma": 0.5 * np.log(ruler.variance[0]),
    }
    model.load_state_dict({name: torch.as_tensor(value) for name, value in values.items()})
    return model
