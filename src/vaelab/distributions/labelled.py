"""Codes with a label: distributions over (z, y), y a one-hot label that stands behind z in one vector.

Shapes: K samples, B rows, L latent dimensions, C classes. A code is [z, y], L + C entries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .kl import divergence


class LabelledPosterior:
    """q(z, y|x) = q(y|x) q(z|x, y), for every label at once.

    Args:
        log_y: log q(y|x), [B, C]; a label that is known has 0, all others minus infinity.
        each: Gives q(z|x, y) for each label, C * B rows, label by label.

    Attributes:
        mean: Of z over all labels, and the labels' probabilities, [B, L + C].
    """

    offers = frozenset({"density"})

    def __init__(self, log_y: Tensor, each: Callable[[], Any]) -> None:
        self.log_y, self._make = log_y, each

    @cached_property
    def each(self) -> Any:
        """q(z|x, y) for each label, C * B rows, label by label."""
        return self._make()

    @property
    def probabilities(self) -> Tensor:
        """q(y|x), [B, C]."""
        return self.log_y.exp()

    @property
    def mean(self) -> Tensor:
        """Means of z and of y, [B, L + C]."""
        return torch.cat([self._averaged(self.each.mean), self.probabilities], 1)

    @property
    def variance(self) -> Tensor:
        """Variances of z and of y, [B, L + C]: within labels, and between them."""
        mean, shares = self._averaged(self.each.mean), self.probabilities
        second = self._averaged(self.each.variance + self.each.mean.square())
        return torch.cat([(second - mean.square()).clamp(min=0), shares * (1 - shares)], 1)

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """Codes [K, B, L + C] from torch's global generator; gradients go through z alone."""
        assert noise is None, "a label is no function of normal noise"
        return self.chosen(self.each.rsample(samples))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes without gradients, [count, L + C] where B = 1, else [count, B, L + C]."""
        with torch.no_grad():
            z = self.each.sample(count, generator).reshape(count, self.log_y.numel(), -1)
            return self.chosen(z, generator).squeeze(1)

    def chosen(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Of codes z [K, C * B, L] for each label those of a label drawn from q(y|x), [K, B, L + C]."""
        rows, classes = self.log_y.shape
        drawn = torch.multinomial(self.probabilities, len(z), replacement=True, generator=generator).T
        place = drawn * rows + torch.arange(rows, device=z.device)
        picked = z.gather(1, place.unsqueeze(-1).expand(-1, -1, z.shape[-1]))
        return torch.cat([picked, F.one_hot(drawn, classes).to(z.dtype)], -1)

    def log_prob(self, codes: Tensor) -> Tensor:
        """log q(y|x) + log q(z|x, y) in nats of codes [K, B, L + C], [K, B]."""
        rows, classes = self.log_y.shape
        codes = codes.expand(-1, rows, -1)
        z, label = codes[..., :-classes], codes[..., -classes:].argmax(-1)
        nats = self.each.log_prob(z.repeat(1, classes, 1)).reshape(len(z), classes, rows)
        return nats.gather(1, label[:, None])[:, 0] + self.log_y.T[label, torch.arange(rows, device=z.device)]

    def divergence(self, prior: Any, codes: Tensor) -> tuple[Tensor, bool] | None:
        """KL(q(z, y|x) || p(z, y)) as `divergence` gives it, [B, G + 1]; the last group is the label's.

        Of `codes` [K, B, L + C] only K is read: each has the z of one label, and all labels take part. Where there is
        no closed form, K codes are drawn afresh for each label, so that two calls differ, and neither is of `codes`.
        """
        return self.parted(prior, self.each.rsample(len(codes))) if isinstance(prior, LabelledPrior) else None

    def parted(self, prior: LabelledPrior, z: Tensor, log_q: Tensor | None = None) -> tuple[Tensor, bool]:
        """The same from samples z [K, C * B, L] of each label's q and their log-densities, for where they are read."""
        labels = every_label(self.log_y)
        kl, exact = divergence(self.each, prior.given(labels), z, log_q)
        return torch.cat([self._averaged(kl), self.label_kl(prior).unsqueeze(1)], 1), exact

    def label_kl(self, prior: LabelledPrior) -> Tensor:
        """KL(q(y|x) || p(y)) in nats, [B]; -log p(y) where the label is known."""
        return (self.probabilities * (self.log_y.masked_fill(self.log_y.isneginf(), 0.0) - prior.log_y)).sum(1)

    def _averaged(self, values: Tensor) -> Tensor:
        """Values [C * B, G] of each label, averaged by q(y|x), [B, G]."""
        rows, classes = self.log_y.shape
        return averaged(self.probabilities, values.reshape(classes, rows, -1))


