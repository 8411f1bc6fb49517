"""Which argument of a stranger's loss is which: roles found from parameter names, or given as a string."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import BadInput, did_you_mean

ROLES = {
    "x": "the data",
    "output": "the decoder's output",
    "mu": "the posterior's mean",
    "head": "the encoder's second head (log-variance, std, ...)",
    "z": "a draw of the posterior",
    "scale": "the decoder's second output (learned noise)",
}
NEEDED = ("x", "output", "mu", "head")

_MEAN = {
    "mu", "mean", "means", "loc", "mus", "m", "avg",
}  # fmt: skip
_SPREAD = {
    "logvar", "logvars", "lv", "logvariance", "logsigma", "logstd", "logscale", "std", "stddev", "sigma", "sigmas",
    "var", "variance", "scale", "rho", "dispersion", "sd", "noise", "logsigma2", "logsd", "stdev", "logs", "theta",
    "lnvar", "pxr", "logv", "sig", "lsigma", "stds", "vars", "v",
}  # fmt: skip
_DATA_SIDE = {
    "x", "recon", "rec", "reconstruction", "dec", "decoder", "decoded", "out", "output", "px", "obs", "y", "p",
    "hat", "img", "image", "likelihood", "pred", "recons", "noise", "dispersion", "decode", "sigmas",
}  # fmt: skip
_OUTPUT = {
    "recon", "recons", "reconstruction", "reconstructions", "reconstructed", "reconst", "rec", "hat", "xhat",
    "decoded", "pred", "preds", "prediction", "predictions", "predicted", "output", "outputs", "out", "logit",
    "logits", "prob", "probs", "probability", "probabilities", "generated", "gen", "prime", "tilde", "yhat", "rate",
    "rates", "decoder", "bar", "xr", "xrecon", "reconx", "px", "dec", "decode", "fake", "restored", "estimate",
    "estimated", "xlogit", "xlogits", "r", "logp", "logprob", "logprobs",
}  # fmt: skip
_X = {
    "x", "input", "inputs", "target", "targets", "data", "batch", "true", "original", "originals", "orig", "image",
    "images", "img", "imgs", "truth", "label", "labels", "real", "inp", "xs", "features", "observed", "observation",
    "y", "adj", "tokens", "counts", "source", "sample", "samples", "gt", "clean", "in", "adjacency",
}  # fmt: skip
_Z = {
    "z", "zs", "latent", "latents", "code", "codes", "zsample",
}  # fmt: skip
_BETA = {
    "beta", "klweight", "kldweight", "klbeta", "betakl", "wkl", "klw", "lambdakl", "kllambda", "weightkl", "klcoeff",
    "klcoef", "klscale", "alphakl", "klalpha", "kldcoef", "kldcoeff", "betavae", "annealfactor", "klfactor",
    "lambdakld", "kldw", "klannealing", "klannealweight", "klcoefficient", "annealweight", "klannealfactor",
}  # fmt: skip
_WEIGHT = re.compile(r"beta|gamma|lambda|alpha|weight|coef|capacity|free|anneal|warm|factor|w_|_w$")
_SIZES = {
    "batch": {
        "batchsize", "nbatch", "batchdim", "bs", "nnodes", "numnodes", "batchsz", "numsamples",
    },
    "pixels": {
        "inputdim", "originaldim", "inputsize", "nfeatures", "numfeatures", "featuresize", "imagesize", "imgsize",
        "datadim", "xdim", "ninput", "ninputs", "numpixels", "npixels", "pixels", "inputshape", "dimx", "indim",
        "features", "dinput", "numinputs", "nin",
    },
    "latents": {
        "latentdim", "zdim", "latentsize", "nlatent", "nlatents", "numlatents", "codesize", "hiddendim", "dimz",
        "latents", "latentdims", "zsize", "nz",
    },
}  # fmt: skip


def words(name: str) -> list[str]:
    """The words of a name, cut at underscores and capitals, with `log var` and its kin made one word.

    Example:
        >>> words("z_log_var"), words("zMean")
        (['z', 'logvar'], ['z', 'mean'])
    """
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().strip("_")
    return re.sub(r"(log|ln|std)_(?=var|variance|sigma|std|dev|scale|sd)", r"\1", split).split("_")


def guess(name: str) -> str | None:
    """The role that a parameter's name suggests, or None.

    Example:
        >>> [guess(n) for n in ("recon_x", "x", "z_mean", "z_log_var", "x_logvar", "zMean", "temperature")]
        ['output', 'x', 'mu', 'head', 'scale', 'mu', None]
    """
    if name.lower() in _Z or (set(words(name)) <= _Z | {"sample", "samples"} and set(words(name)) & _Z):
        return "z"
    known = set(words(name)) | {"".join(words(name))}
    for pattern, role in _GLUED:
        if pattern.fullmatch("".join(words(name))):
            return role
    data_side = bool(set(words(name)) & _DATA_SIDE)
    if known & _SPREAD:
        return "scale" if data_side else "head"
    if known & _MEAN:
        return "output" if data_side else "mu"
    if known & _OUTPUT:
        return "output"
    return "x" if known & _X else None


_GLUED = tuple(
    (re.compile(pattern), role)
    for pattern, role in (
        (r"(z|q|enc|qz|latent|post)?(mu|mean|loc)(z|q|s|vec|enc)?", "mu"),
        (
            r"(z|q|enc|qz|latent|post)?(log|ln|l)?(variance|var|sigma|std|stddev|scale|sd)(2|sq|squared|[zqs]|vec|enc)*",
            "head",
        ),
        (r"(x|y|image|img|input)(hat|rec|recon|recons|reconst|reconstructed|reconstruction|pred|tilde|prime|bar|out|logits?|probs?|decoded|mean|mu|loc)",
         "output"),
        (r"(rec|recons?|reconst|reconstructed|pred|out|dec|decoded)(x|y|images?|imgs?|input|batch|data|s)?", "output"),
        (r"(x|y|input)(true|in|input|orig|original|target|batch|real|data)?", "x"),
    )
)  # fmt: skip


# Of two names for one role, the one that speaks of latents keeps it, and the other is the decoder's.
SECOND = {"head": "scale", "mu": "output"}
_LATENT_SIDE = {"z", "q", "enc", "latent", "logvar", "lv", "posterior", "encoder", "qz"}


def _latent_rank(name: str) -> int:
    """How surely a name speaks of the posterior: 0 where it says so, 2 for a scale or a noise."""
    known = set(words(name)) | {"".join(words(name))}
    return 0 if known & _LATENT_SIDE else 2 if known & {"scale", "logscale", "noise", "lognoise", "dispersion"} else 1


def is_beta(name: str) -> bool:
    """Whether a constant's name declares the weight of the divergence."""
    return "".join(words(name)) in _BETA or (words(name)[0] == "beta" and len(words(name)) == 1)


