"""For anyone's own test suite: one line that holds a loss to its bound; with pytest there is a fixture of that name."""

from __future__ import annotations

from math import isclose, isfinite
from typing import Any

from .auditing.report import AuditReport
from .auditing.run import audit
from .core.finding import SEVERITIES


def assert_elbo(subject: Any, /, *, allow: str = "warning", **options: Any) -> AuditReport:
    """Fails unless a loss is beta times the divergence plus the negative log-likelihood, with the declared beta.

    Args:
        subject: The loss, or a model.
        allow: The worst severity that passes: "info" or "warning".
        **options: As in `vaelab.audit`: inputs, constants, sizes, declared_beta, family, loss (for a model), ...

    Returns:
        The report.

    Raises:
        AssertionError: with the whole report, where a finding is worse than allowed, where no beta could be measured,
            and where it is not the declared one (of squared and absolute errors the noise scale is free).
        BadInput: where the loss cannot be called.

    Example:
        >>> import torch
        >>> def vae_loss(x, logits, mu, log_var):
        ...     fit = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        ...     return (fit - 0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp())) / len(x)
        >>> round(assert_elbo(vae_loss).effective_beta, 6)
        1.0
    """
    report = audit(subject, **options)
    if SEVERITIES.index(report.severity) > SEVERITIES.index(allow) or not _declared(report):
        raise AssertionError(f"this is not the bound it is taken for\n{report}")
    return report


def _declared(report: AuditReport) -> bool:
    """Whether a beta was measured and is the declared one, up to its interval."""
    if not isfinite(report.effective_beta):
        return False
    return report.implied_noise is not None or isclose(report.effective_beta, report.declared_beta, rel_tol=0.05)
