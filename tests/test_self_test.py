"""The self test passes as the library is, and fails for every way in which an estimator could be wrong."""

from __future__ import annotations

import inspect
import math
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vaelab.distributions import kl, observations
from vaelab.evaluation import self_test as room
from vaelab.evaluation.self_test import Check, SelfTest, self_test
from vaelab.measure import ais, bound, importance, latent, pareto


@pytest.mark.parametrize("seed", [0, 1])
def test_it_passes(seed: int) -> None:
    """And what it allows is within sight: a missing log K is 2.3 nats and more, an ELBO in a bound's place 0.3."""
    torch.manual_seed(3)
    state = torch.get_rng_state()
    found = self_test(seed)
    assert found.ok, str(found)
    assert len(found.checks) > 15
    assert str(found).endswith(f"all {len(found.checks)} ok")
    for check in found.checks:
        assert check.error > 0 or check.below == room.SAME
        assert check.below + check.above < 0.25, str(check)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("group", [room._linear_gaussian, room._discrete, room._bernoulli])
def test_a_seed_gives_the_same_numbers_each_time(group: Callable[[int], Any]) -> None:
    assert list(group(4)) == list(group(4)) != list(group(5))


def rewritten(owner: Any, function: str, *changes: tuple[str, str]) -> Callable[..., Any]:
    """A function of a module, or a method of a class, with its source changed; it sees its module."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, function)))
    for old, new in changes:
        assert source.count(old) == 1, f"{function} no longer has one {old!r}: write another break here"
        source = source.replace(old, new)
    module = owner if isinstance(owner, types.ModuleType) else sys.modules[owner.__module__]
    found: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + source, function, "exec"), module.__dict__, found)
    return found[function]


LINEAR, ROW = room._linear_gaussian, "_row_numbers"
Break = tuple[Callable[[int], Any], Any, str, tuple[tuple[str, str], ...]]
BREAKS: dict[str, Break] = {
    "log K is not subtracted": (LINEAR, importance, "log_mean_exp", ((".mean(0)", ".sum(0)"),)),
    "K - 1 is divided by": (LINEAR, importance, "log_mean_exp", ((".mean(0)", ".sum(0) / max(len(log_w) - 1, 1)"),)),
    "the sign of log q": (LINEAR, importance, ROW, (("- log_qz.double()", "+ log_qz.double()"),)),
    "the prior is left out": (LINEAR, importance, ROW, (("+ log_pz.double() -", "-"),)),
    "the sign of the bound": (LINEAR, importance, ROW, (("[values", "[-values"),)),
    "weights are averaged in logarithms": (LINEAR, importance, ROW, (("[values", "[log_w.mean(0)"),)),
    "a last chunk that is short is left out": (
        LINEAR, importance, ROW,
        (("z.split(chunk)", "(z.split(chunk)[: samples // chunk] or [z])"),
         ("log_pz = prior.log_prob(z)", "log_pz, log_qz = prior.log_prob(z)[: len(log_px)], log_qz[: len(log_px)]"),
         (".expand(samples, -1)", "")),
    ),
    "chunks are averaged in logarithms": (
        LINEAR, importance, ROW,
        (("[values", "[np.mean([*map(log_mean_exp, np.array_split(log_w, -(-samples // chunk)))], 0)"),),
    ),
    "codes and chunks are out of step": (LINEAR, importance, ROW, (("(x, part)", "(x, part.flip(0))"),)),
    "the divergence of the ELBO is halved": (LINEAR, importance, ROW, (("- kl)", "- kl / 2)"),)),
    "the ELBO adds the divergence": (LINEAR, importance, ROW, (("- kl)", "+ kl)"),)),
    "the closed form of the divergence": (LINEAR, kl, "_from_diagonal", (("0.5 * (mean", "0.5 * (1.1 * mean"),)),
    "the sum over batches has another sign": (
        LINEAR, bound.BoundSums, "update", (("-output.elbo.double()", "output.elbo.double()"),),
    ),
    "the likelihood has no constant": (
        LINEAR, observations.NormalObservation, "log_prob", ((" - entries.shape[2:].numel() * HALF_LOG_2PI", ""),),
    ),
    "the half has all samples": (
        LINEAR, importance, "_half", (("[:middle]", ""), ("[middle : 2 * middle]", "")),
    ),
    "the error is of half the samples": (
        LINEAR, importance, "weight_numbers", (("mean(0) ** 2 / samples", "mean(0) ** 2 / (samples // 2)"),),
    ),
    "the weights of the sample size": (
        LINEAR, importance, "weight_numbers", (("(weights**2).sum(0)", "weights.sum(0)"),),
    ),
    "the noise is too wide": (LINEAR, importance, "draw", (("torch.stack(", "1.05 * torch.stack("),)),
    "bits are drawn the wrong way round": (
        room._discrete, importance, "_by_seed", (("q.sample(samples)", "1 - q.sample(samples)"),),
    ),
    "a stranger's prior is left out": (
        room._discrete, latent, "_per_row", (("reshape(samples", "mul(name != 'log_pz').reshape(samples"),),
    ),
    "the tail is off by a factor": (room._tails, pareto, "pareto_k", (("shape * size", "1.2 * shape * size"),)),
    "the tail has another sign": (room._tails, pareto, "_fit", (("return np.log1p(-best", "return -np.log1p(-best"),)),
    "AIS adds chains up": (
        room._annealing, ais._Plan, "numbers", (("np.stack([lower,", "np.stack([lower + math.log(self.chains),"),),
    ),
    "AIS turns the upper bound": (room._annealing, ais._Plan, "numbers", (("-upper,", "upper,"),)),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_it_fails_when_an_estimator_is_broken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group, owner, function, changes = BREAKS[name]
    monkeypatch.setattr(owner, function, rewritten(owner, function, *changes))
    if hasattr(room, function):
        monkeypatch.setattr(room, function, getattr(owner, function))
    broken = SelfTest(tuple(group(0)))
    assert not broken.ok
    assert "FAILED" in str(broken)
    assert str(broken).endswith(f"{sum(not check.ok for check in broken.checks)} of {len(broken.checks)} failed")


@pytest.mark.parametrize("group", room.GROUPS)
def test_an_unchanged_rewrite_passes(group: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a break is what fails above, and not the rewriting."""
    for owner, function in {(owner, function) for _, owner, function, _ in BREAKS.values()}:
        monkeypatch.setattr(owner, function, rewritten(owner, function))
    assert SelfTest(tuple(group(0))).ok


@pytest.mark.parametrize(
    ("estimate", "ok"), [(1.0, True), (0.95, True), (1.15, True), (0.8, False), (1.3, False), (math.nan, False)]
)
def test_a_check_is_ok_within_what_is_allowed(estimate: float, ok: bool) -> None:
    check = Check("a number", estimate, 0.02, 1.0, below=0.1, above=0.2)
    assert check.ok is ok
    assert ("FAILED" in str(check)) is not ok
