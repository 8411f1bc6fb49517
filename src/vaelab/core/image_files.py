"""Reading image files, by Pillow, with bombs refused before their pixels are decoded."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, NamedTuple

from .errors import BadInput
from .files import check_file, reason

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# A list, so that no decoder that starts other programs is ever reached by a file's content.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


class Picture(NamedTuple):
    """An image file's pixels, uint8 [H, W, C] with C = 1 or 3, and how many frames the file has."""

    pixels: np.ndarray
    frames: int


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Picture:
    """An image file's first frame, turned upright; transparency is laid on white, 16-bit gray is scaled to 8 bits.

    Raises:
        BadInput: for what `check_file` refuses, other formats, damaged files, and more than `max_pixels` pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = check_file(path)
    try:
        with warnings.catch_warnings(), Image.open(path, formats=list(IMAGE_FORMATS)) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.width * image.height > max_pixels:
                size = f"{image.width}x{image.height} pixels"
                raise BadInput(str(path), size, f"must have at most {max_pixels} pixels")
            frames = getattr(image, "n_frames", 1)
            image.seek(0)
            return Picture(_pixels(ImageOps.exif_transpose(image)), frames)
    except BadInput:
        raise
    except UnidentifiedImageError:
        raise BadInput(str(path), None, "is not an image", f"known formats: {', '.join(IMAGE_FORMATS)}") from None
    except Exception as error:  # a decoder fed damaged bytes may raise anything
        raise BadInput(str(path), None, f"cannot be decoded ({reason(error)})", "remove or replace it") from None


def _pixels(image: Image) -> np.ndarray:
    """uint8 [H, W, C] from any of Pillow's modes."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        deep = np.asarray(image, np.float64)
        if image.mode == "F" or deep.min() < 0 or deep.max() > 65535:
            raise ValueError("pixels of more than 16 bits")
        return np.rint(deep / 257).astype(np.uint8)[..., None]
    gray = image.mode in ("1", "L", "LA")
    palette = image.mode in ("P", "PA")
    if "A" in image.getbands() or "transparency" in image.info:
        front = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", front.size, "white"), front)
    pixels = np.asarray(image.convert("L" if gray else "RGB")).reshape(image.height, image.width, -1)
    # A palette of grays is how some formats keep a gray image.
    return pixels[..., :1] if palette and not np.ptp(pixels, axis=2).any() else pixels
