"""What goes together: one table of words that parts offer and need, and one list of further rules.

A model whose parts do not fit is refused in one sentence when it is built; `vaelab models` prints the same tables.
"""

from __future__ import annotations

from ..core.config import Config
from ..core.errors import BadInput
from ..core.facts import Facts
from ..core.tables import pick
from ..distributions.likelihoods import LIKELIHOODS
from ..distributions.normal import EUCLIDEAN
from .codes import QUANTISERS
from .fits_missing import OF_MISSING
from .parts import AFTER, POSTERIORS, PRIORS
from .unread import OF_SETTINGS, SPREADS, UNWEIGHED, Rule

WORDS: dict[str, str] = {
    "density": "log q(z|x), which {posterior} codes do not have",
    "continuous": "draws to weigh by their densities, and codes of {posterior} are entries of a book",
    "euclidean": "codes in a space of real vectors, and those of {posterior} are not",
    "normal": "the encoder to describe normal distributions, and {posterior} is none",
    "diagonal": "dimensions that are independent given x, and those of {posterior} are not",
    "sphere": "codes on the unit sphere, and those of {posterior} are not",
    "codes": "codes out of a finite book, and those of {posterior} are not",
    "fixed": "a prior without parameters of its own, and {prior} has some",
    "factorised": "a prior of independent dimensions, and {prior} is none",
}
# What to change where an objective lacks a word.
FOR_OBJECTIVES: dict[str, str] = {
    "density": "objective=wae, or a posterior with noise such as model.posterior=diagonal",
    "normal": "model.posterior=diagonal or full",
    "diagonal": "model.posterior=diagonal",
    "fixed": "prior=standard",
    "factorised": "prior=standard",
}
DEFAULT_PRIOR = (("sphere", "sphere"), ("codes", "uniform"))


def prior_of(config: Config) -> str:
    """The prior that a config names, or that its posterior gets where it names none."""
    if config.prior.name != "auto":
        return config.prior.name
    offers = pick(POSTERIORS, config.model.posterior, "model.posterior").offers
    return next((prior for word, prior in DEFAULT_PRIOR if word in offers), "standard")


def is_hierarchy(config: Config) -> bool:
    """Whether there are several latent groups; one is a flat model."""
    return len(config.model.groups or ()) > 1


def missing(
    posterior: str, prior: str, requires: frozenset[str] = frozenset(), hierarchy: bool = False
) -> tuple[str, str] | None:
    """Who lacks something, "prior" or "objective", and what, in words; None where the three go together.

    Args:
        posterior, prior: Names.
        requires: What the objective asks for.
        hierarchy: Whether they are those of a hierarchy's top group; the objective sees all groups together.

    Example:
        >>> missing("diagonal", "standard", frozenset({"density"}))
    """
    offered = pick(POSTERIORS, posterior, "model.posterior").offers | pick(PRIORS, prior, "prior.name").offers
    whole = (EUCLIDEAN | PRIORS[prior].offers, "a hierarchy", prior) if hierarchy else (offered, posterior, prior)
    for who, needs, (has, *names) in (
        ("prior", PRIORS[prior].needs, (offered, posterior, prior)),
        ("objective", requires, whole),
    ):
        for word in WORDS:
            if word in needs - has:
                return who, WORDS[word].format(posterior=names[0], prior=names[1])
    return None