class LabelledPrior:
    """p(z, y) = p(y) p(z), or p(y) p(z|y).

    Args:
        log_y: log p(y), [1, C]; or [B, C], 0 and minus infinity, where each row has a label that is known.
        given: From one-hot labels [N, C] to p(z|y), with N rows; or with one, where z does not depend on y.
        shared: Whether it does not.
    """

    offers = frozenset({"density"})

    def __init__(self, log_y: Tensor, given: Callable[[Tensor], Any], shared: bool) -> None:
        self.log_y, self.given, self.shared = log_y, given, shared

    @property
    def mean(self) -> Tensor:
        """Means of z and of y, [B, L + C]."""
        return self._whole.mean

    @property
    def variance(self) -> Tensor:
        """Variances of z and of y, [B, L + C]."""
        return self._whole.variance

    @property
    def _whole(self) -> LabelledPosterior:
        """The same as a mixture over all labels."""
        labels = every_label(self.log_y)
        return LabelledPosterior(self.log_y, lambda: _Repeated(self.given(labels), len(labels) if self.shared else 1))

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes without gradients, [count, L + C] where B = 1, else [count, B, L + C]."""
        rows, classes = self.log_y.shape
        drawn = torch.multinomial(self.log_y.exp(), count, replacement=True, generator=generator).T.reshape(-1)
        labels = F.one_hot(drawn, classes).to(self.log_y.dtype)
        p = self.given(labels)
        z = p.sample(len(labels), generator) if self.shared else p.sample(1, generator)
        codes = torch.cat([z.reshape(len(labels), -1), labels], 1)
        return codes if rows == 1 else codes.reshape(count, rows, -1)

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """Codes [K, B, L + C]; gradients end here."""
        assert noise is None, "a label is no function of normal noise"
        return self.sample(samples).reshape(samples, len(self.log_y), -1)

    def log_prob(self, codes: Tensor) -> Tensor:
        """log p(y) + log p(z|y) in nats of codes [K, B, L + C], [K, B]."""
        classes = self.log_y.shape[1]
        z, labels = codes[..., :-classes], codes[..., -classes:]
        nats = self.log_y.expand(*labels.shape).gather(-1, labels.argmax(-1, keepdim=True))[..., 0]
        if self.shared:
            return nats + self.given(labels.reshape(-1, classes)).log_prob(z)
        each = self.given(labels.reshape(-1, classes)).log_prob(z.reshape(1, -1, z.shape[-1]))
        return nats + each.reshape(nats.shape)


class _Repeated:
    """A distribution with one row, as one with as many equal ones; or as it is, for a single repeat."""

    def __init__(self, inner: Any, rows: int) -> None:
        self.mean, self.variance = (part.repeat(rows, 1) for part in (inner.mean, inner.variance))


def averaged(probabilities: Tensor, values: Tensor) -> Tensor:
    """Values [C, B, G] of each label, averaged with probabilities [B, C], [B, G]."""
    # Mixed precision would round a product to bfloat16.
    with torch.autocast(values.device.type, enabled=False):
        return torch.einsum("bc,cbg->bg", probabilities.to(values.dtype), values)


def every_label(log_y: Tensor) -> Tensor:
    """One-hot labels [C * B, C], label by label, for B rows of C classes."""
    rows, classes = log_y.shape
    return torch.eye(classes, device=log_y.device, dtype=log_y.dtype).repeat_interleave(rows, 0)
