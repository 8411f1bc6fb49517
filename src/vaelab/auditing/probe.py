"""A stranger's callable as a function of arrays: called, timed, seeded, and left as it was."""

from __future__ import annotations

import copy
import random
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import BadInput, one_line
from .care import Failed, Kept, time_limit
from .frameworks import Arrays, NumPy, candidates, fixed_noise
from .inputs import Batch, Layout, draw_batch
from .laws import HEADS, Head
from .roles import Binding

TOTALS = (
    "loss",
    "total_loss",
    "total",
    "negative_elbo",
    "neg_elbo",
    "nelbo",
    "objective",
    "vae_loss",
    "elbo_loss",
    "elbo",
)


@dataclass(frozen=True)
class Probe:
    """A callable with everything that is needed to call it on arrays.

    Args:
        fn: The callable.
        binding: Which argument is what.
        framework: How to make its tensors.
        dtype: "float64" or "float32".
        layout: Shapes of the inputs.
        domain: Kind of made-up data that it accepts.
        choice: Which parts of a structured result make the loss; empty for a plain number.
        draw: The reading of the head from which `z` is drawn.
        inside: The callable draws its own standard normal noise, which the nodes of a quadrature stand in for.
        seeds: Calls with different random numbers that a value is averaged over.
        first_seed: The first of them.
        seconds: Time limit of one call.
        until: When the whole audit must be over, on the monotonic clock.
        rough: Relative rounding error seen between neighbouring points, where it is larger than that of the type.
        kept: What the callable may change, put back after every call.
    """

    fn: Callable[..., Any]
    binding: Binding
    framework: NumPy
    dtype: str
    layout: Layout
    domain: str
    choice: tuple[str, ...] = ()
    draw: Head = HEADS[0]
    inside: bool = False
    seeds: int = 1
    first_seed: int = 0
    seconds: float = 20.0
    until: float = float("inf")
    rough: float = 0.0
    kept: Kept = field(default_factory=lambda: Kept(int))

    @property
    def precision(self) -> float:
        """The relative rounding error to expect of a value: that of the type, or the larger one that was seen."""
        return max(1e-14 if self.dtype == "float64" else 3e-7, self.rough)

    def value(self, batch: Batch, constants: Mapping[str, Any] | None = None, seed: int = 0) -> float:
        """The loss: the mean over seeds and, where it takes z, over a quadrature of the posterior's noise."""
        parts = [
            weight * self._once(arrays, self.first_seed + seed + i, constants or {}, node)
            for i in range(self.seeds)
            for weight, node, arrays in self.draws(batch)
        ]
        return float(np.sum(parts)) / self.seeds

    def draws(self, batch: Batch) -> list[tuple[float, float, dict[str, np.ndarray]]]:
        """Weight, base noise and inputs by role at each node of the quadrature over z; one node where no z is taken.

        Three nodes of Gauss and Hermite are exact for sums, over entries, of polynomials up to degree 5.
        """
        arrays = {role: array for role, array in batch.arrays().items() if role in self.binding.roles}
        nodes = ((1 / 6, -(3**0.5)), (2 / 3, 0.0), (1 / 6, 3**0.5))
        if "z" not in self.binding.roles:
            return [(weight, node, arrays) for weight, node in nodes] if self.inside else [(1.0, 0.0, arrays)]
        std = self.std(batch.head)
        return [(weight, node, {**arrays, "z": batch.mu + std * node}) for weight, node in nodes]

    def std(self, head: np.ndarray) -> np.ndarray:
        """The posterior's standard deviation under the reading from which z is drawn."""
        with np.errstate(all="ignore"):
            return np.exp(0.5 * self.draw.log_variance(head))

    def at(self, arrays: Arrays, node: float = 0.0) -> float:
        """The loss at given arrays and base noise."""
        return self._once(arrays, 0, {}, node)

    def gradients(self, arrays: Arrays, roles: Sequence[str], node: float = 0.0) -> dict[str, np.ndarray] | None:
        """The gradient by role at given arrays, or None where the framework has none."""

        def scalar(tensors: dict[str, Any]) -> Any:
            parts = [self.framework.mean(part) for part in self._parts(self._call(tensors, 0, {}))]
            return sum(parts[1:], start=parts[0])

        with self._protected(), fixed_noise(self.framework, node if self.inside else None):
            return self.framework.gradients(scalar, arrays, roles, self.dtype)

    def result(self, batch: Batch, seed: int = 0) -> dict[str, np.ndarray]:
        """All numeric parts of what the callable returns, by name."""
        arrays = self.draws(batch)[0][2]
        tensors = {role: self.framework.make(array, self.dtype) for role, array in arrays.items()}
        with self._protected():
            raw = self._call(tensors, seed, {})
        named = {name: self.framework.number(part) for name, part in parts_of(raw).items()}
        return {name: array for name, array in named.items() if array is not None}

    def _once(self, arrays: Arrays, seed: int, constants: Mapping[str, Any], node: float) -> float:
        tensors = {role: self.framework.make(array, self.dtype) for role, array in arrays.items()}
        key = repr((self.layout, self.choice, sorted(constants.items()), seed))
        with self._protected(), fixed_noise(self.framework, node if self.inside else None):
            parts = self.framework.run(lambda given: self._parts(self._call(given, seed, constants)), tensors, key)
            numbers = [self.framework.number(part) for part in parts]
        if any(n is None or n.size == 0 for n in numbers):
            raise Failed("returned something that is no number")
        return float(sum(n.mean() for n in numbers if n is not None))

    def _parts(self, raw: Any) -> list[Any]:
        named = parts_of(raw)
        if self.choice:
            return [named[name] for name in self.choice]
        return [raw] if len(named) != 1 else list(named.values())

    def _call(self, tensors: Mapping[str, Any], seed: int, constants: Mapping[str, Any]) -> Any:
        sizes = self.layout.sizes
        known = {
            **{name: _fresh(value) for name, value in self.binding.constants.items()},
            **{n: sizes[s] for n, s in self.binding.sizes.items()},
            **constants,
            **tensors,
        }
        arguments = [
            tuple(known[a] for a in item) if isinstance(item, tuple) else known[item] for item in self.binding.arguments
        ]
        moved = {name: value for name, value in constants.items() if name not in self.binding.arguments}
        keywords = {name: known[self._role(name)] for name in self.binding.keywords} | moved
        keywords |= {name: sizes[s] for name, s in self.binding.sizes.items() if name not in self.binding.arguments}
        random.seed(seed)
        np.random.seed(seed)
        self.framework.seed(seed)
        return self.fn(*arguments, **keywords)

    def _role(self, keyword: str) -> str:
        return next((role for role, name in self.binding.names.items() if name == keyword), keyword)

    @contextmanager
    def _protected(self) -> Iterator[None]:
        """Quiet, in time, and with an error of the callable told as such."""
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            time_limit(self.seconds),
            self.framework.precision(self.dtype),
        ):
            warnings.simplefilter("ignore")
            if time.monotonic() > self.until:
                raise Failed("took longer than an audit may: the time limit of all calls together is over")
            try:
                yield
            except Failed:
                raise
            except (Exception, SystemExit) as error:
                raise Failed(f"raised {type(error).__name__}{_line_of(error)}: {one_line(str(error))[:300]}") from error
            finally:
                self.kept.restore()


