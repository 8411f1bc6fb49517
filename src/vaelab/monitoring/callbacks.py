"""The monitor as a callback of Lightning and of the Trainer of Hugging Face; each needs its package as an extra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import BadInput, MissingExtra, did_you_mean
from .tags import guess, maximised
from .trace import ROLES

if TYPE_CHECKING:
    from .monitor import Monitor

NUMBERS = frozenset({"loss", "reconstruction", "kl", "beta", "learning_rate", "gradient_norm"})
POSTERIOR = {
    "mu": ("mu", "mean", "z_mean", "mus", "loc", "z_mu", "latent_mean"),
    "log_var": ("log_var", "logvar", "log_variance", "z_log_var", "log_sigma2", "logvars"),
    "std": ("std", "sigma", "scale", "z_std"),
}


def lightning_callback(monitor: Monitor, names: Mapping[str, str] | None = None) -> Any:
    """A `lightning.pytorch` callback that tells the monitor of every training batch and every validation.

    It reads what the module logged, by names it guesses, and what `training_step` returns: a dict may hold `mu` and
    `log_var` beside `loss`.

    Args:
        monitor: Who is told.
        names: The logged name of a role, such as {"kl": "train/kld"}, where the guess is wrong.

    Raises:
        MissingExtra: if Lightning is not installed.
        BadInput: for an unknown role.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        raise MissingExtra("lightning", "lightning", "the callback for Lightning") from None
    chosen = _checked(names)

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen = _numbers(trainer.callback_metrics, chosen)
            seen |= {"learning_rate": trainer.optimizers[0].param_groups[0]["lr"]} if trainer.optimizers else {}
            seen |= _outputs(outputs, chosen)
            rows = batch[0] if isinstance(batch, list | tuple) and len(batch) else batch
            monitor.update(
                trainer.global_step, **seen, model=pl_module, batch=rows if isinstance(rows, Tensor) else None
            )

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                _tell_held_out(monitor, trainer.global_step, trainer.callback_metrics, chosen)

    return Watch()


def trainer_callback(monitor: Monitor, names: Mapping[str, str] | None = None) -> Any:
    """A `transformers.TrainerCallback` that tells the monitor of every step, and of what is logged and evaluated.

    A forward hook reads the model's output at every training step: a dict may hold `loss`, `kl`, `mu`, `log_var`, ....
    Where it holds no loss, the logged one is read.

    Args:
        monitor: Who is told.
        names: The logged or returned name of a role, such as {"kl": "latent"}, where the guess is wrong.

    Raises:
        MissingExtra: if Transformers is not installed.
        BadInput: for an unknown role.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise MissingExtra("transformers", "transformers", "the callback for the Trainer") from None
    chosen = _checked(names)

    class Watch(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self.seen: dict[str, Any] = {}
            self.rate: dict[str, Any] = {}
            self.hook: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.hook = model.register_forward_hook(self._returned)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.hook.remove()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if self.seen:
                monitor.update(state.global_step + 1, **self.rate, **self.seen, model=model)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            logs = {} if logs is None or "train_runtime" in logs else logs  # a summary of the whole run at its end
            found = _numbers(logs, chosen)
            self.rate = {role: value for role, value in found.items() if role == "learning_rate"} or self.rate
            if found and "loss" not in self.seen:
                monitor.update(state.global_step, **found)
            _tell_held_out(monitor, state.global_step, logs, chosen)

        def _returned(self, module: Any, inputs: Any, output: Any) -> None:
            if module.training and torch.is_grad_enabled():
                self.seen = _outputs(output, chosen)

    return Watch()


def _checked(names: Mapping[str, str] | None) -> Mapping[str, str]:
    for role in names or {}:
        if role not in ROLES:
            raise BadInput("names", role, "is no role of a number", did_you_mean(role, ROLES))
    return names or {}


def _named(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Values by role: as they are named, else as guessed, but for what is to be maximised."""
    guessed = {role: name for role, name in guess(map(str, found)).items() if not maximised(name)}
    return {role: found[name] for role, name in (guessed | dict(names)).items() if name in found}


def _numbers(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {role: value for role, value in _named(found, names).items() if role in NUMBERS}


def _outputs(outputs: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """What a step returned: the loss, or a mapping with numbers and the posterior; reconstructed rows are no number."""
    if isinstance(outputs, Tensor):
        return {"loss": outputs} if outputs.ndim == 0 else {}
    if not isinstance(outputs, Mapping):
        return {}
    small = {name: v for name, v in outputs.items() if isinstance(v, float) or (isinstance(v, Tensor) and v.ndim < 2)}
    wide = {name: v for name, v in outputs.items() if isinstance(v, Tensor) and v.ndim > 1}
    rows = {name: v for name, v in wide.items() if "kl" in name.lower()}  # `latent` and `prior` may well be samples
    found = {role: value for role, value in _named(rows, names).items() if role == "kl"} | _numbers(small, names)
    for argument, spellings in POSTERIOR.items():
        name = next((name for name in spellings if name in wide), None)
        found |= {argument: wide[name]} if name is not None else {}
    return found


def _tell_held_out(monitor: Monitor, step: int, found: Mapping[str, Any], names: Mapping[str, str]) -> None:
    numbers = {
        role.removeprefix("held_out_"): float(value)
        for role, value in _named(found, names).items()
        if role.startswith("held_out_")
    }
    if numbers:
        monitor.update(step, held_out=numbers)
