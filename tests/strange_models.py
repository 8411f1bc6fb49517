"""Models as strangers write them: correct ones in many styles, and mutations with one mistake each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.nn import functional as F

P, D = 12, 4


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mu**2 - logvar.exp()).flatten(1).sum(1)


def bernoulli_loss(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (F.binary_cross_entropy(recon_x, x, reduction="sum") + kl(mu, logvar).sum()) / len(x)


class Plain(nn.Module):
    """An MLP with encode, reparameterize, decode, forward and a loss by names."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(P, 16), nn.ReLU())
        self.fc_mu, self.fc_logvar = nn.Linear(16, D), nn.Linear(16, D)
        self.dec = nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, P))

    def encode(self, x):
        h = self.enc(x.flatten(1))
        return self.fc_mu(h), self.fc_logvar(h)

    def reparameterize(self, mu, logvar):
        return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)

    def decode(self, z):
        return torch.sigmoid(self.dec(z))

    def forward(self, x):
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar

    def loss_function(self, recon_x, x, mu, logvar):
        return bernoulli_loss(recon_x, x, mu, logvar)


class WithLoss(Plain):
    """The loss from the batch alone."""

    loss_function = None

    def compute_loss(self, x):
        recon, mu, logvar = self(x)
        return bernoulli_loss(recon, x, mu, logvar)


# --------------------------------------------------------------------------------------------------------- right ones
class Conv(nn.Module):
    """One head cut in two, batch normalisation and dropout, logits, a dictionary with the loss from forward."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2))
        self.heads, self.up = nn.Linear(4 * 196, 12), nn.Linear(6, 4 * 196)
        self.out = nn.Sequential(nn.Unflatten(1, (4, 14, 14)), nn.ConvTranspose2d(4, 1, 4, 2, 1))

    def forward(self, x):
        mu, logvar = self.heads(self.down(x)).chunk(2, 1)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(logvar)
        logits = self.out(self.up(z))
        rec = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        return {"loss": rec + kl(mu, logvar).mean(), "recon_loss": rec, "recon": torch.sigmoid(logits)}


class Starred(Plain):
    """`loss_function(*args, **kwargs)` on all that forward returns."""

    def forward(self, x, **kwargs):
        recon, mu, logvar = super().forward(x)
        return [recon, x, mu, logvar]

    def loss_function(self, *args, **kwargs):
        recons, x, mu, log_var = args
        loss = F.mse_loss(recons, x) + kwargs["M_N"] * kl(mu, log_var).mean()
        return {"loss": loss, "KLD": -kl(mu, log_var).mean().detach()}


class Lightning(Plain):
    """A training step that logs to a trainer which is not there."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        recon, mu, logvar = self(x.view(x.size(0), -1))
        loss = bernoulli_loss(recon, x, mu, logvar)
        self.log("train_loss", loss)
        return loss

    def log(self, *args, **kwargs):
        raise RuntimeError("no trainer is attached")

    def configure_optimizers(self):
        return {"optimizer": torch.optim.Adam(self.parameters(), lr=1e-3)}


class Manual(Lightning):
    """Manual optimisation: the loss goes to backward and is not returned."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = bernoulli_loss(self(batch[0])[0], batch[0], *self(batch[0])[1:])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Distributions(Plain):
    """Everything in torch.distributions; targets must be zeros and ones."""

    loss_function = None

    def forward(self, x):
        mu, raw = self.encode(x)
        posterior = Independent(Normal(mu, F.softplus(raw)), 1)
        return Independent(Bernoulli(logits=self.dec(posterior.rsample())), 1), posterior

    def elbo(self, x):
        likelihood, posterior = self(x)
        prior = Independent(Normal(torch.zeros_like(posterior.mean), torch.ones_like(posterior.mean)), 1)
        return -(likelihood.log_prob(x) - kl_divergence(posterior, prior)).mean()


class OneSample(WithLoss):
    """The divergence by one sample of z."""

    def compute_loss(self, x):
        mu, logvar = self.encode(x)
        posterior = Normal(mu, (0.5 * logvar).exp())
        z = posterior.rsample()
        log_px = Bernoulli(probs=self.decode(z)).log_prob(x)
        return (posterior.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1).mean() - log_px.sum(1).mean()


class BaseNoise(WithLoss):
    """The divergence by one sample, written in the base noise."""

    def compute_loss(self, x):
        mu, logvar = self.encode(x)
        eps = torch.randn_like(mu)
        z = mu + eps * (0.5 * logvar).exp()
        log_q, log_p = (-0.5 * eps**2 - 0.5 * logvar).sum(1), (-0.5 * z**2).sum(1)
        return (F.binary_cross_entropy(self.decode(z), x, reduction="none").sum(1) + log_q - log_p).mean()


class LearnedNoise(WithLoss):
    """Mean and log-variance from the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.log_noise = nn.Linear(D, P)

    def compute_loss(self, x):
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar)
        mean, noise = self.dec(z), self.log_noise(z)
        return (0.5 * ((x - mean) ** 2 / noise.exp() + noise + math.log(2 * math.pi)).sum(1) + kl(mu, logvar)).mean()


