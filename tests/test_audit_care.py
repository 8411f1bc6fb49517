"""How the audit treats the user: it changes nothing, ends in time, says what to do, and says the same twice."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaelab.auditing.codes import NAMES
from vaelab.auditing.loss import audit_loss
from vaelab.core.errors import BadInput

SMALL = {"pixels": 12}  # with sizes given, the audit tries no others


def right(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    nll = F.binary_cross_entropy(recon, x, reduction="none").sum(1)
    return (nll - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1)).mean()


def wrong(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Three findings of three severities: RE001 and KL003, NU002, UN001."""
    nll = -(x * recon.log() + (1 - x) * (1 - recon).log()).mean()
    return nll - 0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()


def raises(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    raise ValueError("my own words,\nin two lines")


# --------------------------------------------------------------------------------------------------- leaves no trace
class Careless(nn.Module):
    """A loss that counts its calls, keeps a running mean, and draws random numbers."""

    seen: Tensor
    calls: int

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.norm, self.weight = nn.BatchNorm1d(12), nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))
        self.calls, self.history, self.fail = 0, [0.5], fail
        self.weight.grad = torch.full((), 3.0)

    def forward(self, x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        self.calls += 1
        self.seen += len(x)
        self.history.append(random.random() + np.random.rand() + torch.rand(()).item())
        self.norm(x.float())
        self.eval()
        if self.fail:
            raises(x, recon, mu, logvar)
        loss = self.weight * right(x, recon, mu, logvar)
        if loss.requires_grad:
            loss.backward(retain_graph=True)
        return loss


def digest(module: Careless) -> str:
    """Parameters, buffers, gradients, mode, counters and lists in one number."""
    state = [(name, tensor.tolist()) for name, tensor in module.state_dict().items()]
    grads = [(name, p.grad.tolist() if p.grad is not None else None) for name, p in module.named_parameters()]
    plain = (module.training, module.norm.training, module.calls, module.history)
    return hashlib.sha256(repr((state, grads, plain)).encode()).hexdigest()


WAYS: dict[str, Callable[[Careless], Callable[..., Any]]] = {
    "module": lambda module: module,
    "method": lambda module: module.forward,
    "closure": lambda module: lambda x, recon, mu, logvar: module(x, recon, mu, logvar),
}


@pytest.mark.parametrize("fail", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("way", WAYS)
def test_the_users_module_is_left_as_it_was(way: str, fail: bool) -> None:
    module = Careless(fail).train()
    before = digest(module)
    try:
        audit_loss(WAYS[way](module), inputs="x output mu head", sizes=SMALL)
    except BadInput:
        assert fail
    assert digest(module) == before


@pytest.mark.parametrize("loss", [right, raises], ids=["returns", "raises"])
def test_random_states_are_left_as_they_were(loss: Callable[..., Any]) -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()
    try:
        audit_loss(loss, sizes=SMALL)
    except BadInput:
        assert loss is raises
    assert (random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()) == before


def test_inputs_changed_in_place_do_not_mislead() -> None:
    def in_place(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return right(x, recon, mu.data.add_(1) - 1, logvar)

    assert audit_loss(in_place).effective_beta == pytest.approx(1) or "GR" in "".join(audit_loss(in_place).codes)


# ------------------------------------------------------------------------------------------------------ clear messages
def endless(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    while True:
        pass


def endless_and_deaf(late: float) -> Callable[..., Any]:
    """A loop that catches every exception; over at a given time, so that a failing test ends, too."""

    def loss(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        while time.monotonic() < late:
            try:
                time.sleep(0.01)
            except Exception:
                continue
        return right(x, recon, mu, logvar)

    return loss


@pytest.mark.parametrize("deaf", [False, True], ids=["loop", "loop that catches"])
def test_an_endless_loop_ends(deaf: bool) -> None:
    begin = time.monotonic()
    with pytest.raises(BadInput, match="time limit of 1 s"):
        audit_loss(endless_and_deaf(begin + 10) if deaf else endless, seconds=1)
    assert time.monotonic() - begin < 5


def test_a_raising_loss_is_quoted_in_one_line() -> None:
    with pytest.raises(BadInput, match=r"ValueError at test_audit_care.py:\d+: my own words") as caught:
        audit_loss(raises, sizes=SMALL)
    assert "\n" not in str(caught.value) and "inputs=" in str(caught.value)


def no_loss(result: Any) -> Callable[..., Any]:
    """A callable with a loss's parameters that returns something else."""
    return lambda x, recon, mu, logvar: result


@pytest.mark.parametrize(
    "result",
    ["loss", None, object(), [], {"name": "loss"}, float("nan")],
    ids=["text", "None", "object", "empty list", "texts", "NaN"],
)
def test_what_returns_no_number_is_refused(result: Any) -> None:
    with pytest.raises(BadInput, match=r"no number|not finite|empty"):
        audit_loss(no_loss(result), sizes=SMALL)


def nameless(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return right(a, b, c, d)


def with_a_mask(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, keep: Tensor) -> Tensor:
    return right(x, recon, mu, logvar)


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        (nameless, {}, r"'a', 'b', 'c', 'd' cannot be told .*inputs=\"x output mu head\""),
        (with_a_mask, {}, r"'keep' cannot be told .*constants="),
        (lambda *args: 0.0, {}, r"inputs=\""),
        (right, {"inputs": "x output mean head"}, r"roles are x, output, mu, head, z, scale"),
        (right, {"inputs": "x output mu"}, "logvar"),
        (right, {"inputs": "x x mu head"}, "at most once"),
        (right, {"sizes": {"pixel": 3}}, r"did you mean pixels\?"),
        (right, {"sizes": {"batch": 0}}, "whole number of at least 1"),
        (right, {"family": "gausian"}, r"did you mean gaussian\?"),
        (right, {"framework": "pytorch"}, "torch, numpy, jax, tensorflow, keras"),
        (right, {"declared_beta": -1.0}, "at least 0"),
        (right, {"declared_beta": float("nan")}, "at least 0"),
        (right, {"constants": {"bta": 1.0}}, "bta"),
        (right, {"seconds": 0.0}, "seconds"),
        (right, {"seconds": -1.0}, "seconds"),
        (right, {"data": "rows.csv"}, "data"),
        (right, {"data": np.zeros((0, 3))}, "data"),
        (right, {"data": np.array([[0.5, np.nan]])}, "data"),
    ],
)
def test_what_cannot_be_told_is_asked_for(loss: Callable[..., Any], options: dict[str, Any], words: str) -> None:
    begin = time.monotonic()
    with pytest.raises(BadInput, match=words) as caught:
        audit_loss(loss, **options)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 3, "said only after many calls"


# -------------------------------------------------------------------------------------------------- the same twice
def sampled(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """The divergence of one sample that the loss itself draws."""
    noise = torch.randn_like(mu)
    z = mu + (0.5 * logvar).exp() * noise
    nll = F.binary_cross_entropy(recon, x, reduction="none").sum(1)
    return (nll + 0.5 * (z**2 - noise**2 - logvar).sum(1)).mean()


@pytest.mark.parametrize("loss", [right, wrong, sampled], ids=["right", "wrong", "sampled"])
def test_two_runs_agree(loss: Callable[..., Any]) -> None:
    torch.manual_seed(1)
    first = audit_loss(loss)
    torch.manual_seed(2)
    assert audit_loss(loss).to_json() == first.to_json()


def test_a_loss_that_draws_is_averaged_and_says_so() -> None:
    report = audit_loss(sampled)
    assert report.severity in ("ok", "info")
    assert report.effective_beta == pytest.approx(1, abs=0.01)
    assert "a mean over" in " ".join(report.notes)


@pytest.mark.parametrize("factor", [1e-6, 0.5, 3.0, 1e3])
@pytest.mark.parametrize("loss", [right, wrong], ids=["right", "wrong"])
def test_effective_beta_does_not_see_an_overall_factor(loss: Callable[..., Any], factor: float) -> None:
    scaled = audit_loss(lambda x, recon, mu, logvar: factor * loss(x, recon, mu, logvar))
    plain = audit_loss(loss)
    assert scaled.effective_beta == pytest.approx(plain.effective_beta, rel=1e-9)
    assert set(scaled.codes) - {"UN001"} == set(plain.codes) - {"UN001"}


# ------------------------------------------------------------------------------------------------------------ formats
def test_json_holds_numbers_alone() -> None:
    report = audit_loss(lambda x, recon, mu, logvar: right(x, x, mu, logvar) + F.cosine_similarity(x, recon).mean())
    loaded = json.loads(report.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert {"verdict", "findings", "effective_beta", "scaling", "sizes", "severity"} <= set(loaded)
    assert [finding["code"] for finding in loaded["findings"]] == list(report.codes)


def test_sarif_has_a_rule_for_each_code() -> None:
    report = audit_loss(wrong)
    log = json.loads(json.dumps(report.to_sarif("my_code.py", 7), allow_nan=False))
    rules, results = log["runs"][0]["tool"]["driver"]["rules"], log["runs"][0]["results"]
    assert log["version"] == "2.1.0"
    assert sorted(rule["id"] for rule in rules) == sorted(set(report.codes))
    levels = {"error": "error", "warning": "warning", "info": "note"}
    assert [(r["ruleId"], r["level"]) for r in results] == [(f.code, levels[f.severity]) for f in report.findings]
    assert {r["locations"][0]["physicalLocation"]["region"]["startLine"] for r in results} == {7}


def test_every_finding_is_whole() -> None:
    for finding in audit_loss(wrong).findings:
        assert finding.title.startswith(NAMES[finding.code])
        assert finding.measured is not None and np.isfinite(finding.measured)
        assert all((finding.unit, finding.evidence, finding.why, finding.advice))


def test_findings_begin_with_the_worst_and_the_status_follows_it() -> None:
    report = audit_loss(wrong)
    assert [f.severity for f in report.findings] == ["error", "error", "warning", "info", "info"]
    assert (report.status, audit_loss(right).status) == (1, 0)


# ---------------------------------------------------------------------------------------------- what else must not move
class Counter:
    """A plain object that a loss keeps its state in."""

    def __init__(self) -> None:
        self.calls, self.seen, self.weights = 0, [0], torch.ones(4, dtype=torch.float64)

    def __call__(self, x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(self.calls)
        self.weights.mul_(0.9)
        return right(x, recon, mu, logvar) * 1.0


def test_plain_objects_behind_a_function_are_left_as_they_were() -> None:
    held, table, values = Counter(), {"calls": 0}, np.ones(3)

    def loss(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        table["calls"] += 1
        values[:] = table["calls"]
        return held(x, recon, mu, logvar)

    assert audit_loss(loss).effective_beta == pytest.approx(1)
    assert (held.calls, held.seen, table, values.tolist()) == (0, [0], {"calls": 0}, [1, 1, 1])
    assert torch.equal(held.weights, torch.ones(4, dtype=torch.float64))


def test_constants_are_copied_for_every_call() -> None:
    weights = torch.ones(4, dtype=torch.float64)

    def loss(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, weights: Tensor) -> Tensor:
        weights.mul_(0.5)
        return right(x, recon, mu, logvar) * 2 * weights.mean()

    assert audit_loss(loss, constants={"weights": weights}).effective_beta == pytest.approx(1)
    assert torch.equal(weights, torch.ones(4, dtype=torch.float64))


def test_a_timer_of_the_users_goes_on() -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 100)
        audit_loss(right)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_audits_in_threads_do_not_meet() -> None:
    def drawn(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        log_ratio = 0.5 * (z**2 - (z - mu) ** 2 / logvar.exp() - logvar)
        return F.binary_cross_entropy(recon, x, reduction="sum") / len(x) + log_ratio.sum(1).mean()

    before = torch.randn_like
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda _: audit_loss(drawn), range(3)))
    assert [report.effective_beta for report in reports] == pytest.approx([1, 1, 1])
    assert torch.randn_like is before


def test_a_loss_in_place_still_has_its_gradients_checked() -> None:
    def detached(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        logvar.clamp_(-30, 20)
        divergence = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum()
        return (F.binary_cross_entropy(recon, x, reduction="sum") + divergence.detach()) / len(x)

    assert "GR001" in audit_loss(detached).codes


def test_a_drifting_loss_is_told_apart_from_a_random_one() -> None:
    def clock(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return right(x, recon, mu, logvar) * (1 + time.perf_counter() % 1)

    with pytest.raises(BadInput, match="two values for the same inputs"):
        audit_loss(clock)
