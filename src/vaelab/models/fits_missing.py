"""What goes with missing entries: further rules of `fits`."""

from __future__ import annotations

from ..distributions.likelihoods import LIKELIHOODS
from .unread import Rule

BY_ENTRY = {name for name, kind in LIKELIHOODS.items() if kind.by_entry}

OF_MISSING: list[Rule] = [
    Rule(
        "likelihood.name",
        lambda config, facts: (
            facts.incomplete and (config.likelihood.name not in BY_ENTRY or config.likelihood.library != "none")
        ),
        "entries may be missing, and under this likelihood the entries of a row hang together",
        "a likelihood by entry, such as gaussian or negative_binomial",
    ),
    Rule(
        "likelihood.noise",
        lambda config, facts: facts.incomplete and config.likelihood.noise == "optimal",
        "entries may be missing, and a width in closed form is a mean over complete rows",
        "use shared or pixel",
    ),
    Rule(
        "model.decoder",
        lambda config, facts: facts.incomplete and config.model.decoder == "pixel_cnn",
        "entries may be missing, and it reads all entries before the one it draws",
        "model.decoder=mlp or conv",
    ),
    Rule(
        "prior.name",
        lambda config, facts: facts.incomplete and config.prior.name == "vamp",
        "entries may be missing, and its pseudo-inputs begin at whole rows",
        "prior=exemplar, or prior=mixture",
    ),
    Rule(
        "objective.adversarial",
        lambda config, facts: facts.incomplete and config.objective.adversarial,
        "entries may be missing, and a critic compares whole rows",
        "leave it at 0",
    ),
    Rule(
        "data.mask_model",
        lambda config, facts: config.data.mask_model != "none" and not facts.incomplete,
        "no entry of numbers is missing, or the table is a mixed one, whose columns have no model of their gaps",
        "leave it at none; for a table of numbers likelihood=gaussian",
    ),
    Rule(
        "data.mask_model",
        lambda config, facts: config.data.mask_model != "none" and config.likelihood.name != "gaussian",
        "the chance that a value is missing is integrated under a normal distribution of it",
        "likelihood=gaussian",
    ),
]
