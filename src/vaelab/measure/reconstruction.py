"""How far reconstructions are from their rows, in float64: per row and entry [n, D], or per row [n].

What comes back for each entry is averaged by the caller: `.mean(1)` for each row, `.mean(0)` for each entry or column,
`estimate.mean_of` for the interval over rows.
"""

from __future__ import annotations

import numpy as np

from ..core.errors import BadInput

WINDOW, SIGMA = 11, 1.5  # pixels, as Wang et al. chose them
STABLE = (0.01, 0.03)  # of the peak: what keeps the two quotients of SSIM finite, as they chose it
LOWEST_LOG = -100.0  # of a probability in a cross-entropy, as in PyTorch: one entry cannot cost an infinity


def squared_error(x: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """(x - fitted)² of each entry, [n, D], for rows [n, ...] of one shape; its mean is the MSE.

    Example:
        >>> squared_error(np.array([[0.0, 2.0]]), np.array([[1.0, 5.0]])).mean(1).tolist()
        [5.0]
    """
    x, fitted = _paired(x, fitted)
    return (x - fitted) ** 2


def absolute_error(x: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """|x - fitted| of each entry, [n, D], for rows [n, ...] of one shape; its mean is the MAE."""
    x, fitted = _paired(x, fitted)
    return np.abs(x - fitted)


def cross_entropy(x: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """-x log p - (1 - x) log(1 - p) of each entry in nats, [n, D], with p = `fitted`; summed over a row it is the BCE.

    For bits it is a negative log-mass. For gray x it is a loss, whose least value is not 0 but the entropy of x.

    Raises:
        BadInput: where an entry of either lies outside [0, 1].
    """
    x, fitted = _paired(x, fitted)
    for name, rows in (("x", x), ("fitted", fitted)):
        if not ((rows >= 0) & (rows <= 1)).all():
            raise BadInput(name, f"values from {rows.min():.3g} to {rows.max():.3g}", "must lie in [0, 1] for a BCE")
    with np.errstate(divide="ignore"):
        one, zero = (np.maximum(np.log(p), LOWEST_LOG) for p in (fitted, 1 - fitted))
    return -(x * one + (1 - x) * zero)


def psnr(x: np.ndarray, fitted: np.ndarray, peak: float) -> np.ndarray:
    """The peak signal-to-noise ratio 10 log10(peak² / MSE) of each row in decibels, [n]; infinite for an exact one.

    Its mean over rows is above the ratio of the mean MSE, which other tools give for a whole batch.

    Args:
        x: [n, ...].
        fitted: Of the same shape.
        peak: Highest minus lowest value that an entry can have.

    Example:
        >>> psnr(np.zeros((1, 4)), np.full((1, 4), 25.5), 255).round(6).tolist()
        [20.0]
    """
    with np.errstate(divide="ignore"):
        return 10 * np.log10(_positive("peak", peak) ** 2 / squared_error(x, fitted).mean(1))


def explained(x: np.ndarray, fitted: np.ndarray, pooled: bool = False) -> np.ndarray:
    """The terms of R² = 1 - sum (x - fitted)² / sum (x - mean)²: their mean over rows is R², [n, D], or [n, 1] pooled.

    The terms are those of the linearised ratio, so that their spread over rows gives R² its interval; that the mean of
    the columns is estimated from the same rows is of second order and left out. NaN for a column that does not vary.

    Args:
        x: [n, ...]; a missing entry, NaN, has a term of NaN, and pooled it is left out.
        fitted: Of the same shape.
        pooled: One R² for all entries together, each weighing as much as it varies.

    Example:
        >>> x = np.array([[0.0], [1.0], [2.0]])
        >>> explained(x, np.array([[0.0], [1.0], [1.0]])).mean(0).tolist()
        [0.5]
    """
    x, fitted = _paired(x, fitted)
    errors, spread = (x - fitted) ** 2, (x - np.nanmean(x, 0)) ** 2
    if pooled:
        errors, spread = (np.nansum(part, 1, keepdims=True) for part in (errors, spread))
    below = np.nanmean(spread, 0)
    below = np.where(below > 0, below, np.nan)
    lost = np.nanmean(errors, 0) / below
    return 1 - lost - (errors - lost * spread) / below


def window_of(height: int, width: int) -> int:
    """Side of SSIM's window: 11 pixels, or the largest odd number that fits a smaller image."""
    return min(WINDOW, (min(height, width) - 1) // 2 * 2 + 1)


def ssim(x: np.ndarray, fitted: np.ndarray, peak: float, reflect: bool = False) -> np.ndarray:
    r"""The structural similarity of each image, [n]: 1 for equal ones, averaged over windows and channels.

    .. math:: \frac{2 \mu_x \mu_y + c_1}{\mu_x^2 + \mu_y^2 + c_1} \cdot
        \frac{2 \sigma_{xy} + c_2}{\sigma_x^2 + \sigma_y^2 + c_2}

    Moments are weighted by a Gaussian window of 11 x 11 pixels, sigma 1.5, at all places inside the image, as in the
    paper and scikit-image; where the image is smaller, the window is the largest odd one that fits, with the same
    sigma. `c` are (0.01 peak)² and (0.03 peak)².

    Reference: Wang, Bovik, Sheikh and Simoncelli, Image Quality Assessment: From Error Visibility to Structural
    Similarity, 2004.

    Args:
        x: [n, C, H, W].
        fitted: Of the same shape.
        peak: Highest minus lowest value that an entry can have.
        reflect: Centre a window at every pixel, over the image reflected at its borders, as torchmetrics 1.9 does.

    Raises:
        BadInput: for other shapes, and a peak not above 0.
    """
    x, fitted = _same(x, fitted)
    if x.ndim != 4:
        raise BadInput("x", f"shape {x.shape}", "images are [n, C, H, W]", "reshape them, such as x[:, None]")
    first, second = ((part * _positive("peak", peak)) ** 2 for part in STABLE)
    size = window_of(*x.shape[2:])
    if reflect:
        rim = ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2)
        x, fitted = np.pad(x, rim, "reflect"), np.pad(fitted, rim, "reflect")
    down, across = (_blurring(side, size) for side in x.shape[2:])

    def blur(images: np.ndarray) -> np.ndarray:
        return down @ images @ across.T

    means = blur(x), blur(fitted)
    squares = blur(x**2) + blur(fitted**2) - means[0] ** 2 - means[1] ** 2
    product = means[0] * means[1]
    similarity = (2 * product + first) * (2 * (blur(x * fitted) - product) + second)
    return (similarity / ((means[0] ** 2 + means[1] ** 2 + first) * (squares + second))).mean((1, 2, 3))


def _blurring(side: int, size: int) -> np.ndarray:
    """The Gaussian window at each place inside a side, as a matrix [side - size + 1, side]."""
    weights = np.exp(-0.5 * ((np.arange(size) - size // 2) / SIGMA) ** 2)
    places = np.arange(side - size + 1)[:, None]
    matrix = np.zeros((len(places), side))
    matrix[places, places + np.arange(size)] = weights / weights.sum()
    return matrix


def _paired(x: np.ndarray, fitted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [n, D]."""
    x, fitted = _same(x, fitted)
    return x.reshape(len(x), -1), fitted.reshape(len(x), -1)


def _same(x: np.ndarray, fitted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, fitted = np.asarray(x, np.float64), np.asarray(fitted, np.float64)
    if x.shape != fitted.shape or x.ndim < 2 or not x.size:
        raise BadInput("fitted", f"shape {fitted.shape}", f"must be rows of the shape of x, {x.shape}", "[n, ...] each")
    return x, fitted


def _positive(name: str, value: float) -> float:
    if not 0 < value < np.inf:
        raise BadInput(name, value, "must be a finite number above 0", "255 for bytes, 1 for the unit range")
    return value
