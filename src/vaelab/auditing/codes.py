"""The audit's findings by code: a stable code and a short name each, and a page in `docs/audit/`."""

from __future__ import annotations

from typing import Any

from ..core.finding import Finding, Severity

NAMES: dict[str, str] = {
    "RE001": "feature mean against latent sum",
    "RE002": "probabilities and logits confused",
    "RE003": "data outside the range",
    "RE004": "arguments swapped",
    "RE005": "sign of the reconstruction term",
    "RE006": "implied noise far from the data's scale",
    "RE007": "no likelihood",
    "RE008": "mixed reductions",
    "KL001": "no effect",
    "KL002": "sign of the divergence",
    "KL003": "averaged over latents",
    "KL004": "batch reduction differs",
    "KL005": "not a divergence",
    "KL006": "head read in two ways",
    "KL007": "threshold or cap",
    "KL008": "constant of one data shape hard-coded",
    "GR001": "term without gradient",
    "GR002": "value and gradient disagree",
    "GR003": "parameter never trained",
    "GR004": "weight never used",
    "SA001": "noise scale",
    "SA002": "noise shape",
    "SA003": "no noise in training",
    "SA004": "noise in evaluation",
    "NU001": "overflow",
    "NU002": "log of zero",
    "UN001": "not nats per sample",
    "UN002": "not the bound",
    "MO001": "decoder ignores z",
    "MO002": "encoder ignores x",
    "MO003": "loss at start",
    "LI001": "sign of an estimator",
    "LI002": "above the truth",
    "LI003": "does not tighten",
    "LI004": "sample count not honoured",
}


def finding(code: str, severity: Severity, detail: str = "", **fields: Any) -> Finding:
    """A finding of the audit; its title is the code's short name, and `detail` where there is more to say.

    Example:
        >>> print(finding("KL003", "error", "a mean over 4 latents", measured=0.25, unit="times the sum"))
        error    KL003  averaged over latents, a mean over 4 latents: 0.25 times the sum
    """
    return Finding(code, severity, NAMES[code] + (f", {detail}" if detail else ""), **fields)
