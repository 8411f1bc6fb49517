"""What a run must be to code rows: a mass for each entry, and a posterior and a prior that codes can be coded by."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from ..core.errors import BadInput
from ..distributions.levels import Levels
from ..distributions.likelihoods import Bernoulli
from ..distributions.normal import StandardNormal
from .codes import POSTERIORS
from .masses import MASSES
from .stack import MOST_LEVELS

CODED = "bernoulli, categorical, logistic_mixture, beta_binomial, poisson and (zero-inflated) negative binomial"
TABLES = "tables whose columns are all categories"
DECODING = ("model", "prior", "likelihood")  # sections of a config that the meaning of the weights depends on


@torch.no_grad()
def check_run(run: Any) -> None:
    """Refuses a run whose model is no code.

    Raises:
        BadInput: naming the part that stands in the way.
    """
    config, columns = run.config, run.spec.mixed
    if run.spec.condition and getattr(run.model, "conditioned", None):
        raise _refused("data.condition", config.data.condition, "a file keeps nothing beside its rows")
    if wrong := [column.name for column in columns if column.kind != "category"]:
        raise _refused("column", wrong[0], f"is no category, and {TABLES} have a mass for each row")
    if run.spec.vocabulary or config.model.decoder == "pixel_cnn":
        raise _refused("model.decoder", config.model.decoder, "tells entries one after the other, and not all at once")
    posterior = run.model.encode(torch.zeros(1, *run.spec.shape))
    if not isinstance(posterior, POSTERIORS):
        rule = "only diagonal normals and hierarchies of them are coded"
        raise _refused("model.posterior", config.model.posterior, rule)
    if not isinstance(run.model.prior_distribution(), StandardNormal):
        after = f", then {config.prior.after}" if config.prior.after != "none" else ""
        raise _refused("prior.name", f"{config.prior.name}{after}", "only the standard normal prior is coded")
    if type(run.model.decode(torch.zeros(1, run.latent))) not in MASSES:
        fix = "likelihood=bernoulli for bits, likelihood=beta_binomial likelihood.levels=N for whole numbers below N"
        raise BadInput("likelihood.name", config.likelihood.name, f"gives no masses; {CODED}, and {TABLES}, do", fix)


def symbols_of(run: Any, symbols: np.ndarray) -> tuple[int, str]:
    """How many symbols an entry can be, and what that means for rows; of counts that depends on the highest one.

    Raises:
        BadInput: for more than `MOST_LEVELS` of them.
    """
    if run.spec.mixed:
        count, support = max(len(column.levels) for column in run.spec.mixed), "levels, and none missing"
    elif isinstance(read := run.model.decoder.likelihood, Bernoulli):
        low, high = (run.spec.to_user(torch.full((1, *run.spec.shape), bit)).flat[0] for bit in (0.0, 1.0))
        count, support = 2, f"{low:g} or {high:g}, since the likelihood is bernoulli"
    else:
        count = read.levels if isinstance(read, Levels) else int(symbols.max()) + 1
        support = read.support
    if count > MOST_LEVELS:
        raise BadInput("rows", f"{count} values of an entry", f"at most {MOST_LEVELS} are coded")
    return count, support


def digest_of(run: Any) -> str:
    """SHA-256 of all that decoding depends on: how rows are read, what the model is, and its weights."""
    spec, found = run.spec, hashlib.sha256()
    columns = [(column.name, column.kind, column.levels, column.levels_are) for column in spec.mixed]
    parts: list[Any] = [spec.shape, spec.axes, spec.binarize, columns]
    # As they stand in the run's own config.yaml, so that files outlive new settings and other defaults.
    parts += [getattr(run.config, section).model_dump(exclude_unset=True) for section in DECODING]
    found.update(repr(parts).encode())
    for name, tensor in sorted([*spec.transform.state().items(), *run.model.state_dict().items()]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def _refused(argument: str, received: Any, rule: str) -> BadInput:
    return BadInput(argument, received, rule, "train a model of discrete rows with the standard prior")