class GlobalNoise(WithLoss):
    """One learned noise scale, a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(1))

    def compute_loss(self, x):
        recon, mu, logvar = self(x)
        gaussian = 0.5 * ((x - recon) / self.log_sigma.exp()) ** 2 + self.log_sigma
        return (gaussian.sum(1) + kl(mu, logvar)).mean()


class Text(nn.Module):
    """Tokens through an embedding and two recurrent networks; forward returns the loss."""

    def __init__(self, words: int = 7) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(words, 8), nn.GRU(8, 16, batch_first=True)
        self.to_mu, self.to_logvar, self.start = nn.Linear(16, D), nn.Linear(16, D), nn.Linear(D, 16)
        self.write, self.out = nn.GRU(8, 16, batch_first=True), nn.Linear(16, words)

    def forward(self, x):
        _, h = self.read(self.embed(x))
        mu, logvar = self.to_mu(h[-1]), self.to_logvar(h[-1])
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        states, _ = self.write(self.embed(x), self.start(z)[None].contiguous())
        logits = self.out(states)
        return F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="sum") / len(x) + kl(mu, logvar).mean()


@dataclass
class Output:
    loss: Tensor
    recon: Tensor


class Named(WithLoss):
    """A dictionary as batch, a dataclass as result."""

    compute_loss = None

    def forward(self, inputs):
        x = inputs["data"]
        mu, logvar = self.encode(x)
        recon = self.decode(self.reparameterize(mu, logvar))
        return Output(bernoulli_loss(recon, x, mu, logvar), recon)


class Spatial(nn.Module):
    """A code with height and width, and a clamp before everything."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.quant, self.up = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 6, 1), nn.ConvTranspose2d(3, 3, 4, 4)

    def forward(self, x):
        mean, logvar = self.quant(F.silu(self.down(x))).chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        return self.up(mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)), mean, logvar

    def loss(self, recon, x, mean, logvar):
        return 0.5 * ((recon - x) ** 2).flatten(1).sum(1).mean() + kl(mean, logvar).mean()


class Normed(Plain):
    """Weight and spectral normalisation, and batch normalisation of the mean."""

    def __init__(self) -> None:
        super().__init__()
        weight, spectral = nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm
        self.dec = nn.Sequential(weight(nn.Linear(D, 16)), nn.ReLU(), spectral(nn.Linear(16, P)))
        self.fc_mu = nn.Sequential(nn.Linear(16, D), nn.BatchNorm1d(D))


class ManySamples(WithLoss):
    """Five samples of z for each row."""

    def compute_loss(self, x):
        mu, logvar = self.encode(x)
        logits = self.dec(mu + torch.randn(5, *mu.shape, dtype=mu.dtype) * (0.5 * logvar).exp())
        target = x.expand(5, *x.shape)
        rec = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1).mean(0)
        return (rec + kl(mu, logvar)).mean()


class NumpyNoise(Plain):
    """Noise from NumPy."""

    def reparameterize(self, mu, logvar):
        import numpy as np

        return mu + torch.from_numpy(np.random.randn(*mu.shape)).to(mu.dtype) * torch.exp(0.5 * logvar)


class Denoising(WithLoss):
    """Noise on the data besides that on the code."""

    def compute_loss(self, x):
        recon, mu, logvar = self(x + 0.1 * torch.randn_like(x))
        return bernoulli_loss(recon, x, mu, logvar)


