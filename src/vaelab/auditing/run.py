"""`vaelab.audit`: one entry for a loss and for a whole model, and finding either by name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import BadInput, did_you_mean, one_line
from ..core.tables import pick
from .loss import audit_loss
from .report import AuditReport
from .roles import guess


def audit(
    subject: Any,
    *,
    inputs: str | None = None,
    constants: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Any] | None = None,
    declared_beta: float | None = None,
    family: str | None = None,
    framework: str | None = None,
    total: str | None = None,
    data: Any = None,
    loss: Callable[..., Any] | None = None,
    optimizer: Any = None,
    kind: str = "loss",
    seconds: float = 20.0,
) -> AuditReport:
    r"""What a loss or a model really minimises, in nats, measured from outside: no source is read, nothing is trained.

    For :math:`L = (1/B) \sum_i (a R_i + b KL_i) + const`, with R_i the negative log-likelihood and KL_i the divergence
    of sample i, effective beta is b / a. Squared and absolute errors leave beta and the noise scale undecided, so both
    readings are given.

    Args:
        subject: A loss (any callable on PyTorch, NumPy, JAX, TensorFlow or Keras tensors), or a whole model.
        inputs: Roles in the callable's order where its parameter names do not tell: `x`, `output`, `mu`, `head`, `z`,
            and `scale` for a decoder's second output; parentheses group one argument: "(output mu head) x".
        constants: Values of further parameters by name; one named beta declares the weight of the divergence.
        sizes: `batch`, `pixels`, `latents`, `classes` of the made-up inputs; numbers, or for pixels and latents the
            shape of one row. Effective beta is stated there. Default: 6, 12, 4, 5.
        declared_beta: The weight that is meant; default: a constant named beta, else 1.
        family: Kind of data where it cannot be told: "categorical" (integer x [B, P], output [B, P, V] or [B, V, P]),
            "counts", "bernoulli", "gaussian".
        framework: "torch", "numpy", "jax", "tensorflow" or "keras" where it cannot be told.
        total: Which part of a structured result is the loss, by key, field or position.
        data: A batch of the user's own, for a model, or to look at its range for a loss.
        loss: For a model that returns no loss: the callable that its output is fed to.
        optimizer: For a model: its optimiser, or several, to see whether a parameter is left out.
        kind: "loss" (a loss or a model), "likelihood" (an estimator of log p(x), held against models whose log p(x) is
            known) or "importance" (an importance-weighted objective).
        seconds: Time limit of a single call.

    Returns:
        The report; `print` it, or read `effective_beta`, `findings`, `verdict`.

    Raises:
        BadInput: where the subject cannot be called, with what it said and what to add.

    Example:
        >>> import torch
        >>> def vae_loss(x, x_hat, mu, log_var):
        ...     reconstruction = torch.nn.functional.mse_loss(x_hat, x)
        ...     return reconstruction - 0.5 * torch.mean(1 + log_var - mu**2 - log_var.exp())
        >>> report = audit(vae_loss, sizes={"pixels": 784, "latents": 32})
        >>> round(report.effective_beta, 4), [f.code for f in report.findings if f.severity == "error"]
        (12.25, ['RE001', 'KL003'])
    """
    if pick({"loss": False, "likelihood": True, "importance": True}, kind, "kind"):
        return _audit_bound(kind, subject, inputs, constants)
    if _is_model(subject):
        from .models.model import audit_model

        return audit_model(
            subject,
            data=data,
            loss=loss,
            inputs=inputs,
            constants=constants,
            declared_beta=declared_beta,
            optimizer=optimizer,
        )
    if isinstance(subject, type) and {"forward", "__call__"} & set(dir(subject)):
        subject = _instance(subject)
    if not callable(subject):
        raise BadInput("subject", type(subject).__name__, "must be a loss (a callable) or a model")
    return audit_loss(
        subject,
        inputs=inputs,
        constants=constants,
        sizes=sizes,
        declared_beta=declared_beta,
        family=family,
        framework=framework,
        total=total,
        data=data,
        seconds=seconds,
    )


def _audit_bound(kind: str, subject: Any, inputs: str | None, constants: Mapping[str, Any] | None) -> AuditReport:
    if kind == "likelihood":
        from .estimators.estimator import audit_likelihood

        return audit_likelihood(subject, inputs=inputs, constants=constants)
    from .estimators.importance import audit_importance

    return audit_importance(subject, inputs=inputs, constants=constants)


def _is_model(subject: Any) -> bool:
    """Whether a subject is a model, or a class of them, of PyTorch or Keras."""
    kinds = (subject if isinstance(subject, type) else type(subject)).__mro__
    names = {f"{kind.__module__}.{kind.__name__}" for kind in kinds}
    torch = "torch.nn.modules.module.Module" in names
    keras = any(name.startswith("keras") and name.endswith(".Model") for name in names)
    plain_loss = any(name.startswith("torch.nn.modules.loss") for name in names)
    return (torch and not _is_loss_module(subject) and not plain_loss) or keras


def _is_loss_module(subject: Any) -> bool:
    """Whether forward takes data, output and a mean: a module that is a loss."""
    forward = getattr(subject, "forward", None)
    try:
        names = list(inspect.signature(forward).parameters) if forward is not None else []
    except (TypeError, ValueError):
        return False
    return {"x", "output", "mu"} <= {guess(name) for name in names}


def find(target: str) -> tuple[Any, str | None, int]:
    """The object that `file.py:name` or `package.module:name` names, with its source file and line.

    Raises:
        BadInput: where the file, the module or the name is not there, or importing it fails.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise BadInput("target", target, "must be file.py:name or package.module:name")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = (
                [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
                if hasattr(found, "__dict__")
                else []
            )
            raise BadInput("target", target, f"{place} has no {part}", did_you_mean(part, known))
        method = isinstance(found, type) and inspect.isfunction(inspect.getattr_static(found, part))
        found = getattr(_instance(found) if method else found, part)
    return found, *_source(found)


def _instance(kind: type) -> Any:
    """An object of a class whose method is to be audited."""
    if _is_model(kind):
        from .models.sandbox import constructed

        return constructed(kind)
    try:
        return kind()
    except Exception as error:  # a stranger's class may ask for anything
        told = f"constructing it raised {type(error).__name__}: {one_line(str(error))[:200]}"
        fix = "make the object in your file, loss = MyLoss(...).method, and name that: file.py:loss"
        raise BadInput("target", kind.__name__, told, fix) from error


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise BadInput("target", path, "there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
    except Exception as error:  # a stranger's file may raise anything while it is imported
        raise BadInput(
            "target", path, f"importing it raised {type(error).__name__}: {one_line(str(error))[:300]}"
        ) from error
    finally:
        sys.path.pop(0)
    return module


def _load_module(name: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        fix = "install it, or give the path of a file" if name.startswith(missing) else f"pip install {missing}"
        raise BadInput("target", name, f"no module named {missing}", fix) from error
    except Exception as error:  # as above
        raise BadInput(
            "target", name, f"importing it raised {type(error).__name__}: {one_line(str(error))[:300]}"
        ) from error
    finally:
        sys.path.pop(0)


def _source(found: Any) -> tuple[str | None, int]:
    try:
        return inspect.getsourcefile(inspect.unwrap(found)), inspect.getsourcelines(inspect.unwrap(found))[1]
    except (TypeError, OSError):
        return None, 1
