"""How much of an image's energy is in its fine detail, in plain arrays."""

from __future__ import annotations

import numpy as np

FINE = 0.25  # cycles per pixel: half of the highest frequency that pixels can hold


def fine_energy(images: np.ndarray) -> np.ndarray:
    """The summed squares of an image's parts above a quarter cycle per pixel, per pixel, [n], for [n, C, H, W].

    By Parseval's theorem it is what a low-pass filter at that frequency takes out of the mean square.

    Example:
        >>> board = np.indices((8, 8)).sum(0) % 2 * 2.0 - 1  # the finest pattern there is
        >>> fine_energy(board[None, None]).round(6).tolist(), fine_energy(np.ones((1, 1, 8, 8))).tolist()
        ([1.0], [0.0])
    """
    height, width = images.shape[-2:]
    spectrum = np.abs(np.fft.fft2(images)) ** 2 / (height * width) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return (spectrum * (radius > FINE)).sum((-2, -1)).mean(1)
