"""Rules about a finished run of ours; those about any training are in `monitoring/rules.py`, and run first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..core.config import Config, flat
from ..core.errors import BadInput
from ..core.facts import Facts
from ..core.finding import Finding, settings_text
from ..core.settings import WASSERSTEIN
from ..measure.bound import selected_by
from ..models.unread import OF_SETTINGS
from ..monitoring.rules import judge as judge_trace
from ..monitoring.trace import Trace, from_metrics
from .checkpoint import Progress
from .rules_codes import code_rules
from .rules_labels import label_rules
from .rules_prior import prior_rules

NATS = "nats per sample"
# Runs of a few hundred steps that have not quite arrived spend up to 1.4 nats a dimension, and half of their rate.
FAR, MOSTLY = 2.0, 0.6
MUCH = 0.25  # of the rate, where free bits are the reason to expect it
LOW_BETA = 0.5  # below half its weight the divergence no longer keeps q(z) at the prior
REGULARISE = "train.weight_decay=0.01, model.dropout=0.1 or a smaller model.hidden"


NO_SETTING = "no setting of this run does it alone: see what the finding says of its cause"


def applicable(findings: Iterable[Finding], config: Config) -> list[Finding]:
    """The findings with edits that change something and that this run's settings take; others are said in words."""
    return [_applicable(finding, config) for finding in findings]


def _applicable(finding: Finding, config: Config) -> Finding:
    now = flat(config.model_dump())
    new = {key: value for key, value in finding.edit.items() if now.get(key, value) != value}
    try:
        edited = config.edited(new)
    except BadInput:
        new, edited = {}, config
    likelihood, split = edited.likelihood.name, edited.train.accumulate > 1
    unscaled = "data.scale" in new and new["data.scale"] == "standardize" and likelihood not in ("auto", "gaussian")
    useless = any(rule.broken(edited, Facts(())) for rule in OF_SETTINGS)
    if unscaled or useless or (split and "objective.free_bits" in new and edited.objective.free_bits > 0):
        new = {}
    if new == finding.edit:
        return finding
    spoken = finding.advice if finding.advice != settings_text(finding.edit) else settings_text(new) or NO_SETTING
    return replace(finding, edit=new, advice=spoken)


@dataclass(frozen=True)
class Measured:
    """What the rules read.

    Args:
        config: The resolved config.
        selected: The held-out numbers of the selected weights.
        training: The same numbers on training rows.
        last: The held-out numbers of the last evaluation.
        progress: Counters of the run.
        metrics: All lines of metrics.
    """

    config: Config
    selected: dict[str, Any]
    training: dict[str, Any]
    last: dict[str, Any]
    progress: Progress
    metrics: list[dict[str, Any]]

    @property
    def baseline(self) -> float | None:
        """Held-out negative log-likelihood of the best decoder that ignores z, nats per sample."""
        return next((line["negative_elbo"] for line in self.metrics if line["kind"] == "baseline"), None)

    @property
    def is_uncharged(self) -> bool:
        """Whether there is a bound, and the objective leaves its divergence out: then it is no measure of the run."""
        return self.selected.get("is_bound", True) and not self.config.objective.charges

    @property
    def training_is_over(self) -> bool:
        """Whether the run is past its warm-up, so that its numbers are those of what was asked for."""
        return self.progress.step > self.config.objective.warmup_steps


def named(measured: dict[str, Any]) -> tuple[str, Any, Any]:
    """What `selected_by` gives, without the remark beside the name."""
    name, value, error = selected_by(measured)
    return name.partition(" (")[0], value, error


def judge(measured: Measured) -> list[Finding]:
    """All findings of a finished run; the bound itself comes first."""
    own = [finding for rule in RULES for finding in rule(measured)]
    found = [*own[:1], *judge_trace(run_trace(measured.config, measured.metrics)), *own[1:]]
    return applicable(found, measured.config)


