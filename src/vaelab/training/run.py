"""`Run`: a trained model with everything around it, read from its folder alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.config import Config
from ..core.durable import load_folder
from ..core.errors import BadInput, Corrupt, whole
from ..core.finding import Finding
from ..core.seeds import generator, seed_global
from ..core.units import readable_bytes
from ..data.spec import Spec
from ..distributions.likelihoods import Decoder
from ..distributions.normal import Distribution
from ..measure.paths import axis_walk, latent_path
from ..models.build import build_model
from ..monitoring.causes import explained
from .checkpoint import Checkpoints, load_weights
from .folder import RunFolder, as_findings, existing_folder

CHUNK = 1024
MOST_VALUES = 2**33  # entries returned at once: 32 GiB


class Run:
    """A run folder: the selected weights, the numbers and the findings.

    Rows go in and come out on the data's own scale and in its own layout, as NumPy arrays.

    Args:
        folder: What `vaelab train` made.
        model: The model, for a run of a model of your own, which a folder cannot hold.

    Raises:
        BadInput: if the folder holds no run, or one of a model of your own and none is given.
        Corrupt: if a file does not match its digest.
    """

    def __init__(self, folder: str | os.PathLike[str], model: nn.Module | None = None) -> None:
        self.folder = existing_folder(folder)
        self._files = RunFolder(self.folder, writes=False)
        self.config: Config = self._files.config()
        self.environment: dict[str, Any] = self._files.environment()
        self.history: list[dict[str, Any]] = self._files.metrics()
        try:
            files = load_folder(self.folder / "data")
            self.spec, self.preview, self.preview_labels, self.training_preview = Spec.from_files(files)
        except (KeyError, ValueError, TypeError) as error:
            raise Corrupt(f"{self.folder / 'data'}: cannot be read back ({error})") from None
        self._given = model

    @cached_property
    def diagnosis(self) -> dict[str, Any]:
        """The numbers and findings of the last diagnosis of these weights; empty where there is none."""
        return self._of_these_weights("diagnosis")

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """What the last `vaelab evaluate` of these weights found; empty where there is none."""
        kept = self._of_these_weights("evaluation")
        try:
            numbers = [one for group in kept.get("numbers", {}).values() for one in group.values()]
            sound = all({"value", "interval", "unit"} <= one.keys() for one in numbers)
            sound &= isinstance(kept.get("facts", {}), dict) and isinstance(kept.get("findings", []), list)
        except AttributeError:
            sound = False
        if not sound:
            raise Corrupt(f"{self.folder / 'evaluation.json'}: no evaluation; remove it, and evaluate again")
        return kept

    def _of_these_weights(self, name: str) -> dict[str, Any]:
        kept = self._files.kept(name)
        return kept if kept and kept.get("step") == self.metrics.get("step") else {}

    @property
    def findings(self) -> list[Finding]:
        """All findings, those of a diagnosis included where one was made, the cause first."""
        found = as_findings(self.diagnosis.get("findings", ()), self.folder / "diagnosis.json")
        return explained([*self._files.findings(), *found])

    @property
    def lacks_model(self) -> bool:
        """Whether this run trained a model of the user's own, which was not passed."""
        return bool(self.environment.get("own_model")) and self._given is None

    @property
    def is_finished(self) -> bool:
        """Whether training came to its end with a model to look at."""
        return bool(self.metrics) and any(finding.code == "TR100" for finding in self.findings)

    def keep_diagnosis(self, diagnosis: dict[str, Any]) -> None:
        """Keeps the numbers and findings of a diagnosis in the folder; one that cannot be written to is left alone."""
        self.diagnosis = self._keep("diagnosis", diagnosis)

    def keep_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Keeps what was found by an evaluation likewise."""
        self.evaluation = self._keep("evaluation", evaluation)

    def _keep(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        marked = {"step": self.metrics.get("step"), **found}
        if os.access(self.folder, os.W_OK):
            RunFolder(self.folder).keep(name, marked)
        return marked

    @cached_property
    def _selected(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return Checkpoints(self.folder / "checkpoints").load_best()

    @property
    def metrics(self) -> dict[str, Any]:
        """Held-out numbers of the selected weights, nats per sample on the data's own scale; {} before the first.

        Keys: `step`, `samples` (posterior samples a row), and those of `vaelab.measure.bound.BoundSums.compute`.
        """
        return self._selected[1] if list((self.folder / "checkpoints").glob("best-*")) else {}

    @cached_property
    def model(self) -> Any:
        """The model with the selected weights, in evaluation mode on the CPU."""
        if self.lacks_model:
            raise BadInput(
                "model", None, "this run trained a model of your own", "pass it: vaelab.load(folder, model=...)"
            )
        model = self._given or build_model(self.config, self.spec.facts)
        decoder = getattr(model, "decoder", None)
        if isinstance(decoder, Decoder):
            decoder.shape = decoder.shape or self.spec.shape
        try:
            load_weights(model, self._selected[0], self.folder / "checkpoints")
        except Corrupt as error:
            if self._given is None:
                raise
            raise BadInput("model", None, "is not the one that was trained here", str(error)) from None
        return model.cpu().eval()

    @property
    def latent(self) -> int:
        """Latent dimensions."""
        return int(self.model.latent)

    # Uses: rows in and out on the data's own scale ------------------------------------------------------------------

    @torch.no_grad()
    def _encoded(self, x: Any, read: Callable[[Distribution], Tensor]) -> np.ndarray:
        """A number of q(z|x) for rows x [n, ...], in chunks."""
        return torch.cat([read(self.model.encode(part)) for part in self.spec.to_model(x).split(CHUNK)]).numpy()

    def posterior(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of q(z|x), each [n, L], for rows x [n, ...]."""
        return self._encoded(x, lambda q: q.mean), self._encoded(x, lambda q: q.variance.sqrt())

    def embed(self, x: Any, sample: bool = False, seed: int = 0) -> np.ndarray:
        """Latent codes [n, L] of rows x [n, ...]: posterior means, or one draw of q(z|x) each."""
        if not sample:
            return self._encoded(x, lambda q: q.mean)
        with torch.random.fork_rng(devices=[]):
            seed_global(seed, "embed")
            return self._encoded(x, lambda q: q.rsample(1)[0])

    @torch.no_grad()
    def decode(self, z: Any, noisy: bool = False, seed: int = 0) -> np.ndarray:
        """Rows [n, ...] of latent codes z [n, L]: means of p(x|z), or one draw each."""
        codes = torch.as_tensor(np.asarray(z, dtype=np.float32))
        if codes.ndim != 2 or codes.shape[1] != self.latent:
            raise BadInput("z", f"shape {tuple(codes.shape)}", f"codes have the shape (n, {self.latent})")
        coins = generator(seed, "decode")
        parts = [self.model.decode(part[None]) for part in codes.split(CHUNK)]
        return self.spec.to_user(torch.cat([(p.sample(coins) if noisy else p.mean)[0] for p in parts]))

    def reconstruct(self, x: Any) -> np.ndarray:
        """Rows like x: means of p(x|z) at the posterior means."""
        return self.decode(self.embed(x))

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, noisy: bool = False) -> np.ndarray:
        """`count` rows from the prior: means of p(x|z) for z ~ p(z), or draws from p(x|z) where `noisy`."""
        whole("count", count)
        if count * int(np.prod(self.spec.shape)) > MOST_VALUES:
            size = readable_bytes(4 * count * int(np.prod(self.spec.shape)))
            raise BadInput("count", count, f"that many rows take {size}", "draw fewer at a time, with several seeds")
        z = self.model.prior_distribution().sample(count, generator(seed, "sample"))
        return self.decode(z.numpy(), noisy, seed)

    def interpolate(self, a: Any, b: Any, steps: int = 15, path: str = "linear") -> np.ndarray:
        """`steps` rows from a to b, both included: means along a path between their posterior means.

        Args:
            a: One row; b: another.
            path: "linear" or "spherical".
        """
        start, end = self.embed(np.stack([np.asarray(a), np.asarray(b)]))
        return self.decode(latent_path(start, end, steps, path))

    def traverse(
        self, row: Any = None, dimensions: Sequence[int] | None = None, steps: int = 11, span: float = 3.0
    ) -> np.ndarray:
        """Decoded walks along single latent dimensions, all others held fast, [len(dimensions), steps, ...].

        Each dimension in turn runs from -span to span, in standard deviations of the prior, while the others stay at
        the posterior mean of `row`. Reference: Higgins et al., beta-VAE, 2017.

        Args:
            row: A row on the data's own scale; None walks around the mean of the prior.
            dimensions: The dimensions, counted from 1 as in the report; None walks along all.
            steps: Rows along each dimension, at least 2.
            span: Half-width of the walk.

        Raises:
            BadInput: for a dimension the model does not have, or fewer than 2 steps.
        """
        chosen = range(1, self.latent + 1) if dimensions is None else dimensions
        for dimension in chosen:
            if not 1 <= dimension <= self.latent:
                raise BadInput("dimension", dimension, f"the model has the latent dimensions 1 to {self.latent}")
        base = np.zeros(self.latent, np.float32) if row is None else self.embed(np.asarray(row)[None])[0]
        codes = axis_walk(base, [dimension - 1 for dimension in chosen], steps, span)
        decoded = self.decode(codes.reshape(-1, self.latent))
        return decoded.reshape(len(chosen), steps, *decoded.shape[1:])

    def __repr__(self) -> str:
        found = self.metrics.get("negative_elbo")
        bound = f", held-out negative ELBO {found:.3f} nats per sample" if found is not None else ""
        return f"Run({str(self.folder)!r}{bound})"
