"""vaelab: train, audit, diagnose, evaluate and use variational autoencoders.

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import warn

__version__ = "0.1.0"

_HOMES = {
    "train": "api",
    "train_many": "api",
    "load": "api",
    "check": "health",
    "diagnose": "health",
    "evaluate": "evaluation.run",
    "log_likelihood": "evaluation.likelihood",
    "ais": "evaluation.likelihood",
    "Monitor": "monitoring.monitor",
    "audit": "auditing.run",
    "AuditReport": "auditing.report",
    "write_report": "report.page",
    "Run": "training.run",
    "Config": "core.config",
    "Finding": "core.finding",
    "VAEOutput": "core.output",
    "Loss": "core.output",
    "VAE": "models.vae",
    "ELBO": "objectives.elbo",
    "objectives": "objectives",
    "schedules": "schedules",
    "distributions": "distributions",
    "VaelabError": "core.errors",
    "BadInput": "core.errors",
}
_MOVED = ("GaussianPosterior", "StandardNormalPrior", "Decoder", "LIKELIHOODS")  # to `distributions`, with all others
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from . import distributions as distributions
    from . import objectives as objectives
    from . import schedules as schedules
    from .api import load as load
    from .api import train as train
    from .api import train_many as train_many
    from .auditing.report import AuditReport as AuditReport
    from .auditing.run import audit as audit
    from .core.config import Config as Config
    from .core.errors import BadInput as BadInput
    from .core.errors import VaelabError as VaelabError
    from .core.finding import Finding as Finding
    from .core.output import Loss as Loss
    from .core.output import VAEOutput as VAEOutput
    from .evaluation.likelihood import ais as ais
    from .evaluation.likelihood import log_likelihood as log_likelihood
    from .evaluation.run import evaluate as evaluate
    from .health import check as check
    from .health import diagnose as diagnose
    from .models.vae import VAE as VAE
    from .monitoring.monitor import Monitor as Monitor
    from .objectives.elbo import ELBO as ELBO
    from .report.page import write_report as write_report
    from .training.run import Run as Run


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        warn(f"vaelab.{name} is vaelab.distributions.{name} now", DeprecationWarning, stacklevel=2)
        return getattr(import_module(".distributions", __name__), name)
    if name not in _HOMES:
        raise AttributeError(f"module 'vaelab' has no attribute {name!r}")
    home = import_module(f".{_HOMES[name]}", __name__)
    value = home if name == _HOMES[name] else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
