"""TensorBoard events: curves, reconstructions beside originals, samples. Needs the extra `tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.batch import beside, rows_of
from ..core.errors import MissingExtra
from ..core.seeds import generator
from ..data.batches import Rows
from ..models.vae import Model
from .show import Display


class Events(Display):
    """Writes what the loop tells as TensorBoard events into `folder`.

    Args:
        rows: Held-out rows; the first `images` of them are shown where they are images.
        seed: Of the samples' latent points, the same at every evaluation.

    Raises:
        MissingExtra: if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, rows: Rows, *, images: int, seed: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra("tensorboard", "tensorboard", "report.tensorboard") from None
        self.writer = SummaryWriter(str(folder))
        self.images, self.seed = images, seed
        self.originals = rows.take(torch.arange(min(images, len(rows))), generator(seed, "coins", device=rows.device))

    def train(self, step: int, line: dict[str, Any]) -> None:
        self._scalars("train", step, line)

    def held_out(self, step: int, measured: dict[str, Any], model: Model) -> None:
        self._scalars("held_out", step, measured)
        if self.originals.ndim == 4:
            self._pictures(step, model)
        self.writer.flush()

    def end(self) -> None:
        self.writer.close()

    @torch.no_grad()
    def _pictures(self, step: int, model: Model) -> None:
        training = model.training
        model.eval()
        given = beside(self.originals)
        means = model.decode(model.encode(self.originals).mean[None], *given).mean[0]
        self.writer.add_images("reconstructions", _interleaved(rows_of(self.originals), means), step)
        coins = generator(self.seed, "samples", device=self.originals.device)
        samples = model.sample(len(self.originals) if given else self.images, coins, *given).mean[0]
        self.writer.add_images("samples", _to_unit(samples), step)
        model.train(training)

    def _scalars(self, prefix: str, step: int, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if isinstance(value, list):
                for index, item in enumerate(value):
                    self.writer.add_scalar(f"{prefix}_{name}/{index}", item, step)
            else:
                self.writer.add_scalar(f"{prefix}/{name}", value, step)


def _interleaved(originals: Tensor, means: Tensor) -> Tensor:
    """Each original with its reconstruction below it, [B, C, 2 H, W] in [0, 1]."""
    return _to_unit(torch.cat([originals, means], 2))


def _to_unit(images: Tensor) -> Tensor:
    low, high = images.min(), images.max()
    return images.clamp(0, 1) if low >= 0 and high <= 1 else (images - low) / (high - low).clamp_min(1e-12)
