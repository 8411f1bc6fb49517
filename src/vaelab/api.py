"""The calls most users need: `train`, `train_many` and `load`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .core.config import Config, build_config
from .core.errors import BadInput, Diverged
from .core.files import read_yaml
from .health import diagnose
from .objectives.base import Objective
from .recipes import recipe as find_recipe
from .training.fit import fit
from .training.fit import resume as resume_fit
from .training.folder import new_folder
from .training.many import fit_many, variations
from .training.run import Run

Settings = Config | Mapping[str, Any] | str | os.PathLike[str]


def train(
    x: Any = None,
    *,
    out: str | os.PathLike[str] | None = None,
    config: Settings | None = None,
    model: nn.Module | None = None,
    objective: Objective | None = None,
    recipe: str | None = None,
    resume: str | os.PathLike[str] | None = None,
    on_nan: str | None = None,
    on_collapse: str | None = None,
    progress: bool = True,
) -> Run:
    """Trains a VAE and returns the run.

    Args:
        x: An array or tensor [n, ...], a pair of rows and labels, a PyTorch dataset or loader, a path to a .npz, .npy
            or .csv file or to a folder of images, or a name (`digits`, `mnist`, `shapes`); None: what
            `data.source` or the recipe names.
        out: A new folder for the run; None: one under `runs/`.
        config: Settings: a nested dict, a YAML file, or a `Config`; None: the defaults.
        model: A model of your own, such as `vaelab.VAE(...)`; None: the one the settings describe.
        objective: An objective of your own, such as `vaelab.ELBO(beta=4.0)`.
        recipe: Settings by name, under those of `config`.
        resume: A run folder to continue; then `x` is needed only if the run was given an object.
        on_nan: What a loss or gradient that is not finite does, `train.on_nan`: "stop", "skip" or "rollback".
        on_collapse: What a posterior without information does, `train.on_collapse`: "none" or "anneal".
        progress: Show progress on standard error.

    Raises:
        BadInput: for data or settings that break a rule; nothing has been written then.
        Diverged: if a loss or gradient was not finite and `train.on_nan` says stop.
        Corrupt: if a run to be resumed has no whole checkpoint.
        InUse: if another process trains in the folder.
        NoSpace: if the folder cannot be written.

    Example:
        >>> import numpy as np, tempfile
        >>> rows = np.random.default_rng(0).normal(size=(200, 5))
        >>> run = train(rows, out=tempfile.mkdtemp(), config={"train": {"steps": 50}}, progress=False)
        >>> run.embed(rows).shape
        (200, 2)
    """
    given = _with_remedies(_plain(config), on_nan=on_nan, on_collapse=on_collapse)
    try:
        if resume is not None:
            run = _resume(resume, x, out, given, recipe, model, objective, progress)
        else:
            x, settings = _settled(x, given, recipe)
            run = fit(x, settings, out=out, model=model, objective=objective, progress=progress)
    except Diverged as error:
        if error.folder is not None:
            _write_page(Run(error.folder, model))
        raise
    _write_page(run, progress)
    return run


def train_many(
    x: Any = None,
    seeds: int | Sequence[int] = 8,
    betas: Sequence[float] | None = None,
    *,
    config: Settings | None = None,
    recipe: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> list[Run]:
    """Trains the model that settings describe from several seeds at once, and with several weights beta.

    All models are computed together, as one batch of models; each sees the rows and the noise that its own seed says,
    and ends with the weights of a run alone up to rounding. A run that meets a number that is not finite is refused
    the step, or stops, and the others go on.

    Args:
        x: As for `train`.
        seeds: How many, from that of the settings on, or which.
        betas: Weights of the divergence, each trained from every seed; None: that of the settings.
        config, recipe: As for `train`.
        out: A new folder, which gets a run folder for each; None: one under `runs/`.
        progress: Show progress on standard error.

    Returns:
        The runs, by beta and then by seed. Each is a run like any other; `vaelab.write_report` makes its page.

    Raises:
        BadInput: for data or settings that break a rule, or do not go into a stack of models; nothing has been written.
        Diverged: where a run stopped at a number that is not finite, once the others are finished.

    Example:
        >>> import numpy as np, tempfile
        >>> rows = np.random.default_rng(0).normal(size=(200, 5))
        >>> out = tempfile.mkdtemp()
        >>> runs = train_many(rows, seeds=3, out=out, config={"train": {"steps": 20}}, progress=False)
        >>> [run.folder.name for run in runs]
        ['seed-0', 'seed-1', 'seed-2']
    """
    x, settings = _settled(x, _plain(config), recipe)
    folder = new_folder(out, f"{x if isinstance(x, str | os.PathLike) else 'array'}-many")
    return fit_many(x, variations(settings, seeds, betas, folder), progress=progress)


def _settled(x: Any, given: Mapping[str, Any], recipe: str | None) -> tuple[Any, Config]:
    """What to train on, and the settings with those of a recipe beneath them."""
    named = find_recipe(recipe) if recipe else None
    settings = build_config(dict(named.settings) | {"recipe": recipe} if named else {}, given)
    if x is None:
        x = settings.data.source or (named.data if named else None)
    if x is None:
        fix = f"name {named.wants if named and named.wants else 'a file, a folder, digits, mnist or shapes'}"
        raise BadInput("x", None, "there is nothing to train on", fix)
    return x, settings


def _write_page(run: Run, progress: bool = False) -> None:
    """The diagnosis of a run that has a model to look at, and the page."""
    if run.config.report.html and _is_main():
        if progress:
            print("looking at the model and drawing its page", file=sys.stderr, flush=True)
        from .report.page import write_report  # the plotting library takes half a second to import

        if run.is_finished:
            diagnose(run)
        write_report(run)


def load(folder: str | os.PathLike[str], model: nn.Module | None = None) -> Run:
    """The run in a folder.

    Args:
        model: The model, for a run of a model of your own.

    Raises:
        BadInput: if the folder holds no run.
        Corrupt: if a file does not match its digest.
    """
    return Run(folder, model)


def _resume(path: Any, x: Any, out: Any, config: Any, recipe: Any, model: Any, objective: Any, progress: bool) -> Run:
    for name, given in (("out", out), ("recipe", recipe)):
        if given is not None:
            raise BadInput(name, given, "a resumed run keeps its folder and settings", f"leave {name} out")
    return resume_fit(path, config, x=x, model=model, objective=objective, progress=progress)


def _plain(config: Settings | None) -> Mapping[str, Any]:
    """Settings as a nested mapping of what was really set, so that they can be laid over others."""
    if config is None:
        return {}
    if isinstance(config, Config):
        return config.model_dump(exclude_unset=True)
    return config if isinstance(config, Mapping) else read_yaml(Path(config))


def _with_remedies(given: Mapping[str, Any], **remedies: str | None) -> Mapping[str, Any]:
    """Settings with the remedies that were passed beside them; what is said twice has to be the same."""
    chosen = {name: remedy for name, remedy in remedies.items() if remedy is not None}
    train = given.get("train", {})
    if not chosen or not isinstance(train, Mapping):
        return given
    for name, remedy in chosen.items():
        if train.get(name, remedy) != remedy:
            raise BadInput(name, remedy, f"the config says train.{name}={train[name]}", "say one of them")
    return {**given, "train": {**train, **chosen}}


def _is_main() -> bool:
    return int(os.environ.get("RANK", 0)) == 0
