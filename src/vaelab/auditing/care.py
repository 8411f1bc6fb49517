"""Leaving no trace: time limits, random states, and everything that a stranger's callable may change."""

from __future__ import annotations

import copy
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from .frameworks import reached

ALONE = threading.RLock()  # one audit at a time in a process: random numbers and their sources are global
LARGE = 100_000  # entries of a module above which only its attributes are put back after every call
LIBRARIES = {"torch", "numpy", "jax", "jaxlib", "keras", "tensorflow", "builtins", "functools"}


class Failed(Exception):
    """The callable raised, returned no number, or did not return in time."""


class _Over(BaseException):
    """The time is over; no `except Exception` of the callable's stops it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `Failed` in the block when the time is over (where signals can be had: in the main thread).

    A timer that the user had set goes on afterwards with what is left of it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def over(*_: Any) -> None:
        raise _Over

    left, interval = signal.getitimer(signal.ITIMER_REAL)
    begin, before = time.monotonic(), signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)  # again and again, for a loop that catches everything
    try:
        yield
    except _Over:
        raise Failed(f"did not return within the time limit of {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begin), 1e-3), interval)


@contextmanager
def same_randomness() -> Iterator[None]:
    """A whole audit: alone in its process, gradients to be had, the global random states put back at the end."""
    torch = sys.modules.get("torch")
    with ALONE, torch.inference_mode(False) if torch else nullcontext():
        python, numpy = random.getstate(), np.random.get_state()
        cpu = torch.get_rng_state() if torch else None
        cuda = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_available() else []
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            if torch and cpu is not None:
                torch.set_rng_state(cpu)
            if torch and cuda:
                torch.cuda.set_rng_state_all(cuda)


class Kept:
    """What a callable reaches through its object, closures and global names, to be put back as it was.

    Numbers bound to names, lists, dictionaries, attributes of objects, arrays, tensors and PyTorch modules; libraries
    are left alone.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        items = reached(fn)
        torch = sys.modules.get("torch")
        self._modules = [_snapshot(item) for item in items if torch and isinstance(item, torch.nn.Module)]
        self._names = [entry for item in items for entry in _bindings(item)]
        own = [item for item in items if _is_own(item) and not (torch and isinstance(item, torch.nn.Module))]
        holders = [vars(item) for item in own if hasattr(item, "__dict__")]
        containers = [item for item in items if isinstance(item, list | dict | set)]
        containers += [value for holder in holders for value in holder.values() if isinstance(value, list | dict | set)]
        self._containers = [(item, copy.copy(item)) for item in [*holders, *containers]]
        values = [
            *items,
            *(v for item, _ in self._containers for v in (item.values() if isinstance(item, dict) else item)),
        ]
        self._arrays = [(v, v.copy()) for v in values if isinstance(v, np.ndarray)]
        self._tensors = [
            (v, v.detach().clone(), v.grad) for v in values if torch and type(v) is torch.Tensor and v.is_leaf
        ]

    def restore(self, whole: bool = False) -> None:
        """Puts everything back; the values of large modules only at the end, when the whole is asked for."""
        for space, name, value in self._names:
            _bind(space, name, value)
        for item, content in self._containers:
            if isinstance(item, list):
                item[:] = content
            else:
                item.clear()
                item.update(content)
        for array, entries in self._arrays:
            if array.flags.writeable:
                array[...] = entries
        for tensor, entries, gradient in self._tensors:
            tensor.data.copy_(entries)
            tensor.grad = gradient
        for snapshot, large in self._modules:
            snapshot.restore_attributes() if large and not whole else snapshot.restore()


def _snapshot(module: Any) -> tuple[Any, bool]:
    from .models.sandbox import Snapshot

    return Snapshot(module), sum(p.numel() for p in module.parameters()) > LARGE


def _is_own(item: Any) -> bool:
    """Whether an object may hold state of the user's."""
    if isinstance(item, ModuleType | type | FunctionType) or not hasattr(item, "__dict__"):
        return False
    return str(type(item).__module__).split(".")[0] not in LIBRARIES


def _bindings(item: Any) -> list[tuple[Any, Any, Any]]:
    """Numbers and the like that a function's global names and closures are bound to."""
    plain = getattr(item, "__func__", item)
    if not isinstance(plain, FunctionType):
        return []
    space = plain.__globals__
    named = [(space, name, space[name]) for name in plain.__code__.co_names if name in space]
    cells = [(cell, None, cell.cell_contents) for cell in plain.__closure__ or () if _filled(cell)]
    return [entry for entry in (*named, *cells) if not callable(entry[2]) and not isinstance(entry[2], ModuleType)]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _bind(space: Any, name: str | None, value: Any) -> None:
    if name is None:
        space.cell_contents = value
    else:
        space[name] = value


def _is_python_object(fn: Any) -> bool:
    """Whether a callable is an object of a class with a call written in Python, such as a module; no function."""
    return any(isinstance(vars(kind).get("__call__"), FunctionType) for kind in type(fn).__mro__)


def detached(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method on a copy of its object, so that nothing reaches the user's; other callables as they are."""
    owner = getattr(fn, "__self__", None)
    if owner is None and not isinstance(fn, type) and _is_python_object(fn):
        try:
            return copy.deepcopy(fn)  # an object that is called, such as a module
        except Exception:  # as below
            return fn
    if owner is None or isinstance(owner, type) or not hasattr(fn, "__func__"):
        return fn
    try:
        return fn.__func__.__get__(copy.deepcopy(owner))
    except Exception:  # whatever a stranger's object raises when it is copied; its state is put back after each call
        return fn