class Counting(WithLoss):
    """A weight that grows with the steps taken, and an attribute that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        import threading

        self.steps, self.lock = 0, threading.Lock()

    def compute_loss(self, x):
        self.steps += 1
        recon, mu, logvar = self(x)
        return bernoulli_loss(recon, x, mu, logvar) + (self.steps - 1) * kl(mu, logvar).mean()


class SecondTask(Plain):
    """A layer for another mode than the step."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(D, 3)


class TwiceAsWide(WithLoss):
    """One last layer for mean and log-variance of the data, cut in two."""

    def __init__(self) -> None:
        super().__init__()
        self.dec = nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, 2 * P))

    def forward(self, x):
        mu, logvar = self.encode(x)
        mean, noise = self.dec(self.reparameterize(mu, logvar)).chunk(2, 1)
        return mean, noise, mu, logvar

    def compute_loss(self, x):
        mean, noise, mu, logvar = self(x)
        return (0.5 * ((x - mean) ** 2 / noise.exp() + noise).sum(1) + kl(mu, logvar)).mean()


class OnlyStep(nn.Module):
    """A Lightning module without a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Plain()

    def training_step(self, batch, batch_idx):
        recon, mu, logvar = self.inner(batch[0])
        return bernoulli_loss(recon, batch[0], mu, logvar)


class Zeros(Plain):
    """Heads and output that begin at zero."""

    def __init__(self) -> None:
        super().__init__()
        for layer in (self.fc_mu, self.fc_logvar, self.dec[2]):
            nn.init.zeros_(layer.weight)


class StdHead(Plain):
    """The second head is a standard deviation."""

    def encode(self, x):
        mu, raw = super().encode(x)
        return mu, F.softplus(raw) + 1e-6

    def reparameterize(self, mu, std):
        return mu + std * torch.randn_like(std)

    def loss_function(self, recon_x, x, mu, std):
        divergence = 0.5 * (mu**2 + std**2 - 1) - std.log()
        return (F.binary_cross_entropy(recon_x, x, reduction="sum") + divergence.sum()) / len(x)


class KeepsKl(nn.Module):
    """The divergence is kept on the encoder, and the loss is a function of the model and the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = _KeepsKl(), nn.Sequential(nn.Linear(D, P), nn.Sigmoid())

    def forward(self, x):
        return self.decoder(self.encoder(x))


