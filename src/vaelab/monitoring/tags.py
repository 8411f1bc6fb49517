"""Which number of a log is the loss, the reconstruction, the KL, its weight: guessed from the names people give.

A name is cut into words; words that say nothing about the role (train, step, mean, ...) are dropped, and what is left
must be one of a role's spellings as a whole. So `d_loss` or `kl_dim_3` is taken for nothing rather than for something.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .trace import ROLES

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
TRAINING = frozenset({"train", "training", "trn", "tr", "fit"})
# The order is that of preference: rows to choose by are looked at often, test rows once at the end.
HELD_OUT_WORDS = ("val", "valid", "validation", "held", "heldout", "eval", "evaluation", "dev", "test", "testing")
SILENT = frozenset({
    "avg", "average", "mean", "total", "overall", "sum", "per", "sample", "step", "steps", "epoch", "batch", "iter",
    "iteration", "term", "value", "metric", "metrics", "losses", "scalars", "scalar", "vae", "model", "running", "raw",
    "unweighted", "out", "nats", "global", "monitor", "logs",
})  # fmt: skip
# Spellings once the words above and `loss` are gone, the better first: which one to take where a log has several.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "loss": ("objective|cost|criterion", "neg(ative)?(elbo|bound)|nelbo|freeenergy|vfe", "elbo|lowerbound|bound"),
    "reconstruction": (
        "re|rec|reco|recons?|reconst|reconstr|reconstruct|reconstructions?|distortion",
        "(rec|recons?|reconst|reconstruction)(error|err|nll|bce|mse|ll|x|image|img)|reproduction|decoder",
        "neg(ative)?(log)?(likelihood|lik|pxz?|px)|neglogp(x|xz)|neglogpxgivenz|nll",
        "bce|binarycrossentropy|crossentropy|ce|xent",
        "mse|sse|l2|meansquarederror|gaussiannll",
        "log(likelihood|lik|pxz?|px)|logp(x|xz)|ll|loglike",
    ),
    "kl": (
        "kl|kld|kldiv|kldivergence|dkl|klz|kullbackleibler(divergence)?|klqp|kls|kllocal",
        "latent|rate|divergence|latentkl|klanalytic|prior|priorkl|priorreg",
        "reg|regulariser|regularizer|regulari[sz]ation",
    ),
    "beta": (
        "beta|klbeta",
        "(kl|kld|kldiv|latent|beta)(weight|weighting|coeff?|coefficient|w|factor|scale|lambda|multiplier)",
        "(kl)?(anneal|annealing|warmup)(weight|factor|beta|coef)?|(weight|coef|w)(kl|kld)",
    ),
    "learning_rate": (
        r"(lr|learningrate)(adam\w*|sgd|radam|nadam|rmsprop|adagrad|lion)?((pg|group|paramgroup)?\d+)?",
        r"(optimi[sz]er)(lr|learningrate)|lr(scheduler|schedule)|currentlr",
    ),
    "gradient_norm": (
        r"(grad|grads|gradient|gradients|gnorm)(norm|norms|l2norm)?(before(clip|clipping)?)?|preclipgradnorm",
        r"(grad|gradient)(20|2)?norm|normgrads?|l2normgrad",
    ),
    "gradient_norm_max": ("(grad|gradient)normmax|max(grad|gradient)norm",),
    "loss_max": ("lossmax|maxloss",),
    "update_ratio": ("update(to)?(weight|data|param)?ratio|updateratio",),
    "clipped": ("clipped|clip(rate|fraction|frac)|(grad)?clip(ped)?(share|ratio|fraction)",),
    "code_perplexity": ("(code|codebook|vq|quantizer)?(perplexity|ppl)",),
    "codes_used": ("(code|codes|codebook)(used|usage|use|utili[sz]ation)",),
    "dead_units": ("dead(units|neurons|relu|relus)(share|fraction)?",),
    "saturated_units": ("saturated(units|neurons)?(share|fraction)?",),
    "held_out_error": ("(standard|std)(error|err)",),
}
DROPPED = TRAINING | SILENT | set(HELD_OUT_WORDS)
ALSO_HELD_OUT = {
    role.removeprefix("held_out_"): role for role in ROLES if role.startswith("held_out_") and role != "held_out_error"
}
WITH_LOSS = frozenset({"loss", "reconstruction", "kl"})  # roles whose name may say "loss"; `beta_vae_loss` is no beta
MAXIMISED = re.compile(SPELLINGS["loss"][-1] + "|" + SPELLINGS["reconstruction"][-1])
PLAIN = 0.5  # a bare `loss` goes before other spellings of it


def guess(names: Iterable[str]) -> dict[str, str]:
    """The likeliest name for each role of `ROLES` that some name fits; training and held-out rows are told apart.

    Among several, the plainer spelling wins; then, for training, the name that does not say `train` (where a log has
    both, the other is a summary at the end), and values by step before means over an epoch; for held-out rows
    validation before test, and means over an epoch before values by step.

    Example:
        >>> guess(["epoch", "train/loss", "val_recon_loss", "kld", "KL_weight", "lr-Adam", "d_loss"])
        {'loss': 'train/loss', 'held_out_reconstruction': 'val_recon_loss', 'kl': 'kld', 'beta': 'KL_weight',
         'learning_rate': 'lr-Adam'}
    """
    found: dict[str, tuple[tuple[float, ...], str]] = {}
    for name in names:
        role, rank = _read(name)
        if role is not None and (role not in found or rank < found[role][0]):
            found[role] = rank, name
    return {role: name for role, (_, name) in found.items()}


def maximised(name: str) -> bool:
    """Whether a name says that more is better, as `elbo` or `log_px`; the values need not agree with it.

    Example:
        >>> [maximised(name) for name in ("train/elbo", "-ELBO", "neg_elbo", "log_px", "loss")]
        [True, False, False, True, False]
    """
    return not name.startswith("-") and bool(MAXIMISED.fullmatch(_cut(name)[0]))


def _read(name: str) -> tuple[str | None, tuple[float, ...]]:
    """The role of one name, None for none, and its rank among names of that role, the lowest being the best."""
    held_out = next((rank for rank, word in enumerate(HELD_OUT_WORDS) if word in _words(name)), None)
    if name in ROLES:
        return name, (-1.0,)
    core, says_loss = _cut(name)
    matches = (
        (role, float(rank))
        for role, spellings in SPELLINGS.items()
        for rank, spelling in enumerate(spellings, 1)
        if (role in WITH_LOSS or not says_loss) and re.fullmatch(spelling, core)
    )
    role, rank = ("loss", PLAIN) if says_loss and not core else next(matches, (None, 0.0))
    if held_out is None or role is None or role == "held_out_error":
        return role, (rank, "train" in _words(name), "epoch" in _words(name))
    return ALSO_HELD_OUT.get(role), (rank, held_out, "step" in _words(name))


def _words(name: str) -> list[str]:
    return [word.lower() for word in WORD.findall(name)]


def _cut(name: str) -> tuple[str, bool]:
    """What a name says besides where and how often it was measured, in one piece, and whether it says `loss`."""
    words = _words(name)
    text = "".join(word for word in words if word not in DROPPED)
    if re.fullmatch(SPELLINGS["loss_max"][0], text):
        return text, False
    core = text.removesuffix("loss").removeprefix("loss")
    return core, core != text or ("losses" in words and (not core or words[-1] == "losses"))  # not: losses/beta