def run_trace(config: Config, metrics: list[dict[str, Any]]) -> Trace:
    """The trace of a run from its settings and lines of metrics."""
    settings, objective = flat(config.model_dump()), config.objective
    ends = {"constant": 0, "cyclical": objective.warmup_steps * objective.cycles}
    again = [line["step"] + line["steps"] for line in metrics if line.get("what") == "annealed"]
    return from_metrics(
        metrics,
        warmup_ends=max(ends.get(objective.anneal, objective.warmup_steps), objective.capacity_steps, *again),
        total=config.train.steps,
        latent=config.model.latent,
        settings=settings,
    )


def never_finite(progress: Progress) -> Finding:
    """The one finding of a run without any finite evaluation."""
    return Finding(
        "TR112",
        "error",
        "no held-out evaluation was finite: there is no model to keep",
        float(progress.step),
        "steps",
        why="the weights or the likelihood have gone beyond what numbers can hold",
        advice="train.learning_rate a third of what it is, and train.clip_norm=1",
    )


def _bound(m: Measured) -> Iterator[Finding]:
    name, value, error = selected_by(m.selected)
    yield Finding(
        "TR100",
        "ok",
        f"held-out {name}",
        value,
        NATS,
        1.96 * error if m.selected["rows"] > 1 else None,
        f"{m.selected['rows']} held-out rows, beta = 1, posterior samples a row: {m.selected['samples']}, "
        f"weights of step {m.selected['step']}, {'closed-form' if m.selected['kl_is_exact'] else 'Monte Carlo'} KL",
    )


def _no_better(m: Measured) -> Iterator[Finding]:
    """Worse than the best constant decoder by three standard errors: nothing was learned that z could carry."""
    uniform = m.config.prior.name == "uniform" and m.config.prior.after == "none"
    if m.baseline is None or not m.training_is_over or m.config.objective.controlled or uniform or m.is_uncharged:
        return  # a uniform prior over codes, which TR174 is about, makes it no matter of learning
    name, value, error = named(m.selected)
    short = value - m.baseline
    if short > 3 * error:
        reach = _reach(m)
        early = reach < SHORT_REACH or _gain(m) > 2 * error
        yield Finding(
            "TR116" if early else "TR115",
            "warning",
            f"{'training stopped too early: ' * early}the model is worse than the best decoder that ignores z",
            short,
            f"{NATS} worse",
            1.96 * error,
            f"negative log-likelihood of one distribution for all rows, fitted to the training rows: {m.baseline:.4g}; "
            f"learning rates of all steps add up to {reach:.2g}",
            "so few steps of this length cannot carry a weight from its start to where it is needed"
            if early
            else "parts of the model do not learn",
            edit=_longer_or_faster(m) if early else {},
            advice="" if early else "see which part does not learn: vaelab check, with the same settings",
            expected=f"a held-out {name} below that of the constant",
        )


SHORT_REACH = 0.05  # Adam moves a weight by the rate in a step at most, and first weights are some hundredths
USUAL_RATE = 1e-3


def _reach(m: Measured) -> float:
    """The sum of the learning rates of all steps: the farthest that Adam can move a weight."""
    rates = [line["learning_rate"] for line in m.metrics if "learning_rate" in line]
    return m.progress.step * sum(rates) / len(rates) if rates else m.progress.step * m.config.train.rate


def _longer_or_faster(m: Measured) -> dict[str, Any]:
    if m.config.train.rate < USUAL_RATE / 3:
        return {"train.learning_rate": USUAL_RATE}
    return {"train.steps": max(2000, 4 * m.config.train.total)}