READ_CONDITIONS = ("standard",)  # priors that there is a p(z|c) of
OF_ROWS = ("vamp", "exemplar")  # priors made of encoded rows
BY_ENTRY = {name for name, kind in LIKELIHOODS.items() if kind.by_entry}
SEQUENCES = ("recurrent", "transformer")  # networks over tokens
RULES: list[Rule] = [
    Rule(
        "model.encoder",
        lambda config, facts: config.model.encoder in SEQUENCES and not facts.vocabulary,
        "it reads sequences of tokens, and these rows are none",
        "a file of strings, or a table with data.text_column=NAME; for these rows model.encoder=mlp",
    ),
    Rule(
        "model.decoder",
        lambda config, facts: config.model.decoder in SEQUENCES and not facts.vocabulary,
        "it writes sequences of tokens, and these rows are none",
        "a file of strings, or a table with data.text_column=NAME; for these rows model.decoder=mlp",
    ),
    Rule(
        "model.decoder",
        lambda config, facts: config.model.decoder == "pixel_cnn" and len(facts.shape) != 3,
        "it draws images pixel by pixel, and these rows are none",
        "model.decoder=mlp",
    ),
    Rule(
        "model.decoder",
        lambda config, facts: (
            config.model.decoder == "pixel_cnn" and (config.likelihood.name not in BY_ENTRY or config.likelihood.shares)
        ),
        "it draws entry by entry, and under this likelihood the entries of a row hang together",
        "model.decoder=mlp or conv",
    ),
    Rule(
        "likelihood.name",
        lambda config, facts: config.likelihood.name == "tokens" and not facts.vocabulary,
        "it is over strings, and these rows are none",
        "likelihood=auto",
    ),
    Rule(
        "likelihood.name",
        lambda config, facts: facts.vocabulary and config.likelihood.name != "tokens",
        "these rows are strings, whose tokens are no numbers",
        "likelihood=tokens",
    ),
    Rule(
        "data.text_column",
        lambda config, facts: config.data.text_column is not None and not facts.vocabulary,
        "it names a column of strings to learn, and these rows are numbers",
        "leave it out",
    ),
    Rule(
        "model.condition_on",
        lambda config, facts: facts.condition and not config.model.condition_on,
        "no part reads what is given beside a row",
        "name encoder, prior or decoder, or leave data.condition out",
    ),
    Rule(
        "prior.name",
        lambda config, facts: (
            facts.condition and "prior" in config.model.condition_on and prior_of(config) not in READ_CONDITIONS
        ),
        "it cannot depend on what is given beside a row",
        "prior.name=standard, a normal p(z|c), or model.condition_on=[encoder, decoder]",
    ),
    *(
        Rule(
            f"objective.{target}",
            lambda config, facts, target=target: (  # type: ignore[misc]
                config.model.posterior in QUANTISERS and getattr(config.objective, target) is not None
            ),
            "a deterministic code has the rate that its book and the number of codes give, whatever beta is",
            "change model.codebook or model.latent instead",
        )
        for target in ("target_rate", "target_reconstruction")
    ),
    Rule(
        "prior.name",
        lambda config, facts: prior_of(config) == "vamp" and config.likelihood.name in ("tokens", "mixed"),
        "its pseudo-inputs are learned by gradients, which tokens and categories do not have",
        "prior=exemplar",
    ),
    Rule(
        "prior.name",
        lambda config, facts: prior_of(config) in OF_ROWS and config.model.norm == "batch",
        "what it encodes would be normalised apart from the batch, and the two would not be comparable",
        "model.norm=layer",
    ),
    Rule(
        "prior.components",
        lambda config, facts: prior_of(config) in OF_ROWS and 0 < facts.rows < config.prior.components,
        "each begins at a training row of its own, and there are fewer",
        "set it to a tenth of the rows",
    ),
    Rule(
        "prior.name",
        lambda config, facts: prior_of(config) in OF_ROWS and config.model.missing_labels != "refuse",
        "it encodes rows with what is given beside them, and labels may be missing",
        "prior=standard or prior=mixture",
    ),
    Rule(
        "prior.after",
        lambda config, facts: (
            config.prior.after != "none"
            and not AFTER[config.prior.after].needs <= POSTERIORS[config.model.posterior].offers
        ),
        "it is fitted to another kind of codes than this posterior's",
        "autoregressive is for codes out of a book; gmm, flow and two_stage are for real vectors",
    ),
    Rule(
        "prior.after",
        lambda config, facts: config.prior.after != "none" and "prior" in config.model.condition_on and facts.condition,
        "a prior fitted after training reads no condition, and this one does",
        "model.condition_on=[encoder, decoder]",
    ),
    Rule(
        "model.missing_labels",
        lambda config, facts: config.model.missing_labels != "refuse" and not facts.classes,
        "it is for labels, and none are given beside the rows",
        "data.condition=labels",
    ),
    Rule(
        "model.condition_on",
        lambda config, facts: config.model.missing_labels != "refuse" and "decoder" not in config.model.condition_on,
        "a label that is not known is told by what the decoder makes of it",
        "add decoder",
    ),
    Rule(
        "objective.name",
        lambda config, facts: config.model.missing_labels != "refuse" and config.objective.name != "elbo",
        "with labels that are not known the bound is a sum over labels, which only the ELBO is",
        "objective=elbo",
    ),
    Rule(
        "model.missing_labels",
        lambda config, facts: (
            config.model.missing_labels != "refuse"
            and (is_hierarchy(config) or "density" not in POSTERIORS[config.model.posterior].offers)
        ),
        "it takes one latent group with a density q(z|x, label)",
        "such as model.posterior=diagonal, without model.groups",
    ),
    Rule(
        "model.posterior",
        lambda config, facts: is_hierarchy(config) and config.model.posterior != "diagonal",
        "the groups of a hierarchy are diagonal normals given the groups above them",
        "leave it at diagonal, or model.groups at null",
    ),
    Rule(
        "prior.after",
        lambda config, facts: is_hierarchy(config) and config.prior.after != "none",
        "the prior of a hierarchy is fitted in training, each group's given the ones above it",
        "leave it at none, or model.groups at null",
    ),
    Rule(
        "objective.balance",
        lambda config, facts: config.objective.balance and not is_hierarchy(config),
        "there is one latent group, and nothing to balance it against",
        "such as model.groups=[20,20]",
    ),
]

