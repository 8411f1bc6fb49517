"""The held-out bound as sums and counts, and the rules that read it, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vaelab
from vaelab.core.config import build_config
from vaelab.measure.bound import BoundSums
from vaelab.training.checkpoint import Progress
from vaelab.training.rules import Measured, judge


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


HEALTHY: dict[str, Any] = {
    "step": 100, "rows": 100, "samples": 1, "negative_elbo": 10.0, "standard_error": 0.1, "reconstruction": 7.0,
    "kl": 3.0, "kl_per_dimension": [2.0, 1.0], "active_units": 2, "aggregate_kl": 0.1, "kl_is_exact": True,
}  # fmt: skip


def judged(selected: dict[str, Any] | None = None, **changes: Any) -> dict[str, vaelab.Finding]:
    numbers = HEALTHY | (selected or {})
    facts: dict[str, Any] = {
        "config": build_config({"train": {"steps": 100, "learning_rate": 1e-3}}),
        "selected": numbers,
        "training": numbers,
        "last": numbers,
        "progress": Progress(step=100),
        "metrics": [{"kind": "held_out", "negative_elbo": 10.0}] * 20,
    }
    return {finding.code: finding for finding in judge(Measured(**(facts | changes)))}


def test_a_healthy_run_gets_its_bound_and_nothing_else() -> None:
    found = judged()
    assert list(found) == ["TR100"]
    assert found["TR100"].interval == pytest.approx(0.196)
    assert found["TR100"].unit == "nats per sample"


FALLING = [{"kind": "held_out", "negative_elbo": 20.0 - number} for number in range(20)]
WORSE = HEALTHY | {"negative_elbo": 12.0}
CLIPPED = [{"kind": "train", "clipped": 1.0}] * 10
CASES: dict[str, tuple[dict[str, Any], str, str, float]] = {
    "collapse": ({"selected": {"kl": 0.001, "active_units": 0, "aggregate_kl": 0}}, "TR101", "warning", 0.001),
    "unused dimensions": ({"selected": {"active_units": 1}}, "TR102", "info", 1.0),
    "worse after the best": ({"last": WORSE, "progress": Progress(step=200)}, "TR103", "info", 2.0),
    "training rows cost less": ({"training": HEALTHY | {"negative_elbo": 8.0}}, "TR104", "info", 2.0),
    "still falling": ({"metrics": FALLING}, "TR105", "info", 2.0),
    "refused steps": ({"progress": Progress(step=100, refused=3)}, "TR106", "warning", 3.0),
    "clipped": ({"metrics": CLIPPED}, "TR107", "info", 100.0),
    "stopped early": ({"progress": Progress(step=60)}, "TR108", "info", 60.0),
    "off the prior": ({"selected": {"aggregate_kl": 2.0}}, "TR110", "warning", 2.0),
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule_fires_on_its_number_alone(name: str) -> None:
    changes, code, severity, measured = CASES[name]
    found = judged(**changes)
    assert set(found) == {"TR100", code}
    assert (found[code].severity, found[code].measured) == (severity, pytest.approx(measured))
    assert found[code].unit
    assert found[code].title in str(found[code])
