"""The divergence KL(q || p) = E_q[log q - log p] in nats: closed forms by pair of types, else Monte Carlo.

References: Kingma and Welling, Auto-Encoding Variational Bayes, 2014, appendix B, derive the standard normal case; the
general one is in Duchi, Derivations for Linear Algebra and Optimization, 2007.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch import distributions as td

from .normal import DiagonalNormal, FullNormal, Normal, StandardNormal, half_log_det, whiten


def divergence(
    q: Any, p: Any, z: Tensor, log_q: Tensor | None = None, log_p: Tensor | None = None
) -> tuple[Tensor, bool]:
    """KL(q || p) in nats for each row, and whether it is exact.

    The posterior's own form, else the closed form of `EXACT`, else the one PyTorch knows, else
    mean_K(log q(z) - log p(z)).

    Args:
        q: The posterior, B rows.
        p: The prior, B rows or one.
        z: Samples of q, [K, B, L]; read only where there is no closed form.
        log_q, log_p: log q(z) and log p(z) in nats, [K, B], where they are at hand.

    Returns:
        [B, L], a number for each dimension, where both are independent over dimensions, else [B, 1]; and True for a
        closed form, False for the Monte Carlo estimate.

    Example:
        >>> import torch
        >>> q = DiagonalNormal(torch.ones(3, 2), torch.zeros(3, 2))
        >>> divergence(q, StandardNormal(2), q.rsample(1))[0][0]
        tensor([0.5000, 0.5000])
    """
    own = getattr(q, "divergence", None)
    if own is not None and (found := own(p, z)) is not None:
        return found
    formula = EXACT.get((type(q), type(p)), _by_torch)
    exact = formula(q, p)
    if exact is not None:
        return exact, True
    log_q = q.log_prob(z) if log_q is None else log_q
    log_p = p.log_prob(z) if log_p is None else log_p
    return (log_q - log_p).mean(0).unsqueeze(1), False


def _from_diagonal(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(μ, σ²) || N(0, 1)) = (μ² + σ² - 1 - log σ²) / 2 for each dimension, [B, L]."""
    log_variance = 2 * log_std
    # σ² - 1 as expm1 keeps its digits where the posterior is the prior.
    return 0.5 * (mean.square() + (log_variance.expm1() - log_variance))


def _from_full(mean: Tensor, scale_tril: Tensor) -> Tensor:
    """KL(N(μ, A Aᵀ) || N(0, I)) = (|μ|² + |A|² - L - log det A Aᵀ) / 2, [B, 1]."""
    squares = mean.square() + scale_tril.square().sum(-1) - 1
    return (0.5 * squares.sum(-1) - half_log_det(scale_tril)).unsqueeze(1)


def _diagonal_standard(q: DiagonalNormal, p: StandardNormal) -> Tensor:
    return _from_diagonal(q.mean, q.log_std)


def _diagonal_diagonal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    """The standard case, in units of p's deviation from p's mean."""
    return _from_diagonal((q.mean - p.mean) / p.std, q.log_std - p.log_std)


def _full_standard(q: Normal, p: StandardNormal) -> Tensor:
    return _from_full(q.mean, q.scale_tril)


def _full_full(q: Normal, p: Normal) -> Tensor:
    """The standard case, after whitening both by p."""
    mean = whiten(p.scale_tril, (q.mean - p.mean).unsqueeze(-1)).squeeze(-1)
    return _from_full(mean, whiten(p.scale_tril, q.scale_tril))


def _by_torch(q: Any, p: Any) -> Tensor | None:
    """PyTorch's closed form, for each dimension where both are independent over them; None where it knows none."""
    if not (hasattr(q, "as_torch") and hasattr(p, "as_torch")):
        return None
    left, right = q.as_torch(), p.as_torch()
    both = isinstance(left, td.Independent) and isinstance(right, td.Independent)
    try:
        return td.kl_divergence(left.base_dist, right.base_dist) if both else td.kl_divergence(left, right).unsqueeze(1)
    except NotImplementedError:
        return None


EXACT: dict[tuple[type, type], Callable[..., Tensor]] = {
    (DiagonalNormal, StandardNormal): _diagonal_standard,
    (DiagonalNormal, DiagonalNormal): _diagonal_diagonal,
    (FullNormal, StandardNormal): _full_standard,
    (FullNormal, FullNormal): _full_full,
    (DiagonalNormal, FullNormal): _full_full,
    (FullNormal, DiagonalNormal): _full_full,
}
