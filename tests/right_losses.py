"""What the tests of right losses share: the two terms, the table's row, and what is asked of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch.nn.functional as F
from torch import Tensor

from vaelab.auditing.loss import audit_loss


class Variant(NamedTuple):
    """A right loss: its effective beta, the words its family begins with, and how its head is read."""

    loss: Callable[..., Any]
    beta: float
    told: str
    head: str
    options: dict[str, Any]


class Variants(dict[str, Variant]):
    """Right losses by name."""

    def right(
        self, beta: float = 1.0, told: str = "Bernoulli", head: str = "log-variance", **options: Any
    ) -> Callable[..., Any]:
        """Puts a function into the table under its name."""

        def keep(loss: Callable[..., Any]) -> Callable[..., Any]:
            self[loss.__name__] = Variant(loss, beta, told, head, options)
            return loss

        return keep


def check(variant: Variant) -> None:
    """Nothing above information, and every number right."""
    report = audit_loss(variant.loss, **variant.options)
    assert report.severity in ("ok", "info") and report.status == 0, str(report)
    assert report.effective_beta == pytest.approx(variant.beta, rel=1e-4)
    assert report.reconstruction.startswith(variant.told)
    assert report.second_head == variant.head


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """The divergence from N(0, 1) by entry."""
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1)


def bce(output: Tensor, x: Tensor) -> Tensor:
    """The Bernoulli negative log-likelihood on probabilities by row."""
    return F.binary_cross_entropy(output, x, reduction="none").flatten(1).sum(1)


def logits_bce(output: Tensor, x: Tensor) -> Tensor:
    """Likewise on logits."""
    return F.binary_cross_entropy_with_logits(output, x, reduction="none").flatten(1).sum(1)
