"""What estimators of log p(x) need of a model: q(z|x), p(x|z) and p(z); a stranger gives three functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch, beside, rows_of
from ..core.errors import BadInput, did_you_mean
from ..distributions.foreign import Foreign, as_distribution, diagonal_normal, seeded
from ..distributions.normal import Distribution, Normal, StandardNormal

PARTS = ("encode", "log_px", "log_pz", "draw_x")


@dataclass(frozen=True)
class LatentModel:
    """A model as functions. Shapes: K samples, B rows, L latent dimensions.

    Args:
        encode: x [B, ...] to q(z|x).
        log_px: x [B, ...] and z [K, B, L] to log p(x|z) in nats, [K, B].
        prior: From any z [K, B, L] and x to p(z), a distribution with one row, or to p(z|c) where a condition c stands
            beside x; z says the size where nothing else does.
        draw_x: z [K, B, L], a generator, and c where there is one, to a draw of p(x|z), [K, B, ...]; None where the
            stranger gave none.
        module: The module behind it, whose mode and device count; None for bare functions.
        channels: Numbers that the decoder gives for an entry of a row.
        thread_safe: Whether rows may be evaluated by several threads at once.
        likelihood: The likelihood module, which knows where rows can lie; None where it is not known.
    """

    encode: Callable[[Any], Distribution]
    log_px: Callable[[Any, Tensor], Tensor]
    prior: Callable[[Tensor, Any], Any]
    draw_x: Callable[..., Tensor] | None = None
    module: nn.Module | None = None
    channels: int = 1
    thread_safe: bool = False
    likelihood: Any = None

    def width(self, x: Tensor | Batch) -> int:
        """Numbers that decoding one z gives, for rows like x [B, ...]."""
        return self.channels * prod(x.shape[1:])

    def rows(self, x: Tensor | Batch) -> Any:
        """Rows [n, ...] where the module is, in its precision; whole numbers too, as our likelihoods read them.

        Raises:
            BadInput: for no rows, and for values that the likelihood has no place for.
        """
        if x.ndim < 2 or not len(x):
            raise BadInput("x", f"shape {tuple(x.shape)}", "must be rows, [n, ...]", "a single row is x[None]")
        if hasattr(self.likelihood, "holds"):
            _refuse_outside(self.likelihood, rows_of(x))
        return self.like(x)

    def like(self, x: Tensor | Batch) -> Any:
        """Rows where the module is, in its precision."""
        first = next(self.module.parameters(), None) if self.module is not None else None
        if first is None:
            return x if x.dtype.is_floating_point else x.to(torch.float32)
        return x.to(first.device, first.dtype)


def latent_model(given: Any) -> LatentModel:
    """A model of ours, or a stranger's three functions, as a `LatentModel`.

    Args:
        given: What offers `encode`, `decode` and `prior_distribution`; or an object or a mapping with
            `encode(x [N, ...])`, q(z|x) as a distribution, as a pair (mean, log-variance) of [N, L] each or as both in
            one tensor [N, 2 L];
            `log_px(x [N, ...], z [N, L])`, log p(x|z) in nats, [N]; `log_pz(z [N, L])`, log p(z), [N] - where it is
            left out, p(z) is the standard normal; and `draw_x(z [N, L])`, a draw of p(x|z), for what needs rows drawn
            from the model.

    Raises:
        BadInput: where one of them is missing.

    Example:
        >>> functions = {
        ...     "encode": lambda x: (torch.zeros(len(x), 2), torch.zeros(len(x), 2)),
        ...     "log_px": lambda x, z: -(x - z).square().sum(1),
        ... }
        >>> latent_model(functions).log_px(torch.zeros(5, 2), torch.zeros(3, 5, 2)).shape
        torch.Size([3, 5])
    """
    if isinstance(given, str):
        raise BadInput("model", given, "must be a run, a model or functions", "vaelab.load(folder) reads a run")
    if callable(getattr(given, "prior_distribution", None)) and callable(getattr(given, "decode", None)):
        return _ours(given)
    found = dict(given) if isinstance(given, Mapping) else {name: getattr(given, name, None) for name in PARTS}
    for name in found:
        if name not in PARTS:
            raise BadInput("model", f"{name!r}", f"the functions are {', '.join(PARTS)}", did_you_mean(name, PARTS))
    for name in ("encode", "log_px"):
        if not callable(found.get(name)):
            rule = "is neither a model of ours nor has the functions encode(x) and log_px(x, z)"
            raise BadInput("model", type(given).__name__, rule, f"add {name}, to an object or a mapping")
    return _foreign(found, given if isinstance(given, nn.Module) else None)


def _ours(model: Any) -> LatentModel:
    return LatentModel(
        encode=model.encode,
        log_px=lambda x, z: model.decode(z, *beside(x)).log_prob(rows_of(x)),
        prior=lambda z, x: model.prior_distribution(*beside(x)),
        draw_x=lambda z, coins, *given: model.decode(z, *given).sample(coins),
        module=model,
        channels=getattr(model, "channels", 1),
        thread_safe=True,
        likelihood=getattr(getattr(model, "decoder", None), "likelihood", None),
    )


def _refuse_outside(likelihood: Any, x: Tensor) -> None:
    """Refuses rows with an entry where the likelihood has neither mass nor density."""
    inside = likelihood.holds(x).flatten(1)
    if not inside.all():
        row, entry = (int(index) for index in (~inside).nonzero()[0])
        seen = f"{x.flatten(1)[row, entry].item():.4g} in entry {entry} of row {row}"
        raise BadInput("x", seen, f"the likelihood is over {likelihood.support}", "rows as the model was trained on")


def _foreign(functions: Mapping[str, Any], module: nn.Module | None) -> LatentModel:
    def encode(x: Tensor) -> Distribution:
        found = functions["encode"](x)
        q = diagonal_normal(found, "encode") if isinstance(found, tuple | list | Tensor) else as_distribution(found)
        count = len(q.mean) if isinstance(q, Normal) else q.inner.batch_shape[0] if isinstance(q, Foreign) else len(x)
        if count != len(x):
            raise BadInput("encode", f"{count} posteriors for {len(x)} rows", "must give one for each row")
        return q

    def log_px(x: Tensor, z: Tensor) -> Tensor:
        samples, rows = z.shape[:2]
        again = x.expand(samples, *x.shape).reshape(samples * rows, *x.shape[1:])
        return _per_row("log_px", functions["log_px"](again, z.reshape(samples * rows, -1)), samples, rows)

    draw = functions.get("draw_x")

    def draw_x(z: Tensor, coins: torch.Generator) -> Tensor:
        assert draw is not None
        with seeded(coins):
            found = torch.as_tensor(draw(z.reshape(-1, z.shape[-1])))
        return found.reshape(*z.shape[:2], *found.shape[1:])

    density = functions.get("log_pz")
    return LatentModel(
        encode=encode,
        log_px=log_px,
        prior=lambda z, x: (
            _ForeignPrior(density) if density is not None else StandardNormal(z.shape[-1], z.device, z.dtype)
        ),
        draw_x=draw_x if draw is not None else None,
        module=module,
    )


class _ForeignPrior:
    """A prior of which only the density is known."""

    def __init__(self, density: Callable[[Tensor], Tensor]) -> None:
        self.density = density

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B]."""
        return _per_row("log_pz", self.density(z.reshape(-1, z.shape[-1])), *z.shape[:2])


def _per_row(name: str, found: Any, samples: int, rows: int) -> Tensor:
    """[K * B] as [K, B]."""
    found = torch.as_tensor(found)
    if tuple(found.shape) != (samples * rows,):
        rule = f"must give one number for each of the {samples * rows} rows it was given"
        raise BadInput(name, f"shape {tuple(found.shape)}", rule, "sum over the entries of a row")
    return found.reshape(samples, rows)


def takes_noise(q: Distribution) -> bool:
    """Whether samples of a distribution are a function of standard normal noise."""
    return getattr(q, "noise_shape", None) is not None


def is_point(q: Distribution) -> bool:
    """Whether all samples of a row are the same, since they take no noise."""
    return takes_noise(q) and q.noise_shape[1] == 0  # type: ignore[attr-defined]


def centre_of(q: Any) -> Tensor:
    """What stands for a row, [n, L]: the mean of q(z|x), or the likeliest entries of a book, or of one group by one."""
    return q.mode if hasattr(q, "mode") else q.mean
