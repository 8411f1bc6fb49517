"""`vaelab audit` as a person runs it: status, one-line errors, JSON, SARIF; and the assertion for other test suites."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vaelab.testing
from vaelab.auditing.codes import NAMES
from vaelab.cli import main

SOURCE = """
import torch
import torch.nn.functional as F

print("imported")


def right(x, logits, mu, log_var):
    fit = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (fit - 0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp())) / len(x)


def weighted(x, logits, mu, log_var, beta):
    print("called")
    fit = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (fit - 0.5 * beta * torch.sum(1 + log_var - mu**2 - log_var.exp())) / len(x)


def wrong(x, recon, mu, log_var):
    return F.mse_loss(recon, x) - 0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp()) / len(x)


def no_loss(x, recon, mu, log_var):
    return "a string"


def raises(x, recon, mu, log_var):
    raise RuntimeError("a reason\\nin two lines")


def estimate(model, x, n_samples):
    mu, log_var = model.encode(x)
    z = mu + (0.5 * log_var).exp() * torch.randn(n_samples, *mu.shape)
    normal = torch.distributions.Normal
    ratio = normal(0, 1).log_prob(z) - normal(mu, (0.5 * log_var).exp()).log_prob(z)
    log_w = model.log_px_given_z(x, z) + ratio.sum(-1)
    return -(torch.logsumexp(log_w, 0) - torch.log(torch.tensor(float(n_samples)))).mean()


def sloppy(log_w):
    return -log_w.mean()


class NotCallable:
    pass


thing = NotCallable()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "my_code.py"
    file.write_text(SOURCE)
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["audit", *map(str, arguments)])
    shown = capsys.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err


def test_a_right_loss(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, f"{source}:right")
    assert status == 0 and "imported" in err and "imported" not in out
    verdict = "this is beta times KL plus the negative log-likelihood, in nats per sample, beta = 1.000"
    assert out.splitlines()[-1].endswith(verdict)


def test_a_wrong_loss(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, f"{source}:wrong", "sizes.pixels=[1, 28, 28]")
    assert status == 1
    assert "RE001" in out and "docs/audit/RE001.md" in out and "392" in out  # 784 / 2


def test_constants_and_what_the_code_prints(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, f"{source}:weighted", "constants.beta=4", "sizes.latents=3", "--json")
    report = json.loads(out)
    assert status == 0 and "called" in err
    assert report["effective_beta"] == pytest.approx(4) and report["declared_beta"] == 4
    assert report["sizes"]["latents"] == 3 and report["severity"] == "info"


def test_sarif(
    source: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, _ = run(capsys, "my_code.py:wrong", "--sarif", "out.sarif")
    sarif = json.loads((tmp_path / "out.sarif").read_text())
    assert status == 1 and sarif["version"] == "2.1.0"
    (result,) = [r for r in sarif["runs"][0]["results"] if r["ruleId"] == "RE001"]
    place = result["locations"][0]["physicalLocation"]
    assert result["level"] == "error" and place["artifactLocation"]["uri"] == "my_code.py"
    assert SOURCE.splitlines()[place["region"]["startLine"] - 1].startswith("def wrong")
    assert {rule["id"] for rule in sarif["runs"][0]["tool"]["driver"]["rules"]} <= set(NAMES)


def test_estimators_and_importance(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, f"{source}:estimate", "--likelihood")
    assert status == 0 and "LI002" in out
    status, out, _ = run(capsys, f"{source}:sloppy", "--importance", "--json")
    assert "UN002" in {finding["code"] for finding in json.loads(out)["findings"]}


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        ("my_code.py", (), ("target", "file.py:name")),
        ("other.py:loss", (), ("other.py", "no such file")),
        ("my_code.py:wrongg", (), ("no wrongg", "did you mean wrong?")),
        ("no_such_package.here:loss", (), ("no module named no_such_package",)),
        ("my_code.py:no_loss", (), ("no number",)),
        ("my_code.py:raises", (), ("RuntimeError", "a reason")),
        ("my_code.py:thing", (), ("NotCallable", "must be a loss")),
        ("my_code.py:weighted", ("--inputs", "x output mu heads"), ("heads", "roles are")),
        ("my_code.py:right", ("sizes.pixel=3",), ("pixel", "did you mean pixels?")),
        ("my_code.py:right", ("sizes.pixels=0",), ("pixels", "whole number")),
        ("my_code.py:right", ("size.pixels=3",), ("size", "did you mean sizes?")),
        ("my_code.py:right", ("--family", "categoric"), ("categoric", "did you mean categorical?")),
        ("my_code.py:right", ("--framework", "theano"), ("theano", "torch")),
        ("my_code.py:right", ("--declared-beta", "-1"), ("declared_beta", "at least 0")),
        ("my_code.py:right", ("--data", "missing.npz"), ("missing.npz",)),
        ("my_code.py:right", ("--likelihood", "--importance"), ("likelihood",)),
    ],
)
def test_refusals(
    target: str, options: tuple[str, ...], told: tuple[str, ...], source: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(source.parent)
    status, out, err = run(capsys, target, *options)
    said = [line for line in err.splitlines() if line.startswith("vaelab: ")]
    assert status == 2 and not out and len(said) == 1 and "Traceback" not in err
    assert all(word in said[0] for word in told), said


def elbo(x: Tensor, logits: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    fit = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (fit - 0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp())) / len(x)


def averaged(x: Tensor, logits: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, x) + elbo(x * 0, logits * 0, mu, log_var)


def heavy(x: Tensor, logits: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    return elbo(x, logits, mu, log_var) + 9 * elbo(x * 0, logits * 0, mu, log_var)


def test_the_assertion(assert_elbo: Callable[..., Any]) -> None:
    assert assert_elbo(elbo).effective_beta == pytest.approx(1)
    with pytest.raises(AssertionError, match="RE001"):
        vaelab.testing.assert_elbo(averaged)
    with pytest.raises(AssertionError, match="UN002"):
        vaelab.testing.assert_elbo(heavy)
