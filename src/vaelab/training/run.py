"""`Run`: a trained model with everything around it, read from its folder alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..core.batch import Batch, rows_of
from ..core.config import Config
from ..core.durable import load_folder
from ..core.errors import BadInput, Corrupt, whole
from ..core.finding import Finding
from ..core.seeds import generator, seed_global
from ..core.units import readable_bytes
from ..data.sparse import SparseRows
from ..data.spec import Spec, conditions_from
from ..distributions.labelled import LabelledPrior, every_label
from ..distributions.likelihoods import LIKELIHOODS, Decoder
from ..distributions.normal import Distribution, StandardNormal
from ..measure.bound import selected_by
from ..measure.latent import centre_of
from ..measure.paths import axis_walk, latent_path
from ..models.build import build_model
from ..models.vae import prior_codes
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
            self.spec, self._preview, self.preview_labels, self.training_preview = Spec.from_files(files)
            self._conditions = conditions_from(files)
        except (KeyError, ValueError, TypeError, SafetensorError) as error:
            raise Corrupt(f"{self.folder / 'data'}: cannot be read back ({error})") from None
        self._given = model

    @property
    def keeps_rows(self) -> bool:
        """Whether the folder holds rows of the data to look at; one that was exported may go without."""
        return len(self._preview) > 0

    @cached_property
    def preview(self) -> np.ndarray:
        """Held-out rows on the data's own scale, [n, *shape].

        Raises:
            BadInput: for an exported folder without them.
        """
        if not self.keeps_rows:
            rule = "holds no rows of its data, which were left out when it was exported"
            raise BadInput("run", self.folder, rule, "name a file of rows where the command takes one")
        return self._preview

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
    def is_mass(self) -> bool:
        """Whether the likelihood is a mass over values that can be counted, so that its bound is a code length."""
        if self.spec.mixed:
            return all(column.kind != "number" for column in self.spec.mixed)
        kind = LIKELIHOODS.get(self.config.likelihood.name)
        return bool(kind and kind.discrete)

    @property
    def has_bound(self) -> bool:
        """Whether there is a bound on log p(x): codes without noise have none."""
        return bool(self.metrics.get("is_bound", True))

    @property
    def latent(self) -> int:
        """Latent dimensions."""
        return int(self.model.latent)

    # What is given beside rows ------------------------------------------------------------------------------------

    @property
    def conditions(self) -> tuple[Tensor | None, Tensor | None]:
        """What is given beside the rows of `preview` and of `training_preview`, as the model reads it, [n, C] each.

        None where nothing is, and where the model can do without.
        """
        return (None, None) if self._conditions is None or self.model.guesses else self._conditions

    @property
    def preview_condition(self) -> np.ndarray | None:
        """What is given beside the rows of `preview`, in the data's own words: names of labels, [n], or numbers."""
        condition, _ = self.conditions
        return None if condition is None else self.spec.conditioning.decode(condition)

    @property
    def training_condition(self) -> np.ndarray | None:
        """The same of the rows of `training_preview`."""
        _, condition = self.conditions
        return None if condition is None else self.spec.conditioning.decode(condition)

    def given(self, condition: Any, rows: int, *parts: str) -> tuple[Tensor, ...]:
        """A condition in the data's own words as a further argument of the model: `(c,)`, c [rows, C], or `()`.

        Args:
            condition: One for all rows, or one each; see `vaelab.data.conditions.Conditioning.encode`.
            rows: How many there are.
            parts: Those that are about to be asked: None is refused where one of them reads the condition.

        Raises:
            BadInput: for one that is missing, does not fit, or that the model does not read.
        """
        names = self.spec.condition
        if condition is None:
            reads = set(getattr(self.model, "conditioned", ())) & set(parts)
            if not reads or self.model.guesses:
                return ()
            rule = f"the {' and the '.join(sorted(reads))} of this run read what is given beside a row"
            raise BadInput("condition", None, rule, f"give {self._one_of}: --condition, or condition= in Python")
        if not names:
            raise BadInput("condition", condition, "this run reads nothing beside a row", "leave it out")
        read = self.spec.conditioning.encode(condition, rows)
        if not self._guesses and read.isnan().any():
            row = int(read.isnan().any(1).nonzero()[0])
            raise BadInput("condition", f"no label in row {row}", "must be known: this model tells none", self._one_of)
        return (read,)

    @property
    def _one_of(self) -> str:
        """What a condition can be, in words."""
        names = self.spec.condition
        if not self.spec.classes:
            return "one number a row" if len(names) == 1 else f"{len(names)} numbers a row"
        return f"one of {', '.join(names[:12])}"

    def batch(self, x: Any, condition: Any = None, *parts: str) -> Tensor | Batch:
        """Rows x [n, ...], and their conditions, as the model takes them; `parts` as of `given`, the encoder anyway."""
        y = self.spec.to_model(x)
        given = self.given(condition, len(y), "encoder", *parts)
        return Batch(y, *given) if given else y

    def classify(self, x: Any) -> np.ndarray:
        """Probabilities q(y|x) of the labels, [n, classes] in the order of `spec.condition`, for rows x [n, ...].

        Raises:
            BadInput: for a run whose model has no classifier.
        """
        if not callable(getattr(self.model, "classify", None)):
            fix = "train with data.condition=labels and model.missing_labels=marginal"
            raise BadInput("run", self.folder, "its model does not tell labels", fix)
        with torch.no_grad():
            return torch.cat([self.model.classify(rows_of(part)) for part in self._chunks(x, None)]).numpy()

    # Uses: rows in and out on the data's own scale ------------------------------------------------------------------

    @torch.no_grad()
    def _encoded(self, x: Any, read: Callable[[Distribution], Tensor], condition: Any = None) -> np.ndarray:
        """A number of q(z|x) for rows x [n, ...], in chunks."""
        return torch.cat([read(self.model.encode(part)) for part in self._chunks(x, condition)]).numpy()

    def _chunks(self, x: Any, condition: Any) -> Iterator[Tensor | Batch]:
        """Rows x [n, ...] with their conditions as the encoder takes them; an array is read and turned piece by piece.

        So a memory map of millions of rows takes no more memory than a piece. Rows of other kinds are turned together,
        since what is wrong with one is told by its number.
        """
        numbers = isinstance(x, np.ndarray | Tensor | SparseRows) and not (self.spec.mixed or self.spec.vocabulary)
        if not numbers or x.ndim < 2 or len(x) <= CHUNK:
            yield from self.batch(x, condition).split(CHUNK)
            return
        self.spec.check_width(x)
        given = self.given(condition, len(x), "encoder")
        for start in range(0, len(x), CHUNK):
            part = slice(start, start + CHUNK)
            y = self.spec.to_model(x[part], start)
            yield Batch(y, *(beside[part] for beside in given)) if given else y

    def posterior(self, x: Any, condition: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of q(z|x), each [n, L], for rows x [n, ...]."""
        both = self._encoded(x, lambda q: torch.stack([q.mean, q.variance.sqrt()], 1), condition)
        return both[:, 0], both[:, 1]

    def embed(self, x: Any, sample: bool = False, seed: int = 0, condition: Any = None) -> np.ndarray:
        """Latent codes [n, L] of rows x [n, ...]: posterior means, or one draw of q(z|x) each.

        Where z is made of entries of a book, they are entries too: the most likely ones for a mean.

        A `condition` is given here, and wherever there is one below, in the data's own words, such as the name or the
        number of a label: one for all rows, or one each.
        """
        if not sample:
            return self._encoded(x, centre_of, condition)
        with torch.random.fork_rng(devices=[]):
            seed_global(seed, "embed")
            return self._encoded(x, lambda q: q.rsample(1)[0], condition)

    @property
    def _book(self) -> Any:
        """What the codes are entries of; None for real vectors."""
        return getattr(getattr(self.model, "encoder", None), "book", None)

    @property
    def has_codes(self) -> bool:
        """Whether codes are entries of a book."""
        return self._book is not None

    def indices(self, x: Any, condition: Any = None) -> np.ndarray:
        """Which entries of the book the codes of rows x [n, ...] are, [n, T], counted from 0.

        Raises:
            BadInput: for a run whose codes are real vectors.
        """
        if self._book is None:
            fix = "train with model.posterior=vq, residual_vq, fsq or gumbel"
            raise BadInput("run", self.folder, "its codes are no entries of a book", fix)
        with torch.no_grad():
            return self._book.indices(torch.from_numpy(self.embed(x, condition=condition))).numpy()

    @torch.no_grad()
    def decode(self, z: Any, noisy: bool = False, seed: int = 0, condition: Any = None) -> np.ndarray:
        """Rows [n, ...] of latent codes z [n, L]: means of p(x|z), or one draw each."""
        codes = torch.as_tensor(np.asarray(z, dtype=np.float32))
        if codes.ndim != 2 or codes.shape[1] != self.latent:
            raise BadInput("z", f"shape {tuple(codes.shape)}", f"codes have the shape (n, {self.latent})")
        return self._decoded(codes, noisy, seed, self.given(condition, len(codes), "decoder"))

    def _decoded(self, codes: Tensor, noisy: bool, seed: int, given: tuple[Tensor, ...]) -> np.ndarray:
        coins = generator(seed, "decode")
        chunks = zip(*(part.split(CHUNK) for part in (codes, *given)), strict=True)
        parts = [self.model.decode(part[None], *beside) for part, *beside in chunks]
        return self.spec.to_user(torch.cat([(p.sample(coins) if noisy else p.mean)[0] for p in parts]))

    def reconstruct(self, x: Any, condition: Any = None, to: Any = None) -> np.ndarray:
        """Rows like x: means of p(x|z) at the posterior means.

        Args:
            x: Rows [n, ...].
            condition: What is given beside them.
            to: The condition to decode them under, where it is another one: what x would look like with it.
        """
        return self.decode(self.embed(x, condition=condition), condition=condition if to is None else to)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, noisy: bool | None = None, condition: Any = None) -> np.ndarray:
        """`count` rows from the prior: means of p(x|z) for z ~ p(z), or draws from p(x|z) where `noisy`.

        None: draws for strings and mixed tables, whose likeliest entries side by side are no likely row, else means.

        A model that reads a condition and is given None draws it from those of its training rows.
        """
        whole("count", count)
        if count * int(np.prod(self.spec.shape)) > MOST_VALUES:
            size = readable_bytes(4 * count * int(np.prod(self.spec.shape)))
            raise BadInput("count", count, f"that many rows take {size}", "draw fewer at a time, with several seeds")
        z, given = self._drawn_codes(count, seed, condition)
        drawn = bool(self.spec.mixed or self.spec.vocabulary) if noisy is None else noisy
        return self._decoded(z, drawn, seed, given)

    @property
    def has_standard_prior(self) -> bool:
        """Whether p(z), without the entries of a label, is N(0, I) whatever stands beside a row."""
        if "prior" in getattr(self.model, "conditioned", ()):
            return False
        prior = self.model.prior_distribution()
        known = prior.given(every_label(prior.log_y)) if isinstance(prior, LabelledPrior) else prior
        return isinstance(known, StandardNormal)

    @torch.no_grad()
    def prior_codes(self, count: int, seed: int = 0, condition: Any = None) -> np.ndarray:
        """The codes that `sample` decodes, [count, L]."""
        return self._drawn_codes(count, seed, condition)[0].numpy()

    def _drawn_codes(self, count: int, seed: int, condition: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Codes from the prior, [count, L], and what was given beside them."""
        if condition is None and getattr(self.model, "conditioned", None) and not self.model.guesses:
            given = self._drawn_conditions(count, seed)
        else:
            given = self.given(condition, count)
        return prior_codes(self.model, count, generator(seed, "sample"), *given), given

    def _drawn_conditions(self, count: int, seed: int) -> tuple[Tensor, ...]:
        """Conditions of training rows, drawn with replacement."""
        _, known = self.conditions
        coins = generator(seed, "conditions")
        if known is not None:
            return (known[torch.randint(len(known), (count,), generator=coins)],)
        if not self.spec.frequencies:
            raise BadInput("condition", None, f"{self.folder} holds no rows to draw it from", f"give {self._one_of}")
        shares = torch.tensor(self.spec.frequencies, dtype=torch.float64)
        return (torch.eye(self.spec.classes)[torch.multinomial(shares, count, replacement=True, generator=coins)],)

    @property
    def _walkable(self) -> int:
        """Dimensions of z without the entries of a label that a code may end in."""
        return self.latent - (self.model.classes if self._guesses else 0)

    @property
    def _guesses(self) -> bool:
        return bool(getattr(self.model, "guesses", False))

    def _likeliest(self, x: Any) -> list[str]:
        """The names of the labels that the classifier finds likeliest for rows x [n, ...]."""
        return [self.spec.condition[place] for place in self.classify(x).argmax(1)]

    def interpolate(self, a: Any, b: Any, steps: int = 15, path: str = "linear", condition: Any = None) -> np.ndarray:
        """`steps` rows from a to b, both included: means along a path between their posterior means.

        Where z is made of entries of a book, the path goes over the nearest ones.

        Args:
            a: One row; b: another.
            path: "linear" or "spherical".
            condition: Of both, or a pair of them, between which it changes in equal steps. Where a model with a
                classifier is given none, each row is encoded under its likeliest label, and decoded under that of a.
        """
        rows, kept = np.stack([np.asarray(a), np.asarray(b)]), condition
        if condition is None and self._guesses:
            condition = self._likeliest(rows)
            kept = condition[0]
        start, end = self.embed(rows, condition=condition)
        size = self._walkable
        walked = latent_path(start[:size], end[:size], steps, path)
        codes = torch.from_numpy(np.concatenate([walked, np.tile(start[size:], (steps, 1))], 1)).float()
        if self._book is not None:
            codes = self._book.vectors(self._book.indices(codes))
        ends = self.given(kept, 2, "decoder")
        share = torch.linspace(0, 1, steps)[:, None]
        with torch.no_grad():
            return self._decoded(codes, False, 0, tuple(both[0] * (1 - share) + both[1] * share for both in ends))

    def traverse(
        self,
        row: Any = None,
        dimensions: Sequence[int] | None = None,
        steps: int = 11,
        span: float = 3.0,
        condition: Any = None,
    ) -> np.ndarray:
        """Decoded walks along single latent dimensions, all others held fast, [len(dimensions), steps, ...].

        Each dimension in turn runs from -span to span, in standard deviations of the prior around its mean, while the
        others stay at the posterior mean of `row`. Reference: Higgins et al., beta-VAE, 2017.

        Args:
            row: A row on the data's own scale; None walks around the mean of the prior.
            dimensions: The dimensions, counted from 1 as in the report; None walks along all.
            steps: Rows along each dimension, at least 2.
            span: Half-width of the walk.
            condition: What is given beside the row, and all along; where a model with a classifier is given none, the
                likeliest label.

        Raises:
            BadInput: for a dimension the model does not have, fewer than 2 steps, or codes that are entries of a book.
        """
        if self._book is not None:
            fix = "vaelab interpolate goes over entries from one row to another"
            raise BadInput("run", self.folder, "its codes are entries of a book, between which nothing lies", fix)
        chosen = range(1, self._walkable + 1) if dimensions is None else dimensions
        for dimension in chosen:
            if not 1 <= dimension <= self._walkable:
                raise BadInput("dimension", dimension, f"the model has the latent dimensions 1 to {self._walkable}")
        if condition is None and self._guesses:
            commonest = [self.spec.condition[int(np.argmax(self.spec.frequencies))]]
            condition = (commonest if row is None else self._likeliest(np.asarray(row)[None]))[0]
        middle, deviation = self._prior_moments(condition)
        base = middle if row is None else self.embed(np.asarray(row)[None], condition=condition)[0]
        codes = axis_walk(base, [dimension - 1 for dimension in chosen], steps, span, middle, deviation)
        decoded = self.decode(codes.reshape(-1, self.latent), condition=condition)
        return decoded.reshape(len(chosen), steps, *decoded.shape[1:])

    @torch.no_grad()
    def _prior_moments(self, condition: Any) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the prior, [L] each; where it reads a condition, those of p(z|c)."""
        given = self.given(condition, 1, "prior")
        reads = self._guesses or "prior" in getattr(self.model, "conditioned", ())
        prior = self.model.prior_distribution(*(given if reads else ()))
        return prior.mean[0].numpy(), prior.variance[0].sqrt().numpy()

    def __repr__(self) -> str:
        name, found, _ = selected_by(self.metrics) if self.metrics else ("", None, None)
        bound = f", held-out {name} {found:.3f} nats per sample" if found is not None else ""
        return f"Run({str(self.folder)!r}{bound})"