def _fresh(value: Any) -> Any:
    """A copy of what a callable could change in place; plain numbers and words as they are."""
    if isinstance(value, int | float | str | None) or callable(value):
        return value
    return value.clone() if hasattr(value, "clone") else copy.deepcopy(value)


def _line_of(error: BaseException) -> str:
    """Where a stranger's code raised: file and line of the last frame outside this package and outside libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and str(Path(__file__).parent) not in f.filename]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def parts_of(raw: Any) -> dict[str, Any]:
    """The named parts of a result: of a mapping, a dataclass, a tuple or a list; a plain number has one, named ''."""
    if isinstance(raw, Mapping):
        return {str(key): value for key, value in raw.items()}
    if is_dataclass(raw) and not isinstance(raw, type):
        return {f.name: getattr(raw, f.name) for f in fields(raw)}
    if hasattr(raw, "_fields"):
        return {name: getattr(raw, name) for name in raw._fields}
    if isinstance(raw, tuple | list):
        return {str(index): value for index, value in enumerate(raw)}
    return {"": raw}


# ------------------------------------------------------------------------------------------------------------- opening
def open_probe(
    fn: Callable[..., Any],
    binding: Binding,
    found_layouts: Sequence[Layout],
    domains: Sequence[str],
    framework: str | None,
    total: str | None,
    seconds: float,
) -> Probe:
    """The first way of calling that gives a finite number.

    Raises:
        BadInput: where none does, with what the callable said at the plainest one.
    """
    first: Failed | None = None
    late, kept = time.monotonic() + 3 * seconds, Kept(fn)
    scales = ("full", "number", "columns") if "scale" in binding.roles else ("full",)
    shapes = [replace(known, scale=scale) for known in found_layouts for scale in scales]
    for tools in candidates(fn, framework):
        said: list[str] = []
        for layout, domain, dtype in product(shapes, domains, ("float64", "float32")):
            probe = Probe(
                fn, binding, tools, dtype, layout, domain, seconds=seconds, until=late + 3 * seconds, kept=kept
            )
            try:
                return _settled(probe, total)
            except Failed as error:
                first = first or error
                if "time limit" in str(error):
                    raise BadInput("the callable", None, str(error), "pass a longer time limit: seconds=...") from error
                said.append(str(error))
            if _hopeless(said) or time.monotonic() > late:
                break
    raise BadInput(
        "the callable",
        None,
        f"{first} (at {found_layouts[0].sizes}); no call with made-up inputs gave a finite number",
        'name its arguments with inputs="x output mu head", or "x (output mu head)" where a tuple packs some; '
        'its shapes with sizes={"pixels": (1, 28, 28)}; its data with family="categorical" (integer targets [B, P], '
        'outputs [B, P, V]) or "counts"',
    )


def _hopeless(said: list[str]) -> bool:
    """The same words without a number in them, whatever the shapes: other shapes will not help."""
    return len(said) >= 20 and len(set(said)) == 1 and not re.search(r": .*\d|number|finite", said[0])


def _settled(probe: Probe, total: str | None) -> Probe:
    """The probe with the parts of the result that make the loss."""
    rng = np.random.default_rng(7)
    batch, other = (draw_batch(rng, probe.layout, probe.domain) for _ in range(2))
    probe = replace(probe, choice=_choice(probe, batch, other, total))
    values = [probe.value(b) for b in (batch, other)]
    if not np.all(np.isfinite(values)):
        raise Failed("returned a value that is not finite")
    # A callable may cast down inside: what it returns is then rough between points that are next to each other.
    rough = _roughness(probe, batch)
    return replace(probe, dtype="float32", rough=rough if rough > 1e-5 else 0.0) if rough > 2e-9 else probe


def _kind_of(probe: Probe, batch: Batch) -> str:
    tensors = {role: probe.framework.make(a, probe.dtype) for role, a in probe.draws(batch)[0][2].items()}
    with probe._protected():
        return type(probe._call(tensors, 0, {})).__name__


def _roughness(probe: Probe, batch: Batch) -> float:
    """The largest second difference over a millionth, relative: curvature gives 1e-11, float32 1e-7, bfloat16 1e-3.

    Over a hundredth as well, where a coarser type moves at all; curvature is taken off by comparing two such steps.
    """
    seen = [0.0]
    for role in ("output", "mu", "head"):
        here = batch.arrays()[role]
        try:
            fine = [probe.value(replace(batch, **{role: here + k * 1e-6})) for k in (-1, 0, 1)]
            wide = [probe.value(replace(batch, **{role: here + k * 1e-3})) for k in range(-2, 3)]
        except Failed:  # an output that must be whole
            continue
        size = max(abs(fine[1]), 1e-30)
        seen.append(abs(fine[0] - 2 * fine[1] + fine[2]) / size)
        # The fourth difference of a smooth function over a thousandth is 1e-12; what is more is rounding.
        fourth = abs(wide[0] - 4 * wide[1] + 6 * wide[2] - 4 * wide[3] + wide[4]) / 16 / size
        seen.append(fourth if fourth > 1e-5 else 0.0)
    return max(seen)


def _choice(probe: Probe, batch: Batch, other: Batch, total: str | None) -> tuple[str, ...]:
    found = probe.result(batch)
    if total is not None:
        if str(total) not in found:
            has = ", ".join(name for name in found if name)
            rule = (
                f"the result has {has}" if has else "the result is one number" if found else "the result has no numbers"
            )
            raise BadInput("total", total, rule, "leave total out" if found and not has else "name one of them")
        return (str(total),)
    if not found:
        raise Failed(f"returned {_kind_of(probe, batch)}, which is no number")
    if len(found) == 1:
        return tuple(found) if next(iter(found)) else ()
    data = probe.result(replace(batch, x=other.x, output=other.output, scale=other.scale))
    codes = probe.result(replace(batch, mu=other.mu, head=other.head))
    by_data = {n for n in found if n not in data or not np.array_equal(found[n], data[n])}
    by_codes = {n for n in found if n not in codes or not np.array_equal(found[n], codes[n])}
    both = [n for n in found if n in by_data & by_codes]
    named = sorted((n for n in found if n.lower() in TOTALS), key=lambda n: TOTALS.index(n.lower()))
    if both:
        return (([n for n in named if n in both] or both)[0],)
    if named:
        return (named[0],)
    halves = [[n for n in found if n in side][:1] for side in (by_data, by_codes)]
    return tuple(dict.fromkeys(n for half in halves for n in half)) or (next(iter(found)),)