FROM_DRAWS = {"info", *UNWEIGHED}
OF_A_BATCH = {"beta_tc", "info", "wae", *SPREADS}  # objectives that compare the rows of a batch
RULES += [
    *OF_SETTINGS,
    *OF_MISSING,
    Rule(
        "objective.balance",
        lambda config, facts: config.objective.balance and config.objective.anneal == "constant",
        "groups are balanced while beta rises, and it does not",
        "objective.anneal=linear objective.warmup_steps=1000",
    ),
    Rule(
        "objective.name",
        lambda config, facts: (
            config.objective.name in FROM_DRAWS and facts.condition and "prior" in config.model.condition_on
        ),
        "it knows the prior by its draws, through which p(z|c) would learn nothing",
        "model.condition_on=[encoder, decoder]",
    ),
    Rule(
        "train.batch_size",
        lambda config, facts: config.objective.name in OF_A_BATCH and config.train.batch_size < 2,
        "the objective compares the rows of a batch",
        "at least 2, and better 64",
    ),
    Rule(
        "objective.adversarial",
        lambda config, facts: config.objective.adversarial and config.likelihood.name in ("tokens", "mixed"),
        "a critic of decoded rows needs entries that are numbers",
        "leave it at 0",
    ),
]


def refuse_misfits(config: Config, facts: Facts, requires: frozenset[str]) -> None:
    """Refuses a config whose parts do not go together.

    Raises:
        BadInput: naming the part that lacks something, and what.
    """
    for rule in RULES:
        if rule.broken(config, facts):
            section, _, key = rule.argument.partition(".")
            received = getattr(getattr(config, section), key or "name")
            raise BadInput(rule.argument, received, rule.rule, rule.fix)
    lacking = missing(config.model.posterior, prior_of(config), requires, is_hierarchy(config))
    if lacking is not None:
        who, what = lacking
        received = config.prior.name if who == "prior" else config.objective.name
        fix = f"{_instead(config, who, what)}; vaelab models lists what goes together"
        raise BadInput(f"{who}.name", received, f"it needs {what}", fix)


def _instead(config: Config, who: str, what: str) -> str:
    """What would go with the rest: priors of the same posterior, or the change that an objective asks for."""
    posterior = config.model.posterior
    if who == "prior":
        return f"prior={' or '.join(name for name in PRIORS if missing(posterior, name) is None)}"
    names = {"posterior": posterior, "prior": prior_of(config)}
    return {WORDS[word].format(**names): fix for word, fix in FOR_OBJECTIVES.items()}.get(what, "objective=elbo")
