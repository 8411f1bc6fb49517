"""Priors that are fitted to the codes after training, and the switch that puts them in force."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .mixtures import Mixture
from .normal import FullNormal

CODES_EACH = 20  # codes at least for each dimension of a component: a full covariance needs several
MOST_CODES = 20_000  # that a mixture is fitted to
MOST_ROUNDS = 200  # of expectation and maximisation
LEAST_VARIANCE = 1e-5


class Later(Protocol):
    """What a prior fitted after training is, besides a module whose forward gives the distribution."""

    def fit(self, z: Tensor, steps: int, seed: int) -> None:
        """Moves it to codes z [N, L]."""


class FittedLater(nn.Module):
    """A prior for the training, and one that takes its place when it has been fitted to the codes.

    Both are saved, and which of them is in force is saved with them.

    Args:
        prior: For the training.
        later: A module with `fit`; the training leaves it alone.
    """

    in_force: Tensor

    def __init__(self, prior: nn.Module, later: nn.Module) -> None:
        super().__init__()
        self.latent = getattr(prior, "latent", None) or getattr(later, "latent", None)
        self.prior, self.later = prior, later.requires_grad_(False)
        self.register_buffer("in_force", torch.tensor(False))

    def forward(self, *condition: Tensor) -> Any:
        """The distribution in force."""
        return self.later() if self.in_force else self.prior(*condition)

    def fit(self, z: Tensor, steps: int, seed: int) -> None:
        """Fits the later prior to codes z [N, L], and puts it in force."""
        self.later.fit(z, steps, seed)  # type: ignore[operator]
        self.in_force.fill_(True)


class GaussianMixturePrior(nn.Module):
    """p(z): a mixture of normals with full covariances, by scikit-learn's expectation and maximisation.

    Of the components as many are used as there are twenty codes for each of their dimensions.

    References: Ghosh et al., From Variational to Deterministic Autoencoders, 2020.

    Args:
        latent: Dimensions L of z.
        components: M at most.
    """

    log_weights: Tensor
    means: Tensor
    scale_trils: Tensor

    def __init__(self, latent: int, components: int = 100) -> None:
        super().__init__()
        self.latent = latent
        self.register_buffer("log_weights", torch.zeros(components))
        self.register_buffer("means", torch.zeros(components, latent))
        self.register_buffer("scale_trils", torch.eye(latent).repeat(components, 1, 1))

    def forward(self, context: Tensor | None = None) -> Mixture:
        """The mixture; it depends on no context."""
        used = self.log_weights > -torch.inf
        return Mixture(self.log_weights[used], FullNormal(self.means[used], self.scale_trils[used]))

    def fit(self, z: Tensor, steps: int, seed: int) -> None:
        """Fits it to codes z [N, L], of which it takes `MOST_CODES` at random, in so many rounds at most."""
        from sklearn.mixture import GaussianMixture

        some = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:MOST_CODES].to(z.device)]
        count = max(1, min(len(self.log_weights), len(some) // (CODES_EACH * self.latent)))
        model = GaussianMixture(
            count, reg_covar=LEAST_VARIANCE, max_iter=min(steps, MOST_ROUNDS), random_state=seed % 2**32
        )
        model.fit(some.double().cpu().numpy())
        self.log_weights.fill_(-torch.inf)
        self.log_weights[:count] = torch.from_numpy(model.weights_).to(self.log_weights).log()
        self.means[:count] = torch.from_numpy(model.means_).to(self.means)
        covariances = torch.from_numpy(model.covariances_)
        self.scale_trils[:count] = torch.linalg.cholesky(covariances).to(self.scale_trils)
