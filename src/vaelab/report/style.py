"""How every figure of the report looks, and the way from a painted figure to an image that stands inside the page."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from ..core.errors import one_line

# After Okabe and Ito, Color Universal Design, 2008: told apart with every common colour vision, on light and dark.
BLUE, ORANGE, GREEN, PURPLE, GRAY = "#1B7FC4", "#D55E00", "#009E73", "#B5608F", "#8A8F98"
# Petroff, Accessible Color Sequences for Data Visualization, 2021.
CLASSES = ("#3f90da", "#ffa90e", "#bd1f01", "#717581", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#2b8a4b", "#92dadd")
HALF, FULL = 5.2, 10.6  # inches: a figure that shares its line with another, and one that has it alone
DOTS = 144
SETTINGS: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.h_pad": 0.07,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a column may be called `$\foo$`
    "savefig.transparent": True,
}


def _scheme(ink: str, faint: str, paper: str) -> dict[str, str]:
    inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
    return dict.fromkeys(inked, ink) | {"grid.color": faint, "figure.facecolor": paper}


LIGHT, DARK = _scheme("#3a3f47", "#d5d9df", "#ffffff"), _scheme("#cdd3da", "#31373f", "#14171b")


@dataclass(frozen=True)
class Strip:
    """One image of a panel, as a data URI, with the words above it, and another for a dark page where it needs one."""

    image: str
    label: str = ""
    dark: str = ""


@dataclass(frozen=True)
class Panel:
    """A figure of the page.

    Args:
        title: A few words.
        caption: One sentence that tells a newcomer healthy from unhealthy.
        strips: The images, one above the other.
        wide: True where the panel has its line alone.
        pixels: True for images of data, which keep their colours in a dark scheme and their sharp pixels.
        rows: Rows of a table shown under the images.
    """

    title: str
    caption: str
    strips: tuple[Strip, ...] = ()
    wide: bool = False
    pixels: bool = False
    rows: tuple[tuple[str, ...], ...] = ()


def plot(
    title: str, caption: str, paint: Callable[[Figure], None], height: float = 3.2, *, wide: bool = False
) -> Panel:
    """A panel with one figure that `paint` draws, once for a light and once for a dark page."""
    light, dark = (_painted(paint, (FULL if wide else HALF, height), scheme) for scheme in (LIGHT, DARK))
    return Panel(title, caption, (Strip(light, dark=dark),), wide)


def _painted(paint: Callable[[Figure], None], size: tuple[float, float], scheme: dict[str, str]) -> str:
    """The figure as a data URI; settings of the process are left as they were."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS | scheme)
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS)
    return data_uri(buffer.getvalue())


def data_uri(png: bytes) -> str:
    """A PNG as the text of an image's `src`."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def name(text: str, limit: int = 28) -> str:
    """A name from data as a figure may show it: one line, not too long, and never taken for a hidden legend entry."""
    text = one_line(text)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f" {text}" if text.startswith("_") else text


def plain_log(axes: Axes, which: str = "y", marks: tuple[int, ...] = (1, 2, 5)) -> None:
    """A logarithmic axis with plain numbers, since the usual ones are written in mathematics, which is switched off."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=marks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter("")
