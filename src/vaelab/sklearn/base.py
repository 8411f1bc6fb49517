"""What all estimators share: reading rows as scikit-learn does, training, and keeping runs in memory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..api import train, train_many
from ..core.config import merged
from ..core.errors import BadInput
from ..training.run import Run
from ..training.stackable import NoStack

NEEDED = ("config.yaml", "environment.json", "metrics.jsonl", "findings.jsonl", "data/*", "checkpoints/best-*/*")


class KeptRun:
    """A run without its folder: the files that using it takes, so that an estimator can be pickled and copied.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        found = [path for pattern in NEEDED for path in sorted(folder.glob(pattern))]
        self.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        """The run, in a temporary folder that lasts as long as this object."""
        if self._run is None:
            folder = Path(tempfile.mkdtemp(prefix="vaelab-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            for name, content in self.files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._run = Run(folder)
        return self._run

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "_run": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__getstate__())
        return copied


class VAEEstimator(BaseEstimator):
    """Base of the estimators.

    Args:
        latent: Latent dimensions; None: from the number of columns.
        steps: Of training; None: from the number of rows.
        config: Further settings, as `vaelab.train` takes them, which go before the estimator's own.
        random_state: Seed of everything that is drawn.
        verbose: Show progress on standard error.

    Attributes:
        run_: The run that was trained, a `vaelab.Run`: evaluate it, diagnose it, or write its report.
        n_features_in_: Columns.
        feature_names_in_: Their names, where the rows came in a data frame.
    """

    def __init__(
        self,
        *,
        latent: int | None = None,
        steps: int | None = None,
        config: Mapping[str, Any] | None = None,
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.latent = latent
        self.steps = steps
        self.config = config
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    @property
    def run_(self) -> Run:
        """The run that was trained; of several, the first."""
        check_is_fitted(self, "runs_")
        return self.runs_[0].run

    def _settings(self) -> dict[str, Any]:
        """The estimator's own settings, over the defaults of `vaelab.train`."""
        return {}

    def _seed(self) -> int:
        """A seed from `random_state`: a whole number is one itself."""
        given = self.random_state
        return int(given) if isinstance(given, Integral) else int(check_random_state(given).randint(2**31))

    def _fit_runs(self, rows: Any, members: int = 1, **further: Any) -> Self:
        """Trains on rows that `_read` gave, and keeps the runs."""
        self.runs_ = self._trained(rows, members, **further)
        return self

    def _trained(self, rows: Any, members: int = 1, **further: Any) -> list[KeptRun]:
        """Runs on rows that `_read` gave; several members from consecutive seeds, as one batch if they can."""
        seed = self._seed()
        own = {"model": {"latent": self.latent}, "train": {"steps": self.steps}}
        own = {section: {k: v for k, v in part.items() if v is not None} for section, part in own.items()}
        settings = merged(self._settings(), further, own, self.config or {}, {"seed": seed, "report": {"html": False}})
        with tempfile.TemporaryDirectory(prefix="vaelab-") as folder:
            told: dict[str, Any] = {"out": Path(folder) / "run", "progress": bool(self.verbose)}
            with contextlib.suppress(NoStack):  # such as with dropout; then one after the other
                if members > 1:
                    return [KeptRun(run.folder) for run in train_many(rows, members, config=settings, **told)]
            kept = []
            for number in range(members):
                told["out"] = Path(folder) / f"run-{number}"
                kept.append(KeptRun(train(rows, config=settings | {"seed": seed + number}, **told).folder))
            return kept

    def _read(self, X: Any, fitting: bool = False, least: int = 1) -> Any:
        """Rows as numbers [n, D], or the data frame itself where it has columns that are no numbers.

        Raises:
            ValueError, TypeError: as scikit-learn's own estimators do.
        """
        if not fitting:
            check_is_fitted(self, "runs_")
        frame = hasattr(X, "columns") and hasattr(X, "iloc")
        if frame and not X.columns.is_unique:
            twins = X.columns[X.columns.duplicated()]
            raise BadInput("X", f"several columns called {twins[0]!r}", "columns need names of their own", "rename one")
        worded = frame and any(kind.kind not in "iuf" for kind in X.dtypes)
        if fitting:
            self._worded, self._columns = worded, X.columns if frame else None
        elif self._worded and not hasattr(X, "dtypes"):
            raise BadInput(
                "X", type(X).__name__, "this estimator was fitted on a data frame with words in it", "a frame"
            )
        if worded and (dates := [str(name) for name, kind in X.dtypes.items() if kind.kind in "mM"]):
            raise BadInput(
                "X",
                f"dates in column {dates[0]}",
                "columns hold numbers, words or truth values",
                "make it days since one",
            )
        if worded or self._worded:
            validate_data(self, X, reset=fitting, skip_check_array=True)
            if len(X) < least:
                raise BadInput("X", f"{len(X)} rows", f"must have at least {least}")
            return X
        return validate_data(
            self,
            X,
            reset=fitting,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
            ensure_min_samples=least,
        )
