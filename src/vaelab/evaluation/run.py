"""`evaluate`: a finished run measured on held-out rows, each number with its error and what it rests on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.batch import condition_of, rows_of
from ..core.errors import BadInput, did_you_mean, whole
from ..core.files import check_file
from ..core.finding import Finding
from ..core.tables import pick
from ..core.units import bits_per_dimension
from ..measure.ais import ais as anneal
from ..measure.ais import check_options, simulated_ais
from ..measure.baseline import spaced
from ..measure.estimate import Z95, Estimate, mean_of
from ..measure.importance import UNIT, Bound, importance_bound
from ..training.run import Run
from .case import Case, Numbers
from .columns import columns
from .disentanglement import disentanglement, known_factors
from .judge import judge_bound, judge_bracket, judge_rows, worst_first
from .latent import latent
from .progress import telling
from .reconstruction import reconstruction
from .rows import Taken, how_read, take
from .samples import fid
from .samples import samples as sample_metrics
from .strings import per_token
from .text import as_text

GROUPS: dict[str, Callable[[Case], Numbers]] = {
    "reconstruction": reconstruction,
    "latent": latent,
    "samples": sample_metrics,
    "columns": columns,
    "disentanglement": disentanglement,
}
SAMPLES = 1000  # K where none is asked for; the papers' tables have 5000
AIS_ROWS = 50  # annealed where no number of rows is asked for: a row costs as much as 100,000 samples and more
AIS_OPTIONS = ("steps", "chains", "start", "leapfrog")
ANNEALED = ("EV120", "EV121")  # findings of the annealing
SIMULATED_ROWS = 25  # drawn from the model, for the gap between both sides


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        facts: What was measured on what, in words: rows and split, binarisation, dequantisation, likelihood, unit.
        numbers: By group ("bound", "ais", "reconstruction", ...) and name, each with its 95 % interval and unit.
        findings: What the numbers say about themselves, the gravest first.
        names: Names of what array-valued numbers run over, by their length: a table's columns.
        factor_names: Names of the known factors.
    """

    facts: dict[str, str]
    numbers: dict[str, Numbers]
    findings: list[Finding]
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    factor_names: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Estimate:
        """A number by "group.name", such as "bound.log_likelihood"."""
        known = {f"{group}.{number}": one for group, found in self.numbers.items() for number, one in found.items()}
        if name not in known:
            raise KeyError(f"{name!r}; {did_you_mean(name, known) or 'the names are ' + ', '.join(known)}")
        return known[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        numbers = {group: {name: one.to_dict() for name, one in found.items()} for group, found in self.numbers.items()}
        return {"facts": self.facts, "numbers": numbers, "findings": [finding.to_dict() for finding in self.findings]}

    def __str__(self) -> str:
        return as_text(self.facts, self.numbers, self.findings, self.names, self.factor_names)


def evaluate(
    run: Run | str | os.PathLike[str],
    x: Any = None,
    *,
    samples: int = SAMPLES,
    metrics: str | Sequence[str] = (),
    ais: bool | Mapping[str, Any] = False,
    rows: int | None = None,
    dequantize: bool = False,
    extractor: Any = None,
    inception: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
    model: Any = None,
    condition: Any = None,
) -> Evaluation:
    """Measures a run: bounds on log p(x), and the metrics that are asked for.

    Where the rows are all held-out ones of the run, the numbers are kept in its folder, for its page.

    Args:
        run: A run or its folder.
        x: Rows on the data's own scale, a path or a name; None: all held-out rows of the run.
        samples: K of the importance-weighted bound.
        metrics: Further groups: "reconstruction", "latent", "samples", "columns" (of a mixed table), "disentanglement",
            or several, also as one text with commas.
        ais: Anneal as well, between a lower and an upper bound; a mapping holds `steps`, `chains` and `start`.
        rows: Only so many rows, evenly spaced; None: all, and 50 of them for annealing.
        dequantize: For whole numbers under a density: add uniform noise first, for a bound on their log-mass.
        extractor: A network from rows [n, *shape], as the model sees them, to features [n, D], for the samples group.
        inception: File with the published weights of the Inception network, for the Frechet inception distance.
        seed: Of all draws.
        progress: Tell how far it is, on standard error.
        model: The model, for the folder of a run of a model of your own.
        condition: What is given beside the rows `x`, in the data's own words, where the model reads it: the bound is
            then one on log p(x|c).

    Raises:
        BadInput: for unknown groups, rows that do not fit, and a run without a model.
    """
    if not isinstance(run, Run | str | os.PathLike):
        raise BadInput("run", type(run).__name__, "must be a run or its folder", "vaelab.log_likelihood takes models")
    loaded = run if isinstance(run, Run) else Run(run, model)
    chosen = _groups(metrics or ())
    if not loaded.metrics:
        raise BadInput("run", loaded.folder, "has no evaluated weights yet", "continue it: vaelab train --resume")
    whole("samples", samples)
    whole("seed", seed, 0)
    options = _options(ais)
    if not loaded.has_bound and (options is not None or not chosen):
        rule = f"its {loaded.config.model.posterior} codes have no noise, and so no bound on log p(x)"
        fix = "measure what it has: --metrics reconstruction,samples"
        raise BadInput("run", loaded.folder, rule, fix)
    if inception is not None:
        check_file(Path(inception))
    taken = take(loaded, x, seed, rows, dequantize, "disentanglement" in chosen, condition)
    groups = _measured(chosen, _case(loaded, taken, extractor, seed), inception)
    shift = loaded.spec.log_abs_det
    numbers: dict[str, Numbers] = {}
    findings: list[Finding] = []
    if loaded.has_bound:
        with telling("bound", progress) as told:
            bound = importance_bound(loaded.model, taken.x, samples, seed=seed, progress=told).shifted(shift)
        with np.errstate(invalid="ignore"):  # of rows that the model holds impossible, which a finding tells
            numbers["bound"] = _bound_numbers(bound, (loaded.is_mass and not loaded.spec.vocabulary) or dequantize)
            if loaded.spec.vocabulary:  # of its own length, where a row of tokens is padded to that of the longest
                numbers["bound"]["nats_per_token"] = per_token(bound, rows_of(taken.x))
        findings += [*judge_bound(bound), *judge_rows(loaded, taken, dequantize)]
    if options is not None:
        with telling("annealing", progress) as told:
            numbers["ais"], more = _annealed(loaded, taken, rows, options, seed, bound, told)
        findings += more
    numbers |= groups
    facts = _facts(loaded, taken, samples, seed, dequantize)
    names = {len(loaded.spec.columns): loaded.spec.columns} if loaded.spec.columns else {}
    if x is None and rows is None:
        _keep(loaded, facts, numbers, findings)
    found = Evaluation(facts, numbers, worst_first(findings), names, taken.factor_names)
    return found


def _keep(run: Any, facts: dict[str, str], numbers: dict[str, Numbers], findings: list[Finding]) -> None:
    """Keeps an evaluation of all held-out rows in the run, beside groups that were measured before on the same rows."""
    before, same = run.evaluation, ("rows", "values", "seed")
    known = before.get("numbers", {}) if all(before.get("facts", {}).get(key) == facts[key] for key in same) else {}
    stays = "ais" in known and "ais" not in numbers
    annealed = [one for one in before.get("findings", []) if stays and one["code"] in ANNEALED]
    plain = Evaluation(facts, numbers, worst_first(findings)).to_dict()
    both = {"numbers": known | plain["numbers"], "findings": [*plain["findings"], *annealed]}
    run.keep_evaluation(plain | both)


def _measured(chosen: Sequence[str], case: Case, inception: str | os.PathLike[str] | None) -> dict[str, Numbers]:
    """The groups that were asked for; before the bound, which takes longer than to find that one does not apply."""
    if "disentanglement" in chosen:
        known_factors(case.factors)
    found = {}
    for name in chosen:
        with torch.random.fork_rng(devices=[]):
            found[name] = GROUPS[name](case)
    return found | ({} if inception is None else {"fid": fid(case, inception)})


def _groups(metrics: str | Sequence[str]) -> list[str]:
    words = metrics.split(",") if isinstance(metrics, str) else list(metrics)
    names = [word.strip() for word in words if word.strip()]
    for name in names:
        pick(GROUPS, name, "metrics")
    return list(dict.fromkeys(names))


def _options(ais: bool | Mapping[str, Any]) -> dict[str, Any] | None:
    """The options of the annealing, checked before anything is computed; None where it is not asked for."""
    options = dict(ais) if isinstance(ais, Mapping) else {}
    for name in options:
        if name not in AIS_OPTIONS:
            raise BadInput("ais", name, f"the options are {', '.join(AIS_OPTIONS)}", did_you_mean(name, AIS_OPTIONS))
    check_options(**options)
    return None if ais is False else options


def _bound_numbers(bound: Bound, mass: bool) -> Numbers:
    """The bound, its parts and its errors."""
    found = {
        "elbo": mean_of(bound.elbo, UNIT),
        "log_likelihood": bound.estimate,
        "effective_samples": Estimate(float(np.median(bound.ess)), None, f"of {bound.samples}, median over rows"),
    }
    if bound.samples > 1:
        error = Z95 * bound.sampling_error
        found["log_likelihood_of_these_rows"] = Estimate(bound.mean, error, f"{UNIT}; ± for other draws of z alone")
        found["gain_of_last_half"] = bound.gain
    if np.isfinite(bound.k_hat).any():
        found["tail_k_hat"] = Estimate(float(np.median(bound.k_hat)), None, "median over rows; below 0.7 is reliable")
    if mass:
        bits = bits_per_dimension(1.0, bound.dimensions)
        found["bits_per_dimension"] = Estimate(
            -bound.mean * bits, bound.estimate.interval * bits, "bits per dimension, lower is better"
        )
    return found


def _annealed(
    run: Any, taken: Taken, rows: int | None, options: dict[str, Any], seed: int, bound: Bound, told: Any
) -> tuple[Numbers, list[Finding]]:
    """Both sides for rows of the data, and for as many rows drawn from the model."""
    index = np.arange(len(taken.x)) if rows is not None else spaced(len(taken.x), AIS_ROWS).numpy()
    shift = run.spec.log_abs_det
    bracket = anneal(run.model, taken.x[index], seed=seed, progress=told, **options).shifted(shift)
    gap = simulated_ais(run.model, taken.x[index], min(len(index), SIMULATED_ROWS), seed=seed, progress=told, **options)
    here = bound.values[index]
    numbers = {
        "rows": Estimate(float(len(index)), None, "rows, evenly spaced"),
        "lower": mean_of(bracket.lower, UNIT),
        "upper": mean_of(bracket.upper, UNIT),
        "between_for_these_rows": replace(bracket.between, unit=f"{UNIT}; both sides and their errors over chains"),
        "importance_bound_of_these_rows": mean_of(here, UNIT),
        "gain_over_importance_bound": mean_of(bracket.lower - here, UNIT),
        "gap": mean_of(bracket.upper - bracket.lower, UNIT),
        "gap_on_simulated_rows": mean_of(gap.upper - gap.lower, f"{UNIT}; {len(gap.lower)} rows drawn from the model"),
        "acceptance": mean_of(bracket.acceptance, "of the proposals"),
    }
    return numbers, list(judge_bracket(bracket, numbers["gap_on_simulated_rows"]))


def _case(run: Any, taken: Taken, extractor: Any, seed: int) -> Case:
    return Case(
        config=run.config,
        spec=run.spec,
        model=run.model,
        x=rows_of(taken.x),
        condition=condition_of(taken.x),
        training=taken.training,
        factors=taken.factors,
        factor_names=taken.factor_names,
        seed=seed,
        extractor=extractor,
    )


def _facts(run: Any, taken: Taken, samples: int, seed: int, dequantize: bool) -> dict[str, str]:
    """What a person must know to read the numbers, and to get them again."""
    chose = "; these rows also chose which weights were kept" if "held-out rows" in taken.where else ""
    kind = "a mass" if run.is_mass else "a density on the data's own scale"
    return {
        "run": f"{run.folder}, step {run.metrics['step']}",
        "rows": taken.where + chose,
        "values": how_read(run, seed, dequantize),
        "likelihood": f"{run.config.likelihood.name}, {kind}",
        "samples": f"K = {samples} of q(z|x)" if run.has_bound else "none: codes without noise have no bound",
        "seed": f"{seed}",
        "unit": f"{UNIT}, higher is better; ± is half a 95 % interval over rows",
    }
