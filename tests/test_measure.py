"""The held-out bound as sums and counts, and the rules that read it, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vaelab
from vaelab.core.config import build_config
from vaelab.measure.bound import BoundSums
from vaelab.training.checkpoint import Progress
from vaelab.training.rules import Measured, applicable, judge


def outputs(sizes: tuple[int, ...]) -> tuple[list[vaelab.VAEOutput], vaelab.VAEOutput]:
    """The same rows in batches of those sizes, and at once, with the same noise."""
    torch.manual_seed(0)
    model = vaelab.VAE(nn.Linear(5, 6), nn.Linear(3, 5), likelihood="gaussian", latent=3).double()
    x, noise = torch.randn(sum(sizes), 5).double(), torch.randn(4, sum(sizes), 3).double()
    parts = zip(x.split(sizes), noise.split(sizes, 1), strict=True)
    return [model.draw(a, 4, b) for a, b in parts], model.draw(x, 4, noise)


@pytest.mark.parametrize("sizes", [(7, 7, 7), (10, 10, 1), (21,), (1, 20)])
def test_batches_of_any_size_give_the_means_over_rows(sizes: tuple[int, ...]) -> None:
    batches, whole = outputs(sizes)
    sums = BoundSums(groups=3, latent=3)
    for batch in batches:
        sums.update(batch)
    measured = sums.compute(shift=1.5)
    negative = -(whole.log_px.mean(0) - whole.kl.sum(1)).detach().numpy()
    assert measured["rows"] == 21
    assert measured["negative_elbo"] == pytest.approx(negative.mean() - 1.5)
    assert measured["standard_error"] == pytest.approx(negative.std(ddof=1) / np.sqrt(21))
    assert measured["kl_per_dimension"] == pytest.approx(whole.kl.mean(0).tolist())
    mean, variance = whole.posterior.mean, whole.posterior.variance
    m, v = mean.mean(0), mean.var(0, correction=0) + variance.mean(0)
    expected = 0.5 * (m**2 + v - 1 - v.log()).sum().item()
    assert measured["aggregate_kl"] == pytest.approx(expected)
    assert measured["mean_variance"] == pytest.approx(mean.var(0, correction=0).tolist())
    assert measured["posterior_variance"] == pytest.approx(variance.mean(0).tolist())
    assert measured["active_by_mean"] == int((mean.var(0, correction=0) > 0.01).sum())


HEALTHY: dict[str, Any] = {
    "step": 100, "rows": 100, "samples": 1, "negative_elbo": 10.0, "standard_error": 0.1, "reconstruction": 7.0,
    "kl": 3.0, "kl_per_dimension": [2.0, 1.0], "active_units": 2, "aggregate_kl": 0.1, "kl_is_exact": True,
    "active_by_mean": 2, "mean_variance": [1.0, 0.8], "posterior_variance": [0.02, 0.2],
}  # fmt: skip


def settings(**sections: Any) -> Any:
    return build_config({"train": {"steps": 100, "learning_rate": 1e-3}}, sections)


def judged(selected: dict[str, Any] | None = None, **changes: Any) -> dict[str, vaelab.Finding]:
    numbers = HEALTHY | (selected or {})
    facts: dict[str, Any] = {
        "config": settings(),
        "selected": numbers,
        "training": numbers,
        "last": numbers,
        "progress": Progress(step=100),
        "metrics": [{"kind": "held_out", "step": 5 * place, "negative_elbo": 10.0} for place in range(20)],
    }
    return {finding.code: finding for finding in judge(Measured(**(facts | changes)))}


def test_a_healthy_run_gets_its_bound_and_nothing_else() -> None:
    found = judged()
    assert list(found) == ["TR100"]
    assert found["TR100"].interval == pytest.approx(0.196)
    assert found["TR100"].unit == "nats per sample"


FALLING = [
    {"kind": "held_out", "step": 5 * number, "negative_elbo": 20.0 - number, "standard_error": 0.1}
    for number in range(20)
]
STEEP = [
    {"kind": "held_out", "step": step, "negative_elbo": 12.0 if step <= 50 else 10.0} for step in range(0, 101, 10)
]
BASE = {"kind": "baseline", "step": 0, "negative_elbo": 8.0}
RATES = [{"kind": "train", "step": step, "learning_rate": 1e-3} for step in range(0, 100, 10)]
EVEN = [{"kind": "held_out", "step": 10 * step, "negative_elbo": 10.0} for step in range(10)]
# Two of a hundred rows' worth of chance is taken off what is spent on the place of q(z).
CASES: dict[str, tuple[dict[str, Any], str, str, float]] = {
    "unused dimensions": ({"selected": {"active_units": 1}}, "TR102", "info", 1.0),
    "training rows cost less": ({"training": HEALTHY | {"negative_elbo": 8.0}}, "TR104", "info", 2.0),
    "still falling": ({"metrics": FALLING}, "TR105", "info", 2.0),
    "half-way": ({"metrics": [BASE | {"negative_elbo": 15.0}, *STEEP]}, "TR106", "warning", 2.0),
    "stopped early": ({"progress": Progress(step=60)}, "TR108", "info", 60.0),
    "off the prior": ({"selected": {"aggregate_kl": 2.02}}, "TR110", "warning", 2.0),
    "a little off the prior": ({"selected": {"aggregate_kl": 1.02}}, "TR110", "info", 1.0),
    "small beta": (
        {"selected": {"aggregate_kl": 1.02}, "config": settings(objective={"beta": 0.1})}, "TR119", "warning", 1.0
    ),
    "free bits": (
        {"selected": {"aggregate_kl": 2.52}, "config": settings(objective={"free_bits": 8.0})}, "TR114", "warning", 2.5
    ),
    "weight decay": ({"config": settings(train={"weight_decay": 20.0})}, "TR118", "warning", 2.0),
    "dropout": ({"config": settings(model={"dropout": 0.9})}, "TR118", "warning", 90.0),
    "worse than a constant": ({"metrics": [BASE, *EVEN]}, "TR115", "warning", 2.0),
    "too early": ({"metrics": [BASE, *EVEN, *RATES], "progress": Progress(step=40)}, "TR116", "warning", 2.0),
    "target missed": (
        {
            "metrics": [*EVEN, *({**line, "kl": 3.0} for line in RATES)],
            "config": settings(objective={"target_rate": 6.0}),
        },
        "TR117", "warning", 3.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_rule_fires_on_its_number_alone(name: str) -> None:
    changes, code, severity, measured = CASES[name]
    found = judged(**changes)
    ended_early = {"TR108"} if "progress" in changes else set()
    assert set(found) == {"TR100", code} | ended_early
    assert (found[code].severity, found[code].measured) == (severity, pytest.approx(measured))
    assert found[code].unit
    assert found[code].title in str(found[code])


@pytest.mark.parametrize("objective", [{"name": "wae"}, {"name": "wae_gan"}, {"beta": 0.0}], ids=str)
def test_an_elbo_whose_divergence_was_not_charged_judges_nothing(objective: dict[str, Any]) -> None:
    """What the same numbers give where it was charged, and one note instead; codes without noise have their own."""
    for metrics, code in (([BASE, *EVEN], "TR115"), ([BASE | {"negative_elbo": 15.0}, *STEEP], "TR106")):
        assert set(judged(metrics=metrics)) == {"TR100", code}
        found = judged(metrics=metrics, config=settings(objective=objective))
        assert set(found) == {"TR100", "TR154"}
        assert found["TR154"].measured == HEALTHY["reconstruction"]
    points = judged({"is_bound": False}, config=settings(objective=objective))
    assert {"TR151", "TR154"} & set(points) == {"TR151"}


def test_a_run_that_was_too_short_expects_what_it_is_measured_by() -> None:
    curve = [
        line | {"reconstruction": line["negative_elbo"], "is_bound": False, "standard_error": 0.1} for line in STEEP
    ]
    selected = {"is_bound": False, "reconstruction": 10.0}
    metrics = [BASE | {"negative_elbo": 15.0}, *curve]
    expected = judged(selected, metrics=metrics, training=HEALTHY | selected)["TR106"].expected
    assert "reconstruction" in expected and "ELBO" not in expected
    assert "negative ELBO" in judged(metrics=[BASE | {"negative_elbo": 15.0}, *STEEP])["TR106"].expected


CONFIGS = {
    "plain": {},
    "already so": {"objective": {"beta": 4.0}},
    "controlled": {"objective": {"target_rate": 5.0}},
    "capacity": {"objective": {"capacity": 5.0}},
    "slices": {"train": {"accumulate": 2}},
    "counts": {"likelihood": "poisson"},
    "bits": {"likelihood": "bernoulli"},
}
EDITS: tuple[dict[str, Any], ...] = (
    {"objective.beta": 4.0}, {"objective.free_bits": 0.2}, {"data.scale": "standardize"},
    {"likelihood.noise": "shared"}, {"objective.anneal": "linear", "objective.warmup_steps": 30},
    {"train.learning_rate": 1e-4},
)  # fmt: skip


@pytest.mark.parametrize(
    ("before", "constant", "told"),
    [(12.0, 15.0, True), (10.7, 15.0, False), (10.2, 10.5, False), (12.0, 10.2, False), (9.0, 15.0, False)],
    ids=["steep", "flat", "by chance", "nothing learned", "worse"],
)
def test_a_run_was_too_short_where_its_second_half_brought_much(before: float, constant: float, told: bool) -> None:
    curve = [line | {"negative_elbo": before if line["step"] <= 50 else 10.0} for line in STEEP]
    assert ("TR106" in judged(metrics=[BASE | {"negative_elbo": constant}, *curve])) == told


@pytest.mark.parametrize("name", CONFIGS)
def test_an_edit_that_is_left_changes_something_and_is_taken(name: str, tmp_path: Path) -> None:
    """Each edit that is not put into words trains: the loop refuses none of them."""
    config = settings(**{key: value for key, value in CONFIGS[name].items() if key != "train"})
    train = {"steps": 2, "batch_size": 8, **CONFIGS[name].get("train", {})}
    config = config.updated(train=train, report={"html": False})
    rows = np.random.default_rng(0).integers(0, 2 if name == "bits" else 9, (40, 5)).astype(float)
    found = [vaelab.Finding("XX100", "warning", "a finding", 1.0, edit=edit) for edit in EDITS]
    for number, finding in enumerate(applicable(found, config)):
        assert finding.advice
        if finding.edit:
            edited = config.edited(finding.edit)
            assert edited != config
            vaelab.train(rows, out=tmp_path / str(number), config=edited, progress=False)
    kept = [finding.edit for finding in applicable(found, config)]
    assert kept[-1] == EDITS[-1] and (name != "plain" or all(kept[:3]))