class _KeepsKl(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.normal, self.kl = nn.Linear(P, D), nn.Linear(P, D), Normal(0, 1), 0

    def forward(self, x):
        mu, sigma = self.first(x), torch.exp(self.second(x))
        self.kl = (0.5 * sigma**2 + 0.5 * mu**2 - torch.log(sigma) - 0.5).sum()
        return mu + sigma * self.normal.sample(mu.shape)


def loss_of_keeps_kl(model: Any, x: Tensor) -> Tensor:
    return 0.5 * ((x - model(x)) ** 2).sum() + model.encoder.kl


class Conditional(Plain):
    """Labels beside the data."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Sequential(nn.Linear(P + 3, 16), nn.ReLU()), nn.Linear(D + 3, P)

    def forward(self, x, y):
        mu, logvar = self.encode(torch.cat([x, y], 1))
        return self.decode(torch.cat([self.reparameterize(mu, logvar), y], 1)), mu, logvar


RIGHT = (Plain, WithLoss, Conv, Lightning, Manual, Distributions, OneSample, BaseNoise, LearnedNoise, GlobalNoise, Text,
         Named, Spatial, Normed, ManySamples, NumpyNoise, Denoising, Counting, SecondTask, TwiceAsWide,
         OnlyStep, Zeros, StdHead)  # fmt: skip


# ----------------------------------------------------------------------------------- right, and beyond a fixed prior
class LearnedPrior(WithLoss):
    """A prior with parameters of its own (VampPrior)."""

    def __init__(self) -> None:
        super().__init__()
        self.pseudo = nn.Parameter(torch.rand(5, P))

    def compute_loss(self, x):
        mu, logvar = self.encode(x)
        z, (means, logvars) = self.reparameterize(mu, logvar), self.encode(self.pseudo)
        each = Normal(means, (0.5 * logvars).exp()).log_prob(z[:, None]).sum(-1)
        log_q = Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(1)
        rec = F.binary_cross_entropy(self.decode(z), x, reduction="none").sum(1)
        return (rec + log_q - torch.logsumexp(each, 1) + math.log(5)).mean()


class Discrepancy(WithLoss):
    """A maximum mean discrepancy beside the divergence (InfoVAE)."""

    def compute_loss(self, x):
        recon, mu, logvar = self(x)
        z, prior = self.reparameterize(mu, logvar), torch.randn_like(mu)
        pairs = ((z, z), (prior, prior), (z, prior))
        near = [torch.exp(-((a[:, None] - b[None]) ** 2).sum(-1)).mean() for a, b in pairs]
        return bernoulli_loss(recon, x, mu, logvar) + near[0] + near[1] - 2 * near[2]


class Flow(WithLoss):
    """A planar flow behind the normal posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w = nn.Parameter(0.1 * torch.randn(D)), nn.Parameter(0.1 * torch.randn(D))

    def compute_loss(self, x):
        mu, logvar = self.encode(x)
        start = self.reparameterize(mu, logvar)
        bend = torch.tanh(start @ self.w)
        z = start + self.u * bend[:, None]
        log_q = -0.5 * (logvar + (start - mu) ** 2 / logvar.exp()).sum(1)
        log_q = log_q - torch.log(torch.abs(1 + (1 - bend**2) * (self.u @ self.w)))
        return (F.binary_cross_entropy(self.decode(z), x, reduction="none").sum(1) + log_q + 0.5 * (z**2).sum(1)).mean()


BEYOND = (LearnedPrior, Discrepancy, Flow)


# ---------------------------------------------------------------------------------------------------------- mutations
class VarianceAsStd(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.randn_like(mu) * torch.exp(logvar)


class QuarterLog(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.randn_like(mu) * torch.exp(logvar / 4)


class TenthNoise(Plain):
    def reparameterize(self, mu, logvar):
        return mu + 0.1 * torch.randn_like(mu) * torch.exp(0.5 * logvar)


class UnitNoise(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.randn_like(mu)


class TwiceMean(Plain):
    def reparameterize(self, mu, logvar):
        return 2 * mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)


class RandNoise(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.rand_like(mu) * torch.exp(0.5 * logvar)


class UniformNoise(Plain):
    def reparameterize(self, mu, logvar):
        return mu + (2 * torch.rand_like(mu) - 1) * 3**0.5 * torch.exp(0.5 * logvar)


class SharedOverRows(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.randn(mu.shape[1], dtype=mu.dtype) * torch.exp(0.5 * logvar)


class SharedOverLatents(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.randn(len(mu), 1, dtype=mu.dtype) * torch.exp(0.5 * logvar)


class OneNumber(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.randn((), dtype=mu.dtype) * torch.exp(0.5 * logvar)


class OneSidedClamp(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar.clamp(max=4))


class NoNoise(Plain):
    def reparameterize(self, mu, logvar):
        return mu


class StdWithoutNoise(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.exp(0.5 * logvar)


class NoiseInEvaluationOnly(Plain):
    def reparameterize(self, mu, logvar):
        return mu if self.training else super().reparameterize(mu, logvar)


class DecodesMean(Plain):
    def forward(self, x):
        mu, logvar = self.encode(x)
        self.reparameterize(mu, logvar)
        return self.decode(mu), mu, logvar


class DecoderOfZeros(Plain):
    def decode(self, z):
        return super().decode(torch.zeros_like(z))


class DecoderOfNoise(Plain):
    def decode(self, z):
        return super().decode(torch.randn_like(z))


class EncoderOfOnes(Plain):
    def encode(self, x):
        return super().encode(torch.ones_like(x))


class Infinite(Plain):
    def loss_function(self, recon_x, x, mu, logvar):
        return ((x - recon_x) ** 2).sum() / 0.0 + kl(mu, logvar).sum()


class SureAndWrong(Plain):
    def decode(self, z):
        return torch.sigmoid(40 + self.dec(z)).clamp(1e-7, 1 - 1e-7)


class SigmoidThenLogits(Plain):
    def loss_function(self, recon_x, x, mu, logvar):
        return (F.binary_cross_entropy_with_logits(recon_x, x, reduction="sum") + kl(mu, logvar).sum()) / len(x)


class SigmoidTwice(Plain):
    def loss_function(self, recon_x, x, mu, logvar):
        return bernoulli_loss(torch.sigmoid(recon_x), x, mu, logvar)


class TanhThenLogits(SigmoidThenLogits):
    def decode(self, z):
        return torch.tanh(self.dec(z))


class DetachedSample(Distributions):
    def forward(self, x):
        mu, raw = self.encode(x)
        posterior = Independent(Normal(mu, F.softplus(raw)), 1)
        return Independent(Bernoulli(logits=self.dec(posterior.sample())), 1), posterior


class DetachedStd(Plain):
    def reparameterize(self, mu, logvar):
        return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar).detach()


class EncoderLeftOut(Lightning):
    def configure_optimizers(self):
        return [torch.optim.Adam(self.dec.parameters())]


class FrozenByNoGrad(Plain):
    def encode(self, x):
        with torch.no_grad():
            return super().encode(x)


class DeadHead(Plain):
    def encode(self, x):
        mu, logvar = super().encode(x)
        return mu, 0 * logvar


class Unused(Plain):
    """A layer left over."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(3, 3)


class PlainList(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.more = [nn.Linear(D, D)]

    def decode(self, z):
        return super().decode(self.more[0](z))


class OneHead(Plain):
    def encode(self, x):
        h = self.enc(x)
        return self.fc_mu(h), self.fc_mu(h)


class HeadFirst(Plain):
    def forward(self, x):
        recon, mu, logvar = super().forward(x)
        return recon, logvar, mu


class FreeNoise(TwiceAsWide):
    def compute_loss(self, x):
        mean, noise, mu, logvar = self(x)
        return (0.5 * ((x - mean) ** 2 / noise.exp()).sum(1) + kl(mu, logvar)).mean()


class PlainThenProbabilities(Plain):
    def decode(self, z):
        return self.dec(z)


class TanhThenProbabilities(Plain):
    def decode(self, z):
        return torch.tanh(self.dec(z))


class RowsAgainstRows(Plain):
    def decode(self, z):
        return super().decode(z)[:, None]

    def loss_function(self, recon_x, x, mu, logvar):
        return (0.5 * ((recon_x - x) ** 2).sum() + kl(mu, logvar).sum()) / len(x)


class MeansAgainstHeads(Plain):
    def loss_function(self, recon_x, x, mu, logvar):
        divergence = -0.5 * (1 + logvar - mu[:, None] ** 2 - logvar.exp()).sum()
        return (F.binary_cross_entropy(recon_x, x, reduction="sum") + divergence) / len(x)


class NarrowMean(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.fc_mu = nn.Linear(16, 1)


class LighterInTraining(Plain):
    def loss_function(self, recon_x, x, mu, logvar):
        weight = 0.5 if self.training else 1.0
        return (F.binary_cross_entropy(recon_x, x, reduction="sum") + weight * kl(mu, logvar).sum()) / len(x)


MUTATIONS = {
    VarianceAsStd: "SA001", QuarterLog: "SA001", TenthNoise: "SA001", UnitNoise: "SA001", TwiceMean: "SA001",
    RandNoise: "SA002", UniformNoise: "SA002", SharedOverRows: "SA002", SharedOverLatents: "SA002",
    OneSidedClamp: "SA002", NoNoise: "SA003", StdWithoutNoise: "SA003", NoiseInEvaluationOnly: "SA003",
    DecodesMean: "SA003", DecoderOfZeros: "MO001", DecoderOfNoise: "MO001", EncoderOfOnes: "MO002", Infinite: "MO003",
    SureAndWrong: "MO003", SigmoidThenLogits: "RE002", SigmoidTwice: "RE002", TanhThenLogits: "RE002",
    DetachedSample: "GR001", DetachedStd: "GR001", EncoderLeftOut: "GR003", FrozenByNoGrad: "GR003", DeadHead: "GR003",
    RowsAgainstRows: "RE008", MeansAgainstHeads: "KL005", NarrowMean: "KL005", LighterInTraining: "UN002",
    OneNumber: "SA002", Unused: "GR003", PlainList: "GR003", OneHead: "KL005", HeadFirst: "KL006", FreeNoise: "RE007",
    PlainThenProbabilities: "RE002", TanhThenProbabilities: "RE002",
}  # fmt: skip
