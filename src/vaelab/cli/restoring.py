"""Commands that restore images by what was observed of them: inpaint, denoise, upscale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .app import RunPath, To, app
from .words import condition_of, rows_of, wrote

Source = Annotated[str, Parameter(help="an image, or rows of images")]
Draws = Annotated[int, Parameter(help="images drawn at random beside the mean")]
Count = Annotated[int | None, Parameter(help="only the first images; default: all, or 10 in a picture")]
Steps = Annotated[int, Parameter(help="temperatures between prior and posterior")]
Condition = Annotated[str | None, Parameter(help="label, or numbers: what stands beside all images")]
NOISE = "deviation of the noise, as a share of the way from black to white"


@app.command
def inpaint(
    run: RunPath,
    source: Source,
    /,
    *,
    mask: Annotated[str, Parameter(help="what is hidden: lower, upper, left, right, x0,y0,x1,y1, or an image's white")],
    to: To = Path("inpainted.png"),
    draws: Draws = 5,
    count: Count = None,
    steps: Steps = 300,
    seed: int = 0,
    condition: Condition = None,
) -> int:
    """Fill in the hidden part of images, with the known part left as it is."""
    from ..api import load
    from ..use.operators import hiding

    loaded = load(run)
    operator = hiding(_mask(mask), _image_shape(loaded))
    return _restored(loaded, source, to, operator, 0.0, count, condition, draws=draws, steps=steps, seed=seed)


@app.command
def denoise(
    run: RunPath,
    source: Source,
    /,
    *,
    noise: Annotated[float | None, Parameter(help=f"{NOISE}; default: estimated")] = None,
    to: To = Path("denoised.png"),
    draws: Draws = 5,
    count: Count = None,
    steps: Steps = 300,
    seed: int = 0,
    condition: Condition = None,
) -> int:
    """Take Gaussian noise out of images."""
    import numpy as np

    from ..api import load
    from ..use.operators import hiding

    loaded = load(run)
    operator = hiding(np.zeros(_image_shape(loaded)), _image_shape(loaded))
    return _restored(loaded, source, to, operator, noise, count, condition, draws=draws, steps=steps, seed=seed)


@app.command
def upscale(
    run: RunPath,
    source: Source,
    /,
    *,
    factor: Annotated[int, Parameter(help="how many times smaller each side of the images is than the run's")] = 2,
    noise: Annotated[float, Parameter(help=NOISE)] = 0.0,
    to: To = Path("upscaled.png"),
    draws: Draws = 5,
    count: Count = None,
    steps: Steps = 300,
    seed: int = 0,
    condition: Condition = None,
) -> int:
    """Make large images of small ones, whose pixels are means of theirs."""
    from ..api import load
    from ..use.operators import Average

    loaded = load(run)
    return _restored(loaded, source, to, Average(factor), noise, count, condition, draws=draws, steps=steps, seed=seed)


def _image_shape(run: Any) -> tuple[int, ...]:
    """(C, H, W)."""
    from ..core.errors import BadInput

    if run.spec.layout != "image":
        raise BadInput("run", run.folder, "is no run of images", "vaelab impute fills gaps of tables")
    return tuple(run.spec.shape)


def _mask(text: str) -> Any:
    """The words of a mask, or the pixels of a file: white is hidden."""
    from ..core.image_files import IMAGE_SUFFIXES, read_image

    if not text.lower().endswith(IMAGE_SUFFIXES):
        return text
    return read_image(text).pixels.mean(-1) >= 128


def _restored(
    run: Any,
    source: str,
    to: Path,
    operator: Any,
    noise: float | None,
    count: int | None,
    condition: str | None,
    **options: int,
) -> int:
    """Reads images, restores them, and writes a picture or the arrays."""
    import numpy as np

    from ..core.errors import BadInput
    from ..measure.pictures import value_range
    from ..use.files import refuse_path, save
    from ..use.observed import noise_of, restore
    from ..use.restored_files import FORMATS

    refuse_path(to, FORMATS)
    if noise is not None and not 0 <= noise <= 1:
        fix = "such as 0.1, or 25 / 255 for 25 gray levels of 255, which is 0.098"
        raise BadInput("noise", noise, "is a share of the way from black to white, between 0 and 1", fix)
    ends = value_range(run.preview if run.keeps_rows else np.zeros(0), run.spec.top)
    shown = (count or 10) if to.suffix.lower() == ".png" else count
    images, given, _, what = rows_of(run, source, shown, to)
    share = noise_of(images) / (ends[1] - ends[0]) if noise is None else noise
    own = given if condition is None else condition_of(run, condition)
    found = restore(run, images, operator, share * (ends[1] - ends[0]), condition=own, **options)
    for finding in found.findings:
        print(finding)
    estimated = f", noise estimated as {share:.3g} of the range" if noise is None else ""
    return wrote(save(to, FORMATS, run, operator, images, found, ends), f"{what}{estimated}; {found.told}")
