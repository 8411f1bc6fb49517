"""The loss audit against public losses: effective beta, how it scales, and the cause, all known by hand."""

from __future__ import annotations

from math import isfinite, log2

import pytest
from audit_cases import CASES, Case

from vaelab.auditing.loss import audit_loss
from vaelab.auditing.report import AuditReport
from vaelab.core.finding import SEVERITIES


def audited(case: Case) -> AuditReport:
    if case.needs:
        pytest.importorskip(case.needs)
    return audit_loss(case.fn, sizes=case.shapes, **case.options)


def check_beta(case: Case, report: AuditReport) -> None:
    """Effective beta, and its exponent in each size that was varied as a whole."""
    beta = case.beta_at()
    assert report.effective_beta == pytest.approx(beta, rel=1e-3, abs=1e-9)
    for size in () if case.tied else ("batch", "pixels", "latents"):
        measured = report.scaling.get(size)
        single = any(name.startswith(f"{size} axis") for name in report.scaling)  # then the hand formula has no one P
        if measured is not None and beta and not single:
            assert measured == pytest.approx(log2(case.beta_at(**{size: 2}) / beta), abs=0.02), size
    if report.implied_noise is not None:
        assert report.implied_noise == pytest.approx(beta, rel=1e-3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_public_loss(case: Case) -> None:
    report = audited(case)
    loud = {finding.code for finding in report.findings if finding.severity in ("warning", "error")}
    assert set(case.codes) <= set(report.codes), str(report)
    assert loud <= {*case.codes, *case.also}, str(report)
    assert SEVERITIES.index(report.severity) <= SEVERITIES.index(case.worst)  # type: ignore[arg-type]
    assert (report.status == 1) == (case.worst == "error")
    if case.beta is not None:
        check_beta(case, report)
    for finding in report.findings:
        if finding.code in case.numbers:
            assert finding.measured == pytest.approx(case.numbers[finding.code], rel=0.02)
    assert case.unit in ("", report.unit)
    assert case.head in ("", report.second_head)


def test_installed_pyod() -> None:
    """PyOD's `vae_loss` with default arguments clamps its divergence to a capacity of 0."""
    vae = pytest.importorskip("pyod.models.vae")
    report = audit_loss(vae.vae_loss)
    assert "KL001" in report.codes and report.status == 1 and report.effective_beta == 0


def test_names_are_unique_and_betas_finite() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60
    assert all(isfinite(case.beta_at()) for case in CASES if case.beta is not None)