def number_of(value: Any) -> float | None:
    """A number, be it Python's, NumPy's or a tensor of one entry; None for anything else, and for True and False."""
    if isinstance(value, bool | str | None) or getattr(value, "size", 1) in (0, None):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def is_weight(name: str) -> bool:
    """Whether a constant's name promises to weigh something."""
    return bool(_WEIGHT.search(name.lower()))


def size_of(name: str) -> str | None:
    """Which size a constant's name declares: batch, pixels or latents; None for another name."""
    joined = "".join(words(name))
    return next((size for size, names in _SIZES.items() if joined in names), None)


@dataclass(frozen=True)
class Binding:
    """How a loss is called.

    Args:
        arguments: In the callable's order; a role, a constant's name, or a tuple of them for one grouped argument.
        keywords: Constants that are passed by name.
        names: The parameter that plays each role, where it has a name.
        constants: Values of the constants, defaults included.
        sizes: Constants whose names declare a size, to the size: they follow the size in use.
        optional: Constants that stand at their default unless they are moved on purpose.
    """

    arguments: tuple[Any, ...]
    keywords: tuple[str, ...]
    names: Mapping[str, str]
    constants: Mapping[str, Any]
    sizes: Mapping[str, str]
    optional: frozenset[str] = field(default_factory=frozenset)

    @property
    def square(self) -> bool:
        """Whether the data are a graph's adjacency, [nodes, nodes]: as many entries in a row as there are rows."""
        nodes = {"nnodes", "numnodes", "numberofnodes"}
        called = {word for name in self.names.values() for word in words(name)}
        return bool(nodes & {"".join(words(name)) for name in self.sizes}) or bool({"adj", "adjacency"} & called)

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles in use."""
        flat = [a for item in self.arguments for a in (item if isinstance(item, tuple) else (item,))]
        named = [role for role, name in self.names.items() if name in self.keywords]
        return tuple(dict.fromkeys(a for a in [*flat, *named] if a in ROLES))


def bind(fn: Callable[..., Any], inputs: str | None, constants: Mapping[str, Any] | None) -> Binding:
    """Finds out how to call a loss.

    Args:
        fn: The callable.
        inputs: Roles in the callable's order, such as "x output mu head"; parentheses group one argument.
        constants: Values for further parameters, by name.

    Raises:
        BadInput: where a parameter's role cannot be told, with what to add.
    """
    given = dict(constants or {})
    parameters = _parameters(fn)
    names = [p.name for p in parameters or []]
    open_ended = parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not open_ended and (unknown := [name for name in given if name not in names]):
        raise BadInput("constants", unknown[0], "is no parameter of the callable", did_you_mean(unknown[0], names))
    if inputs is not None:
        return _given(inputs, parameters, given)
    if parameters is None:
        raise BadInput(
            "inputs", None, "the parameters of this callable cannot be read", 'pass inputs="x output mu head"'
        )
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and not any(guess(p.name) for p in parameters):
        raise BadInput("inputs", f"({', '.join(map(str, parameters))})", "the order cannot be told from *args",
                       'pass inputs, such as inputs="output x mu head"')  # fmt: skip
    return _found(parameters, given)


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter] | None:
    forward = getattr(fn, "forward", None)  # a module's own call takes anything and hands it to forward
    try:
        return list(inspect.signature(forward if callable(forward) else fn).parameters.values())
    except (TypeError, ValueError):
        return None


def _found(parameters: list[inspect.Parameter], given: dict[str, Any]) -> Binding:
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    roles = _assign([p for p in plain if p.name not in given])
    left = [p for p in plain if p.name not in roles and p.name not in given and p.default is p.empty]
    open_roles = [role for role in NEEDED if role not in roles.values()]
    unknown = [p for p in left if size_of(p.name) is None and not is_beta(p.name)]
    if len(unknown) == 1 and len(open_roles) == 1:  # one name and one role are left: they belong together
        roles[unknown[0].name] = open_roles[0]
        unknown = []
    values = set(roles.values())
    if unknown or not ({"mu"} <= values or {"x", "output"} <= values):
        raise BadInput(
            "inputs",
            f"({', '.join(str(p) for p in parameters)})",
            f"the role of {', '.join(repr(p.name) for p in unknown) or 'the arguments'} cannot be told from the names",
            'pass the roles in order, such as inputs="x output mu head", and constants={"name": value} for the rest'
            + ("; an estimator of log p(x) is audited with --likelihood" if _estimates(plain) else ""),
        )
    used = [p for p in plain if p.name in roles or p.name in given or p.default is p.empty]
    arguments = tuple(roles.get(p.name, p.name) for p in used if p.kind is not p.KEYWORD_ONLY)
    return _binding(arguments, plain, used, given, {role: name for name, role in roles.items()})


def _estimates(parameters: list[inspect.Parameter]) -> bool:
    """Whether the parameters look like those of an estimator of the likelihood: a model and a number of samples."""
    called = {"".join(words(p.name)) for p in parameters}
    return bool(called & {"model", "self", "vae"}) and bool(
        called & {"nsamples", "numsamples", "samples", "k", "batchsize"}
    )


def _binding(
    arguments: tuple[Any, ...],
    plain: list[inspect.Parameter],
    used: list[inspect.Parameter],
    given: dict[str, Any],
    names: dict[str, str],
) -> Binding:
    # From the first parameter that is left at its default on, everything is passed by name.
    skipped = next((i for i, p in enumerate(plain) if p not in used), len(plain))
    positional = [p for i, p in enumerate(plain) if p in used and p.kind is not p.KEYWORD_ONLY and i < skipped]
    taken = {p.name for p in plain}
    by_name = [p.name for p in used if p not in positional]
    role_of = {name: role for role, name in names.items()}
    defaults = {p.name: p.default for p in plain if p.default is not p.empty and p.name not in names.values()}
    sizes = {p.name: size for p in plain if (size := size_of(p.name)) and p.name not in names.values()}
    required = {p.name: 1.0 for p in plain if p.default is p.empty and is_beta(p.name)}
    keywords = by_name + [name for name in given if name not in taken and name not in arguments]
    return Binding(
        tuple(role_of.get(p.name, p.name) for p in positional) if plain else arguments,
        tuple(keywords),
        names,
        required | defaults | given,
        sizes,
        frozenset(defaults) - set(given),
    )


def _assign(parameters: list[inspect.Parameter]) -> dict[str, str]:
    """Names to roles; of two names for one role the first required one has it, and the second takes what is open."""
    roles: dict[str, str] = {}
    for parameter in parameters:
        role = guess(parameter.name)
        required = parameter.default is parameter.empty
        if role is None or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if (is_beta(parameter.name) or size_of(parameter.name)) and role != "z":
            continue
        if (not required and role not in ("z", "scale", "head")) or (not required and parameter.default is not None):
            continue
        if role not in roles.values():
            roles[parameter.name] = role
        elif required and SECOND.get(role) and SECOND[role] not in roles.values():
            first = next(name for name, known in roles.items() if known == role)
            swap = _latent_rank(parameter.name) < _latent_rank(first)
            roles[first], roles[parameter.name] = (SECOND[role], role) if swap else (role, SECOND[role])
        elif required and role == "x" and "output" not in roles.values():
            first = next(name for name, known in roles.items() if known == "x")
            later = first if first == "y" else parameter.name  # of x and y, y is what comes out
            roles[first] = roles[parameter.name] = "x"
            roles[later] = "output"
    return roles


def _given(inputs: str, parameters: list[inspect.Parameter] | None, given: dict[str, Any]) -> Binding:
    arguments = _parse(inputs)
    plain = [p for p in parameters or [] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    flat = [a for item in arguments for a in (item if isinstance(item, tuple) else (item,))]
    open_ended = parameters is None or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(arguments) > len([p for p in plain if p.kind is not p.KEYWORD_ONLY]) and not open_ended:
        raise BadInput(
            "inputs", inputs, f"the callable takes {len(plain)} arguments", "leave roles out, or name its constants"
        )
    constant = {p.name for p in plain if p.default is not p.empty or size_of(p.name) or is_beta(p.name)} | set(given)
    unknown = [a for a in flat if a not in ROLES and a not in constant]
    if unknown or len(set(flat)) != len(flat):
        raise BadInput(
            "inputs", inputs, f"roles are {', '.join(ROLES)}, each at most once", "constants go into constants={...}"
        )
    positional = [p for p in plain if p.kind is not p.KEYWORD_ONLY][: len(arguments)]
    rest = [p for p in plain if p not in positional]
    missing = [
        p.name
        for p in rest
        if p.default is p.empty and p.name not in given and not size_of(p.name) and not is_beta(p.name)
    ]
    if missing:
        raise BadInput(
            "constants",
            None,
            f"the callable also needs {', '.join(missing)}",
            f"pass constants={{{missing[0]!r}: value}}",
        )
    defaults = {p.name: p.default for p in plain if p.default is not p.empty and p not in positional}
    sizes = {name: size for name in [*given, *(p.name for p in rest)] if (size := size_of(name))}
    required = {p.name: 1.0 for p in rest if p.default is p.empty and is_beta(p.name)}
    names = {a: p.name for a, p in zip(arguments, positional, strict=False) if isinstance(a, str)}
    keywords = [p.name for p in rest if p.name in given or p.default is p.empty]
    keywords += [
        name for name in given if name not in keywords and name not in flat and name not in {p.name for p in plain}
    ]
    return Binding(
        arguments, tuple(keywords), names, required | defaults | given, sizes, frozenset(defaults) - set(given)
    )


def _parse(inputs: str | Sequence[str]) -> tuple[Any, ...]:
    """Roles in order; `(output mu head) x` makes one tuple of three and one argument."""
    inputs = inputs if isinstance(inputs, str) else " ".join(map(str, inputs))
    tokens = re.findall(r"\([^()]*\)|[^\s,()]+", inputs)
    if not tokens:
        raise BadInput("inputs", repr(inputs), "names the roles in the callable's order", 'such as "x output mu head"')
    return tuple(tuple(re.findall(r"[^\s,()]+", t)) if t.startswith("(") else t for t in tokens)
