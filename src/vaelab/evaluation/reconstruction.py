"""How well held-out rows come back: errors, similarity and explained variance, with intervals over rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.batch import beside
from ..core.missing import over_known
from ..measure import reconstruction as measure
from ..measure.estimate import mean_of
from ..measure.importance import draw_z
from ..measure.latent import centre_of
from ..models.prepare import COUNTS, LEVELS
from .case import Case, Numbers
from .columns import columns_back, mean_over_known
from .strings import strings_back

DECODED = 512  # rows at once
OWN_UNITS = {**dict.fromkeys(COUNTS, "counts"), **dict.fromkeys(LEVELS, "levels")}  # of what such a likelihood takes


@dataclass(frozen=True)
class Scale:
    """What errors are counted in.

    Args:
        of: Rows as the model sees them, [n, *shape], as float64 rows on the scale.
        unit: Of an absolute error.
        peak: Highest minus lowest value that an entry can have; 0 where rows are constant.
    """

    of: Callable[[Tensor], np.ndarray]
    unit: str
    peak: float


def reconstruction(case: Case) -> Numbers:
    """Errors of the means of p(x|z), with z the posterior mean, and (`..._at_a_draw`) with one draw of q(z|x).

    `mse`, `mae` are means over all entries; `bce`, for entries in [0, 1], is summed over a row; `psnr`, `ssim`, for
    images, are means over rows; `r2` is the share of the held-out rows' variance that comes back: of all pixels
    together for images, the mean over columns for tables. Images are on the data's own scale, bits as 0 and 1. Columns
    have units of their own, so for tables the means over columns are of rows as the model sees them, which are the
    data's own where nothing scales them, such as counts; `..._per_column` is on the data's own scale, in the order of
    `case.spec.columns`. Strings have shares instead, see `strings_back`, and so
    have the levels of mixed tables, see `columns_back`.
    """
    at_mean, at_draw = _fitted(case)
    if case.spec.vocabulary:
        return strings_back(case, at_mean, at_draw)
    if case.spec.mixed:
        return columns_back(case, at_mean)
    found = _whole_rows(case, at_mean)
    found |= {f"{name}_at_a_draw": number for name, number in _whole_rows(case, at_draw).items()}
    return found | _each_entry(case, at_mean)


@torch.no_grad()
def _fitted(case: Case) -> tuple[Tensor, Tensor]:
    """Means of p(x|z) at the middle of the posterior and at a draw of z, as the model sees rows, [n, *shape] each."""
    parts = []
    with torch.random.fork_rng(devices=[]):
        for start in range(0, len(case.x), DECODED):
            rows = case.rows[start : start + DECODED]
            q = case.model.encode(rows)
            codes = torch.cat([centre_of(q)[None], draw_z(q, 1, case.seed, start)])
            parts.append(case.model.decode(codes, *beside(rows)).mean)
    at_mean, at_draw = torch.cat(parts, 1).reshape(2, *case.x.shape)
    return at_mean, at_draw


def _whole_rows(case: Case, fitted: Tensor) -> Numbers:
    """Numbers over rows and entries."""
    scaled = case.spec.binarize == "none" and not case.spec.transform.is_identity
    apart = scaled and not case.is_image  # columns of units of their own, which only the model's scale makes comparable
    scale = Scale(_as_seen, "units of the model's scale", 0.0) if apart else data_scale(case)
    x, back = scale.of(case.x), scale.of(fitted)
    entries = "mean over entries" if np.isfinite(x).all() else "mean over known entries"
    found = {
        "mse": mean_of(over_known(measure.squared_error(x, back)), f"squared {scale.unit}, {entries}"),
        "mae": mean_of(over_known(measure.absolute_error(x, back)), f"{scale.unit}, {entries}"),
    }
    if _in_unit_range(case.x) and _in_unit_range(fitted):
        nats = measure.cross_entropy(_as_seen(case.x), _as_seen(fitted)).sum(1)
        found["bce"] = mean_of(nats, "nats per sample")
    if scale.peak > 0:
        found |= _images(x, back, scale.peak)
    share = measure.explained(x, back, pooled=case.is_image)
    share = share[:, np.isfinite(share).any(0)]
    if share.size:
        what = "pixels" if case.is_image else f"{share.shape[1]} columns, averaged"
        found["r2"] = mean_of(over_known(share), f"of the variance of {what}")
    return found


def _images(x: np.ndarray, back: np.ndarray, peak: float) -> Numbers:
    with np.errstate(invalid="ignore"):  # a row that comes back exactly has an infinite ratio, and its mean no interval
        found = {"psnr": mean_of(measure.psnr(x, back, peak), f"dB, peak {peak:g}")}
    size = measure.window_of(*x.shape[2:])
    if size > 1:
        unit = f"1 is equal; Gaussian window {size} x {size}, sigma {measure.SIGMA}, peak {peak:g}"
        found["ssim"] = mean_of(measure.ssim(x, back, peak), unit)
    return found


def _each_entry(case: Case, fitted: Tensor) -> Numbers:
    """The same of each column or pixel, over rows, on the data's own scale."""
    scale = data_scale(case)
    x, back = scale.of(case.x), scale.of(fitted)
    what = "entry" if case.is_image else "column"
    each = mean_of if np.isfinite(x).all() else mean_over_known
    found = {
        f"mse_per_{what}": each(measure.squared_error(x, back), f"squared {scale.unit}"),
        f"mae_per_{what}": each(measure.absolute_error(x, back), scale.unit),
    }
    if not case.is_image:
        found["r2_per_column"] = each(measure.explained(x, back), "of the column's variance")
    return found


def data_scale(case: Case) -> Scale:
    """The data's own scale; for gray levels that became bits, that of the bits."""
    spec = case.spec
    if spec.binarize != "none":
        return Scale(_as_seen, *(("bits of gray levels", 1.0) if case.is_image else ("bits", 0.0)))

    def of(rows: Tensor) -> np.ndarray:
        return spec.transform.inverse(rows.double()).numpy()

    peak = (float(np.ptp(of(case.complete(case.x)))) if spec.top is None else float(spec.top)) if case.is_image else 0.0
    return Scale(of, OWN_UNITS.get(case.config.likelihood.name, "units of the data"), peak)


def _as_seen(rows: Tensor) -> np.ndarray:
    return rows.double().numpy()


def _in_unit_range(rows: Tensor) -> bool:
    return bool(((rows >= 0) & (rows <= 1)).all())
