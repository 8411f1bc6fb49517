"""Rules about priors that were fitted after training, and about models whose bound does not exist or says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.finding import Finding
from ..measure.bound import selected_by

CERTAIN = 3  # standard errors from which a change is no chance


def prior_rules(selected: dict[str, Any], charges: bool = True) -> Iterator[Finding]:
    """Findings about the prior.

    Args:
        selected: The held-out numbers of the selected weights; `prior_fit` where a prior was fitted to the codes.
        charges: Whether the objective charges the divergence.
    """
    if not selected.get("is_bound", True):
        yield _no_bound(selected)
    elif not charges:
        yield _not_charged(selected)
    if fit := selected.get("prior_fit"):
        yield _failed(fit) if "failed" in fit else _fitted(fit, bound=selected.get("is_bound", True))


def _no_bound(selected: dict[str, Any]) -> Finding:
    return Finding(
        "TR151",
        "info",
        "codes without noise: there is no bound on log p(x)",
        selected["reconstruction"],
        "nats per sample, the reconstruction alone",
        evidence="q(z|x) is a point, whose divergence from any prior is infinite",
        why="what stands for the negative ELBO of this run is its reconstruction, and compares to no bound",
        advice="compare runs by their samples and reconstructions, or take model.posterior=diagonal",
    )


def _not_charged(selected: dict[str, Any]) -> Finding:
    return Finding(
        "TR154",
        "info",
        "this objective does not charge the KL: its ELBO is no measure of it",
        selected["reconstruction"],
        "nats per sample, the reconstruction alone",
        evidence=f"the KL, {selected['kl']:.4g} nats, has no weight in the loss, and all of it in the ELBO; "
        f"the weights of step {selected['step']} were selected by the {selected_by(selected)[0]}",
        why="nothing keeps each q(z|x) wide, so that the KL grows as far as the reconstruction gains by it",
        advice="model.posterior=delta with objective=wae has no noise to charge; objective=info charges the KL too",
    )


def _failed(fit: dict[str, Any]) -> Finding:
    return Finding(
        "TR153",
        "warning",
        f"the prior could not be fitted to the codes after training ({fit['prior']}); the trained one is in force",
        evidence=fit["failed"],
        why="codes far apart, or of very different sizes, make such a fit diverge",
        edit={"prior.after": "none"},
        expected="the same run without a fit; prior.after=gmm takes no steps of a gradient",
    )


def _fitted(fit: dict[str, Any], bound: bool) -> Finding:
    """The gain is paired: the same rows, and the same draws of z, under either prior."""
    gain, error = fit["gain"], fit["error"]
    if not bound:
        return Finding("TR152", "info", f"the prior was fitted to the codes after training: {fit['prior']}")
    worse = error is not None and gain < -CERTAIN * error
    return Finding(
        "TR150",
        "warning" if worse else "ok",
        f"the prior fitted to the codes after training ({fit['prior']}) "
        + ("made the held-out bound worse" if worse else "is in force"),
        gain,
        "nats per sample gained",
        None if error is None else 1.96 * error,
        f"held-out negative ELBO before: {fit['before']:.6g}, after: {fit['before'] - gain:.6g}; the same draws of z",
        "the fit was too short, or follows the training rows' codes too closely" if worse else "",
        "another prior.after_steps, a smaller prior.components, or prior.after=none" if worse else "",
    )
