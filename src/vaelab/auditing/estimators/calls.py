"""How an estimator of the likelihood or a K-sample objective is called: its roles by name, and what comes back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from ...core.errors import BadInput

Rules = Mapping[str, frozenset[str]]

DRAWS: Rules = {
    role: frozenset(names.split())
    for role, names in {
        "model": "model vae net self module network autoencoder generativemodel vaemodel iwae ae",
        "x": """x data input inputs batch images image imgs img truex samplebatch xs obs observations rows xbatch
            minibatch testdata xtest datapoints examples y tensors""",
        "loader": "loader dataloader testloader validloader valloader dataiter iterator testset",
        "samples": """nsamples numsamples samples k s l m nmc nmcsamples nsamplesmc mcsamples numsample nsample numk
            nk kiw nimportance nimportancesamples numimportancesamples importancesamples niw iwsamples
            numiwsamples niwsamples iwaesamples numparticles nparticles particles nposteriorsamples
            nsamplesfromposterior nz numz ndraws draws samplesize numweights nweights""",
        "per_pass": """batchsize nmcsamplesperpass perpass chunk chunksize samplesperpass passsize minibatchsize bs
            maxbatch samplebatchsize chunks nsamplesperpass samplesperbatch maxsamplesperpass kperpass drawsperpass
            stepsize""",
        "encode": "encode encoder enc q qzx inference inferencenet recognition encoderfn encodefn",
        "decode": "decode decoder dec generator pxz decoderfn decodefn generative p",
        "log_px": """logpx logpxgivenz logpxz loglikelihoodfn loglik logprobx logpxzfn logpxfn likelihood
            loglikelihood""",
        "mu": "mu mean zmean muz qmu loc",
        "logvar": "logvar logvariance zlogvar lv logcovariance logvarz lnvar",
        "device": "device dev",
        "latents": "latentdim numlatent zdim latentsize nlatent nlatents latents dimz numlatents",
        "pixels": "inputdim datadim xdim pixels npixels inputsize numpixels",
    }.items()
}


@dataclass(frozen=True)
class Call:
    """A callable with the roles of its arguments.

    Args:
        fn: The callable.
        positional: Roles in order.
        keywords: Role by parameter, for those passed by name.
        constants: Further parameters, by name.
    """

    fn: Callable[..., Any]
    positional: tuple[str, ...]
    keywords: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a person calls the callable."""
        return str(getattr(self.fn, "__qualname__", None) or type(self.fn).__qualname__)

    @property
    def roles(self) -> frozenset[str]:
        """Roles in use."""
        return frozenset(self.positional) | frozenset(self.keywords.values())

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Calls with a value for each role."""
        named = {name: values[role] for name, role in self.keywords.items()}
        return self.fn(*(values[role] for role in self.positional), **named, **self.constants)


def bind(
    fn: Callable[..., Any],
    inputs: str | None,
    constants: Mapping[str, Any] | None,
    guess: Callable[[str], str | None],
    roles: Iterable[str],
) -> Call:
    """Finds out how to call a function.

    Args:
        inputs: Roles in the callable's order, such as "model x samples"; None finds them from the names.
        constants: Values for further parameters, by name.
        guess: The role that a parameter's name suggests, or None.
        roles: Names of all roles.

    Raises:
        BadInput: where the role of a parameter cannot be told, with what to add.
    """
    known, given = sorted(roles), dict(constants or {})
    if inputs is not None:
        wanted = tuple(inputs.replace(",", " ").split())
        if wrong := [role for role in wanted if role not in known]:
            raise BadInput("inputs", repr(inputs), f"{wrong[0]!r} is no role", f"roles are {', '.join(known)}")
        return Call(fn, wanted, {}, given)
    plain = [p for p in parameters_of(fn) if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in given]
    found: dict[str, str] = {}
    # Of two names for one role the required one has it.
    for parameter in sorted(plain, key=lambda p: p.default is not p.empty):
        role = guess(parameter.name)
        if role is not None and role not in found.values():
            found[parameter.name] = role
    lost = [p.name for p in plain if p.name not in found and p.default is p.empty]
    if lost or not found:
        raise BadInput(
            "inputs",
            f"({', '.join(p.name for p in plain)})",
            f"the role of {', '.join(map(repr, lost)) or 'the arguments'} cannot be told from the names",
            f'pass inputs with roles in order, such as inputs="model x samples", of {", ".join(known)}; '
            'and constants={"name": value} for the rest',
        )
    first = tuple(p.name for p in plain if p.kind is p.POSITIONAL_ONLY and p.name in found)
    named = {name: role for name, role in found.items() if name not in first}
    return Call(fn, tuple(found[name] for name in first), named, given)


def parameters_of(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    """Parameters of a callable; of a module those of its `forward`.

    Raises:
        BadInput: where they cannot be read.
    """
    try:
        return list(inspect.signature(getattr(fn, "forward", fn)).parameters.values())
    except (TypeError, ValueError):
        rule = "the parameters of this callable cannot be read"
        raise BadInput("inputs", None, rule, "pass inputs with the roles in order") from None


def squeezed(name: str) -> str:
    """A name without its underscores and capitals.

    Example:
        >>> squeezed("n_mc_Samples")
        'nmcsamples'
    """
    return name.replace("_", "").lower()


def guess_draws(name: str) -> str | None:
    """The role of an estimator's parameter by its name, or None.

    Example:
        >>> [guess_draws(n) for n in ("self", "data", "n_samples", "batch_size", "K", "temperature")]
        ['model', 'x', 'samples', 'per_pass', 'samples', None]
    """
    return next((role for role, names in DRAWS.items() if squeezed(name) in names), None)


_VALUE_KEYS = ("loss", "nll", "negative_log_likelihood", "log_likelihood", "ll", "bound", "elbo", "value")


def main_value(result: Any) -> Any:
    """The number or the vector that a callable is about: itself, the first of a tuple, or the best-named entry."""
    if is_dataclass(result) and not isinstance(result, type):
        result = {f.name: getattr(result, f.name) for f in fields(result)}
    if isinstance(result, Mapping):
        return result[next((key for key in _VALUE_KEYS if key in result), next(iter(result)))]
    if isinstance(result, tuple) or (isinstance(result, list) and result and np.size(_plain(result[0])) > 1):
        return result[0]
    return result


def numbers(result: Any) -> np.ndarray:
    """What a callable returned as a flat float64 vector.

    Raises:
        BadInput: where it is not made of numbers.
    """
    value = main_value(result)
    try:
        return np.asarray([_plain(v) for v in value] if isinstance(value, list) else _plain(value), float).reshape(-1)
    except (TypeError, ValueError):
        raise BadInput("returned value", type(value).__name__, "must be a number or one number a row") from None


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
