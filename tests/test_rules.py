"""Rules over traces whose story is known: each failure is named by its cause, and none is seen where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vaelab.core.config import build_config, flat
from vaelab.core.finding import Finding
from vaelab.monitoring.causes import TIER, explained
from vaelab.monitoring.rules import judge
from vaelab.monitoring.trace import ROLES, Trace, from_columns, from_metrics

STEPS = np.arange(10, 1010, 10)
NOISE = np.random.default_rng(0).normal(0, 1, 100)


def falling(start: float = 200.0, end: float = 100.0, noise: float = 1.0) -> np.ndarray:
    """A loss that falls and settles, with the noise of batches."""
    return end + (start - end) * np.exp(-STEPS / 150) + noise * NOISE


def series(values: Any) -> list[tuple[float, Any]]:
    return list(zip(STEPS.tolist(), list(values), strict=False))


def trace(**changes: Any) -> Trace:
    """A healthy training of three latents; `changes` replace series (arrays) and facts (anything else)."""
    columns: dict[str, Any] = {
        "loss": falling(),
        "reconstruction": falling() - 8,
        "kl": np.full(100, 8.0),
        "beta": np.ones(100),
        "learning_rate": np.full(100, 1e-3),
        "update_ratio": 0.01 / (1 + STEPS / 100),
        "held_out_loss": falling(201, 102, 0.3),
        "held_out_error": np.full(100, 1.0),
        "held_out_kl": np.full(100, 8.0),
        "held_out_kl_per_dimension": [[4.0, 3.0, 1.0]] * 100,
        "held_out_posterior_variance": [[0.01, 0.1, 0.6]] * 100,
    }
    facts = {key: value for key, value in changes.items() if key not in ROLES}
    columns |= {key: value for key, value in changes.items() if key in ROLES}
    kept = {role: series(values) for role, values in columns.items() if values is not None}
    return from_columns(kept, **{"total": 1000, "latent": 3, **facts})


def pressing(found: list[Finding]) -> list[str]:
    return [finding.code for finding in found if finding.severity in ("warning", "error")]


def settings(**sections: Any) -> dict[str, Any]:
    return flat(build_config({"train": {"learning_rate": 1e-3, "steps": 1000}}, sections).model_dump())


NOTHING = {
    "held_out_kl": np.full(100, 0.004),
    "held_out_kl_per_dimension": [[0.002, 0.001, 0.001]] * 100,
    "kl": np.full(100, 0.004),
}
RISING = np.concatenate([falling()[:50], np.linspace(102, 180, 50)])
HEALTHY = {
    "as it should be": {},
    "ours": {"settings": settings()},
    "without held-out rows": {
        key: None
        for key in ROLES
        if key.startswith("held_out")
    },
    "only a loss": {key: None for key in ROLES if key != "loss"},
    "no KL yet while beta is small": {**NOTHING, "beta": np.linspace(0.0, 0.1, 100), "warmup_ends": 5000,
                                      "settings": settings(objective={"anneal": "linear", "warmup_steps": 5000})},
    "one dimension switched off": {"held_out_kl_per_dimension": [[5.0, 3.0, 0.0]] * 100},
    "a loss below 0": {"loss": falling(50, -20), "reconstruction": falling(42, -28), "held_out_loss": falling(52, -18)},
    "rising while beta rises": {"loss": np.linspace(50, 110, 100), "beta": np.linspace(0, 1, 100), "warmup_ends": 1000,
                                "held_out_loss": falling()},
    "the first steps are clipped": {"clipped": np.r_[np.ones(20), np.zeros(80)]},
    "heavy batches": {"loss_max": falling() + 10 * np.random.default_rng(1).gamma(1.0, 1.0, 100)},
    "half of the rectified units dead": {"dead_units": np.full(100, 0.45)},
    "a codebook in use": {"codes_used": np.full(100, 0.6)},
    "a controller that raises the loss": {"loss": RISING * 3, "settings": settings(objective={"target_rate": 50.0})},
    "a single held-out row": {"held_out_mean_variance": [[0.0, 0.0, 0.0]] * 100, "held_out_rows": np.ones(100)},
    "NaN in place of the KL": {"held_out_kl": np.full(100, np.nan), "kl": None, "held_out_kl_per_dimension": None},
    "a passing fault": {"events": [{"what": "refused", "step": 500, "cause": "gone"}]},
}  # fmt: skip
FAILING: dict[str, tuple[str, dict[str, Any]]] = {
    "collapse by beta": ("TR121", {**NOTHING, "beta": np.full(100, 20.0)}),
    "collapse by a strong decoder": ("TR122", {**NOTHING, "baseline": 180.0}),
    "collapse by the rate": ("TR123", {**NOTHING, "update_ratio": np.full(100, 0.4)}),
    "collapse after a cold start": ("TR101", {**NOTHING, "baseline": 102.0}),
    "the loss goes up and stays": ("TR120", {"loss": RISING * 3, "held_out_loss": None}),
    "worse than a constant after wild steps": ("TR120", {"baseline": 60.0, "update_ratio": np.full(100, 0.2)}),
    "a standing loss": ("TR126", {"loss": 200 + 0.1 * NOISE, "reconstruction": 192 + 0.1 * NOISE,
                                  "update_ratio": np.full(100, 1e-7), "held_out_loss": 200 + 0.1 * NOISE}),
    "one spike": ("TR124", {"loss_max": np.where(STEPS == 700, 1000.0, falling() + 3)}),
    "one dimension": ("TR127", {"held_out_kl_per_dimension": [[8.0, 0.01, 0.0]] * 100}),
    "one code for every row": (
        "TR139", {"held_out_mean_variance": [[0.0, 1e-12, 0.0]] * 100, "held_out_rows": np.full(100, 200.0)}
    ),
    "one code for every row, after wild steps": (
        "TR120", {"held_out_mean_variance": [[0.0, 1e-12, 0.0]] * 100, "update_ratio": np.full(100, 0.4)}
    ),
    "wide posteriors": ("TR128", {"held_out_posterior_variance": [[40.0, 0.1, 0.6]] * 100}),
    "narrow posteriors": ("TR129", {"held_out_posterior_variance": [[1e-6, 1e-6, 1e-7]] * 100}),
    "overfitting": ("TR103", {"held_out_loss": RISING, "held_out_error": np.full(100, 1.0)}),
    "dead units": ("TR125", {"dead_units": np.full(100, 0.9)}),
    "saturated units": ("TR135", {"saturated_units": np.full(100, 0.97)}),
    "few codes": ("TR140", {"codes_used": np.full(100, 0.02)}),
    "NaN in the curve": ("TR133", {"loss": np.where(STEPS > 800, np.nan, falling())}),
    "NaN after an explosion": ("TR131", {"loss": np.where(STEPS > 800, np.nan, np.where(STEPS > 780, 1e9, falling()))}),
    **{
        f"NaN, cause {cause}": (code, {"events": [{"what": "refused", "step": 1000, "cause": cause, "text": "why"}]})
        for cause, code in {"data": "TR130", "variance": "TR132", "rate": "TR131", "layer": "TR133"}.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("story", HEALTHY)
def test_nothing_is_said_where_nothing_is_wrong(story: str) -> None:
    found = [finding for finding in judge(trace(**HEALTHY[story])) if finding.code != "TR134"]
    assert pressing(found) == []


@pytest.mark.parametrize(("beta", "code"), [(0.0, "TR119"), (0.01, "TR119"), (1.0, "TR110")])
def test_codes_that_leave_the_prior_are_seen_in_a_strangers_training(beta: float, code: str) -> None:
    """q(z) of variance 40 costs 0.5 (40 - 1 - ln 40) nats, 17.7 in a dimension."""
    spread = {"mean_variance": [[40.0] * 3] * 100, "posterior_variance": [[1e-3] * 3] * 100}
    found = judge(trace(**spread, beta=np.full(100, beta), held_out_posterior_variance=None, held_out_kl=None,
                        held_out_kl_per_dimension=None, kl=np.full(100, 60.0)))  # fmt: skip
    assert pressing(found) == [code]
    assert found[0].measured == pytest.approx(3 * 0.5 * (40.001 - 1 - np.log(40.001)))


@pytest.mark.parametrize("story", FAILING)
@pytest.mark.parametrize("ours", [True, False])
def test_the_cause_is_named(story: str, ours: bool) -> None:
    code, changes = FAILING[story]
    own = settings(objective={"beta": 20.0 if code == "TR121" else 1.0}, data={"scale": "none"})
    given = {**changes, "settings": own} if ours else changes
    found = explained(judge(trace(**given)))
    assert pressing(found)[:1] == [code]
    lead = found[0]
    assert np.isfinite(lead.measured) and lead.unit and lead.why and lead.advice


@pytest.mark.parametrize("story", FAILING)
def test_remedies_are_settings_that_a_run_takes(story: str) -> None:
    _, changes = FAILING[story]
    config = build_config({"train": {"learning_rate": 1e-3, "steps": 1000}})
    for finding in judge(trace(**changes, settings=flat(config.model_dump()))):
        if finding.edit:
            assert config.edited(finding.edit) != config, f"{finding.code} changes nothing"


def test_a_low_rate_while_beta_is_small_is_no_collapse_but_one_at_full_weight_is() -> None:
    """The same KL of nothing, before the warm-up has ended and after."""
    warm = settings(objective={"anneal": "linear", "warmup_steps": 500})
    before = trace(**NOTHING, beta=np.linspace(0, 0.3, 100), warmup_ends=5000, settings=warm)
    after = trace(**NOTHING, beta=np.minimum(1, STEPS / 500), warmup_ends=500, settings=warm)
    assert pressing(judge(before)) == [] and pressing(judge(after)) == ["TR101"]


def test_a_cause_is_told_before_its_effects() -> None:
    found = judge(trace(**NOTHING, beta=np.full(100, 20.0), baseline=60.0, held_out_posterior_variance=[[50.0]] * 100))
    told = explained(found)
    assert told[0].code == "TR121" and pressing(told) == ["TR121"]
    assert all("TR121" in finding.why for finding in told if finding.code == "TR128")
    assert explained(told) == told


def test_findings_outside_the_order_of_causes_keep_their_place() -> None:
    leak, collapse = Finding("DA127", "warning", "copies"), Finding("TR121", "error", "collapse")
    assert "DA127" not in TIER
    assert pressing(explained([leak, collapse])) == ["TR121", "DA127"]


def test_metrics_become_a_trace() -> None:
    lines = [
        {"kind": "baseline", "step": 0, "negative_elbo": 50.0},
        {"kind": "train", "step": 10, "loss": 3.0, "kl_per_dimension": [1.0, 2.0], "beta": 0.5},
        {"kind": "event", "what": "refused", "step": 12},
        {"kind": "held_out", "step": 20, "negative_elbo": None, "standard_error": 0.1, "kl": 3.0},
    ]
    read = from_metrics(lines)
    assert read.baseline == 50.0 and [event["step"] for event in read.events] == [12]
    assert read.get("kl_per_dimension").values.tolist() == [[1.0, 2.0]]
    assert np.isnan(read.get("held_out_loss").values[0]) and read.get("held_out_kl").values.tolist() == [3.0]
    assert read.last_step == 20 and not read.has("kl")


def test_an_empty_trace_says_nothing() -> None:
    assert judge(from_columns({})) == []