def _gain(m: Measured) -> float:
    """Nats that the held-out bound gained over the last fifth of the evaluations, the best being the last."""
    held_out = [selected_by(line)[1] for line in m.metrics if line["kind"] == "held_out"]
    finite = [value for value in held_out if value is not None]
    if len(finite) < 2 or m.progress.step != m.selected["step"]:
        return 0.0
    return finite[-1 - max(1, len(finite) // 5)] - finite[-1]


def _beta(m: Measured) -> float:
    """The weight of the divergence in the last steps, whoever set it."""
    return next((line["beta"] for line in reversed(m.metrics) if "beta" in line), m.config.objective.beta)


def _off_centre(m: Measured) -> Iterator[Finding]:
    """A tenth of the rate, and more than half a nat, spent on q(z) as a whole being elsewhere than the prior."""
    if not m.selected.get("is_bound", True) or m.config.objective.name in WASSERSTEIN:
        return  # no divergence is in force, and no weight of one would help
    rate, beta = m.selected["kl"], _beta(m)
    # The moments of so many codes differ from the prior's by chance: half a nat a row for each mean and each variance.
    chance = len(m.selected["mean_variance"]) / m.selected["rows"]
    spent = (m.selected["aggregate_kl"] or 0.0) - chance
    if spent > 0.5 and spent > 0.1 * rate and not m.config.objective.controlled:  # a target asks for its beta
        code, title, why, edit = next(entry for applies, *entry in AWAY if applies(m, beta))
        each = spent / max(1, m.selected["active_units"])
        most = MUCH if m.config.objective.free_bits > 0 else MOSTLY
        yield Finding(
            code,
            "warning" if beta < LOW_BETA or each > FAR or spent > most * rate else "info",
            title,
            spent,
            NATS,
            evidence=f"KL from N(0, 1) of a normal with the codes' mean and variance, less the {chance:.2g} of chance; "
            f"the whole KL is {rate:.3g}, beta is {beta:.3g}",
            why=why,
            edit=edit(m),
            expected="below a tenth of the KL",
        )


def _longer(m: Measured) -> dict[str, Any]:
    return {"train.steps": max(2000, 2 * m.config.train.total)}


AWAY: tuple[tuple[Any, ...], ...] = (
    (
        lambda m, beta: beta < LOW_BETA,
        "TR119",
        "beta is too small: the codes of the data leave the prior, and samples fall into holes",
        "little holds q(z) at the prior, from which samples are drawn",
        lambda m: (
            {"objective.beta": 1.0}
            if m.config.objective.beta < LOW_BETA
            else {"objective.warmup_steps": max(1, m.config.train.total // 3)}
        ),
    ),
    (
        lambda m, beta: m.config.objective.free_bits > 0,
        "TR114",
        "free bits are too many: the codes of the data leave the prior at no cost",
        "below the free bits the divergence has no gradient, and codes stand where they like",
        lambda m: {"objective.free_bits": 0.0},
    ),
    (
        lambda m, beta: _gain(m) > 2 * m.selected["standard_error"],
        "TR116",
        "training stopped too early: the codes of the data have not found the prior yet",
        "the held-out bound was still getting better",
        _longer,
    ),
    (
        lambda m, beta: True,
        "TR110",
        "the codes of the data lie elsewhere than the prior: samples from the prior will differ from the data",
        "the likelihood rewards ever larger outputs, or steps are too long or too short to arrive",
        _longer,
    ),
)
STRONG_DECAY = 2e-3  # share of its size that a weight loses in each step: half of it in 350 steps
STRONG_DROPOUT = 0.7  # at one half a unit still sees every second input


def _held_down(m: Measured) -> Iterator[Finding]:
    """Regularisation that keeps the networks from learning anything."""
    shrink, dropout = m.config.train.weight_decay * m.config.train.rate, m.config.model.dropout
    for name, value, most, unit, edit in (
        ("weight decay", shrink, STRONG_DECAY, "% that each weight shrinks in a step", {"train.weight_decay": 0.01}),
        ("dropout", dropout, STRONG_DROPOUT, "% of the units are off in a step", {"model.dropout": 0.1}),
    ):
        if value > most:
            yield Finding(
                "TR118",
                "warning",
                f"the {name} is too strong",
                100 * value,
                unit,
                why="what is left of the networks does not tell rows apart",
                edit=edit,
                expected="a lower held-out bound",
            )


EMPTY_GROUP = 0.1  # nats in a latent group: rows cannot be told apart by that


def _sizes(m: Measured) -> tuple[int, ...]:
    """Latent sizes of a hierarchy's groups; empty for a flat model."""
    sizes = m.config.model.groups or ()
    return sizes if 1 < len(sizes) == len(m.selected["kl_per_dimension"]) else ()


def _empty_groups(m: Measured) -> Iterator[Finding]:
    """Groups of a hierarchy without anything to say, where others have it; without any it is collapse."""
    sizes, nats = _sizes(m), m.selected["kl_per_dimension"]
    empty = [number for number, carried in enumerate(nats, 1) if carried < EMPTY_GROUP]
    if sizes and 0 < len(empty) < len(sizes):
        kept = [size for number, size in enumerate(sizes, 1) if number not in empty]
        yield Finding(
            "TR160",
            "info",
            f"latent group {' and '.join(map(str, empty))} of {len(sizes)} carries next to nothing",
            sum(nats[number - 1] for number in empty),
            "nats per sample",
            evidence=f"held-out KL of each group, from the top down: {', '.join(f'{value:.2f}' for value in nats)}",
            why="other groups say all that the bound has a use for, or were quicker to say it",
            advice=f"model.groups={kept} is nearly the same model, smaller; objective.free_bits=0.5 keeps all in use",
        )


def _unused(m: Measured) -> Iterator[Finding]:
    active, latent = m.selected["active_units"], len(m.selected["kl_per_dimension"])
    if 0 < active < latent and not _sizes(m):
        yield Finding(
            "TR102",
            "info",
            f"{active} of {latent} latent dimensions are in use",
            float(active),
            "dimensions above 0.01 nats",
            evidence="held-out KL of each dimension",
            why="the bound switches off dimensions it has no use for; that is not collapse and costs nothing",
            advice=f"model.latent={active} gives the same model, smaller",
        )


def _codes(m: Measured) -> Iterator[Finding]:
    return code_rules(m.selected, flat(m.config.model_dump()))


def _gap(m: Measured) -> Iterator[Finding]:
    """Training rows and held-out rows differ by more than chance: three standard errors of the difference."""
    (_, new, error), (_, known, other) = selected_by(m.selected), selected_by(m.training)
    gap, error = new - known, (error**2 + other**2) ** 0.5
    if gap > 3 * error and min(m.selected["rows"], m.training["rows"]) > 1:  # one row has no error to compare with
        yield Finding(
            "TR104",
            "info",
            "held-out rows cost more than training rows",
            gap,
            NATS,
            1.96 * error,
            f"selected weights on {m.training['rows']} training and {m.selected['rows']} held-out rows",
            "the model knows the training rows better than new ones",
            f"more data, {REGULARISE}",
        )


TARGETS = {"target_rate": "kl", "target_reconstruction": "reconstruction"}
MISSED = 0.05  # of the rate: a controller that has settled holds it within two or three percent


def _target(m: Measured) -> Iterator[Finding]:
    """What a controller was asked to hold, against what it held over the last fifth of the training."""
    for setting, role in TARGETS.items():
        target = getattr(m.config.objective, setting)
        lines = [line for line in m.metrics if line["kind"] == "train" and line.get(role) is not None]
        late = lines[-max(1, len(lines) // 5) :]
        if target is None or not late:
            continue
        reached, rate = (sum(line[name] for line in late) / len(late) for name in (role, "kl"))
        missed = abs(reached - target) > MISSED * max(rate, 1.0)
        yield Finding(
            "TR117",
            "warning" if missed else "ok",
            f"the target of objective.{setting}={target:g} was {'missed' if missed else 'held'}",
            reached,
            NATS,
            evidence=f"mean of the last fifth of the training; beta ended at {_beta(m):.3g}",
            why="the target is out of this model's reach, or training was too short to arrive" if missed else "",
            edit={"train.steps": 2 * m.config.train.total} if missed else {},
            expected=f"a mean near {target:g}" if missed else "",
        )


def _unfinished(m: Measured) -> Iterator[Finding]:
    """Still falling at the end: the last tenth of the evaluations gained more than two standard errors."""
    held_out = [selected_by(line)[1] for line in m.metrics if line["kind"] == "held_out"]
    held_out = [value for value in held_out if value is not None]
    tenth = max(1, len(held_out) // 10)
    if len(held_out) < 5 or m.progress.step != m.selected["step"]:
        return
    gain = held_out[-1 - tenth] - held_out[-1]
    if gain > 2 * selected_by(m.selected)[2]:
        yield Finding(
            "TR105",
            "info",
            "the held-out bound was still getting better at the last step",
            gain,
            NATS,
            evidence=f"gain over the last {tenth} evaluations",
            why="training stopped before it was done",
            advice=f"train.steps={2 * m.config.train.total}",
        )


LEVEL = "; it looks flat at the end because the learning rate falls to zero"
NEAR = 0.8  # of half of the steps: an evaluation before says nothing of the second half
HALF_SHARE, STEEP_SHARE = 0.15, 0.33  # of all that was learned: a run that is nearly done gains a few per cent


def _half_way(m: Measured) -> Iterator[Finding]:
    """Stopped in the steep part: the second half of the steps brought a large share of all that was learned.

    A rate that falls to zero flattens the end of any curve, so that the last evaluations alone tell nothing.
    """
    middle = m.progress.step / 2
    first = [line for line in m.metrics if line["kind"] == "held_out" and line["step"] <= middle]
    late = m.progress.step == m.selected["step"] and m.config.objective.warmup_steps < middle
    late = late and bool(first) and first[-1]["step"] >= NEAR * middle
    if not first or not late or m.baseline is None or m.config.objective.controlled or m.is_uncharged:
        return
    name, value, error = named(m.selected)
    before = selected_by(first[-1])[1]
    learned = m.baseline - value
    if before is None or learned <= 3 * error:
        return  # nothing was learned, which is another finding
    gain = before - value
    if gain > 3 * error and gain > HALF_SHARE * learned:
        yield Finding(
            "TR106",
            "warning" if gain > STEEP_SHARE * learned else "info",
            "training stopped too early: its second half brought much of all that was learned",
            gain,
            NATS,
            evidence=f"held-out {before:.4g} at step {first[-1]['step']}, {value:.4g} at step {m.selected['step']}, "
            f"{m.baseline:.4g} for the best decoder that ignores z: {gain / learned:.0%} of the way",
            why="so steep a curve goes on falling" + LEVEL * (m.config.train.schedule != "constant"),
            edit=_longer(m),
            expected=f"a lower held-out {name}, and a second half that gains a few per cent",
        )


def _labels(m: Measured) -> Iterator[Finding]:
    return label_rules(m.selected)


def _prior(m: Measured) -> Iterator[Finding]:
    return prior_rules(m.selected, m.config.objective.charges)


def _stopped_early(m: Measured) -> Iterator[Finding]:
    if m.progress.step < m.config.train.total:
        yield Finding(
            "TR108",
            "info",
            "stopped early",
            float(m.progress.step),
            "steps",
            evidence=f"{m.progress.stale} evaluations without a better held-out bound (train.patience)",
        )


RULES: tuple[Callable[[Measured], Iterator[Finding]], ...] = (
    _bound,
    _no_better,
    _off_centre,
    _held_down,
    _unused,
    _empty_groups,
    _codes,
    _labels,
    _prior,
    _gap,
    _target,
    _unfinished,
    _half_way,
    _stopped_early,
)
