"""Labels that are partly missing: a conditional model, and a classifier that guesses what is not given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.batch import Batch, condition_of, rows_of
from ..core.errors import BadInput
from ..core.facts import labelled_share
from ..core.output import VAEOutput
from ..distributions.labelled import LabelledPosterior, LabelledPrior, averaged, every_label
from ..distributions.normal import full_precision
from .vae import VAE, Model, drawn


class SemiSupervised(Model):
    r"""A model of rows and labels, of which some labels are not known.

    .. math:: p(x, y, z) = p(y)\, p(z)\, p(x|y, z), \quad q(z, y|x) = q(y|x)\, q(z|x, y)

    A code is z and a one-hot label in one vector, so that everything that takes codes takes these. The record's bound
    is one on log p(x, y) for a row with its label, and for one without on log p(x):

    .. math:: \sum_y q(y|x) \big(E_{q(z|x,y)}[\log p(x|y,z)] - KL(q(z|x,y) || p(z))\big) - KL(q(y|x) || p(y))

    The sum is exact; its last term is the last group of the record's divergence, which for a known label is -log p(y).
    With `relaxed`, a step of training takes one draw of a Gumbel-softmax in place of the sum, and its reconstruction is
    an estimate; in the mode of evaluation the sum is exact all the same. `log_px` is the average over labels already,
    so that only the ELBO can be made of the record; `encode`, `decode` and `prior_distribution` give the densities.

    p(y) are the frequencies of the known labels, with one row added to each. Known labels also train the classifier: a
    step adds `weight` * rows / known rows times the mean of -log q(y|x) over the known labels of its batch, of which
    there are `vaelab.core.facts.labelled_share`. That is rows / known rows times what the first reference adds, where
    0.1 * rows beside a sum of bounds over all rows is 0.1 beside their mean: the same where all labels are known, and
    the more, the fewer are; `weight` = 0.1 * known rows / rows is theirs.

    References: Kingma, Rezende, Mohamed and Welling, Semi-supervised Learning with Deep Generative Models, 2014; Jang,
    Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, 2017.

    Args:
        vae: Whose decoder, at least, reads a one-hot label.
        classifier: Rows [B, ...] to logits of q(y|x), [B, C].
        frequencies: Training rows of each label, among those whose label is known.
        rows: All training rows.
        weight: Of the classifier's own term.
        relaxed: Temperature of a Gumbel-softmax; None: labels are summed over in training too.
    """

    guesses = True

    def __init__(
        self,
        vae: VAE,
        classifier: nn.Module,
        frequencies: tuple[int, ...],
        rows: int,
        *,
        weight: float = 0.1,
        relaxed: float | None = None,
    ) -> None:
        super().__init__()
        assert vae.latent
        self.vae, self.classifier, self.relaxed = vae, classifier, relaxed
        self.classes, known = len(frequencies), sum(frequencies)
        self.latent, self.channels, self.conditioned = vae.latent + self.classes, vae.channels, vae.conditioned
        self.weight = weight * max(rows, known) / known / labelled_share(known, rows) if known else 0.0
        smoothed = torch.tensor(frequencies, dtype=torch.float64) + 1
        self.register_buffer("log_y", (smoothed / smoothed.sum()).log().float()[None])

    log_y: Tensor

    @property
    def encoder(self) -> nn.Module:
        """q(z|x, y)."""
        return self.vae.encoder

    @property
    def decoder(self) -> nn.Module:
        """p(x|z, y)."""
        return self.vae.decoder

    def draw(self, x: Tensor | Batch, samples: int = 1, noise: Tensor | None = None) -> VAEOutput:
        """The record of rows [B, ...], with their labels where they are known, with K = `samples` draws.

        Raises:
            BadInput: for base noise, of which a label is no function.
        """
        if noise is not None:
            fix = "leave it out and seed the global generator"
            raise BadInput("noise", tuple(noise.shape), "a label is no function of normal noise", fix)
        rows, posterior, prior = rows_of(x), self.encode(x), self.prior_distribution()
        inner = self._each_label if self.relaxed is None or not self.training else self._relaxed
        z, log_px, kl, exact = inner(rows, posterior, prior, samples)
        return VAEOutput(
            x=rows,
            z=z,
            log_px=log_px,
            kl=kl,
            kl_is_exact=exact,
            posterior=posterior,
            prior=prior,
            likelihood=self.decode(z),
            extra=self._classification(x),
            condition=condition_of(x),
        )

    def encode(self, x: Tensor | Batch) -> LabelledPosterior:
        """q(z, y|x); for rows whose label is known all of q(y|x) is there."""
        rows, log_y = rows_of(x), self._log_labels(x)

        def each() -> object:
            return self.vae.encode(Batch(self._repeated(rows), every_label(log_y)))

        return LabelledPosterior(log_y, each)

    def decode(self, z: Tensor, condition: Tensor | None = None) -> object:
        """p(x|z, y) for codes [K, B, L + C] or [B, L + C]; a `condition` [B, C] takes the place of their label."""
        codes, labels = z[..., : -self.classes], z[..., -self.classes :]
        if condition is not None:
            labels = torch.where(condition.isnan(), labels, condition.to(labels.dtype))
        return self.vae.decode(codes, labels)

    def prior_distribution(self, condition: Tensor | None = None) -> LabelledPrior:
        """p(z, y) with one row; or with one for each of the labels that are given, [B, C]."""
        reads = "prior" in self.conditioned
        log_y = self.log_y if condition is None else self._certain(condition, self.log_y)
        return LabelledPrior(log_y, lambda y: self.vae.prior_distribution(y if reads else None), not reads)

    def classify(self, x: Tensor | Batch) -> Tensor:
        """q(y|x), [B, C], whatever labels are given."""
        return self._logits(rows_of(x)).softmax(-1)

    def _logits(self, rows: Tensor) -> Tensor:
        return full_precision(self.classifier(rows))

    def _log_labels(self, x: Tensor | Batch) -> Tensor:
        """log q(y|x), [B, C], or certainty where a label is given."""
        guessed, given = self._logits(rows_of(x)).log_softmax(-1), condition_of(x)
        return guessed if given is None else self._certain(given, guessed)

    @staticmethod
    def _certain(given: Tensor, otherwise: Tensor) -> Tensor:
        """Logarithms of one-hot labels [B, C]; those of `otherwise` in rows of NaN."""
        return torch.where(given.isnan(), otherwise, given.to(otherwise.dtype).log())

    def _repeated(self, rows: Tensor) -> Tensor:
        return rows.repeat(self.classes, *(1 for _ in rows.shape[1:]))

    def _each_label(
        self, rows: Tensor, posterior: LabelledPosterior, prior: LabelledPrior, samples: int
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Codes, log p(x|z, y) averaged over labels, divergence, and whether that is exact."""
        z, log_q = drawn(posterior.each, samples, None)
        nats = self.vae.decode(z, every_label(posterior.log_y)).log_prob(self._repeated(rows))
        kl, exact = posterior.parted(prior, z, log_q)
        each = nats.reshape(samples, self.classes, len(rows))
        log_px = averaged(posterior.probabilities, each.permute(1, 2, 0)).T
        return posterior.chosen(z), log_px, kl, exact

    def _relaxed(
        self, rows: Tensor, posterior: LabelledPosterior, prior: LabelledPrior, samples: int
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """The same from one relaxed draw of the label in place of the average."""
        assert self.relaxed is not None
        known = posterior.log_y.isneginf().any(1, keepdim=True)
        soft = F.gumbel_softmax(posterior.log_y.masked_fill(known, 0.0), self.relaxed)
        labels = torch.where(known, posterior.probabilities, soft)
        output = self.vae.draw(Batch(rows, labels), samples)
        kl = torch.cat([output.kl, posterior.label_kl(prior).unsqueeze(1)], 1)
        codes = torch.cat([output.z, labels.to(output.z.dtype).expand(samples, -1, -1)], -1)
        return codes, output.log_px, kl, output.kl_is_exact

    def _classification(self, x: Tensor | Batch) -> dict[str, Tensor]:
        """The classifier's own term for rows whose label is known, [B]."""
        given = condition_of(x)
        if given is None or not self.training:
            return {}
        nats = -(given.nan_to_num(0.0).to(self.log_y.dtype) * self._logits(rows_of(x)).log_softmax(-1)).sum(1)
        return {"classification": self.weight * nats}
