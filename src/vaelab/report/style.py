"""How every figure of the report looks, and the way from a painted figure to an image that stands inside the page."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from vaelab.core.errors import one_line

# Okabe and Ito, Color Universal Design, 2008: told apart with every common colour vision.
BLUE, ORANGE, GREEN, PURPLE, GRAY = "#0072B2", "#D55E00", "#009E73", "#B05A8C", "#8A8F98"
# Petroff, Accessible Color Sequences for Data Visualization, 2021.
CLASSES = ("#3f90da", "#ffa90e", "#bd1f01", "#717581", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#2b8a4b", "#92dadd")
INK, FAINT = "#3a3f47", "#d5d9df"
HALF, FULL = 5.2, 10.6  # inches: a figure that shares its line with another, and one that has it alone
DOTS = 170
SETTINGS = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a column may be called `$\foo$`
    "savefig.transparent": True,  # the page turns the ink over in a dark scheme
}


@dataclass(frozen=True)
class Strip:
    """One image of a panel, as a data URI, with the words beside it."""

    image: str
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """A figure of the page.

    Args:
        title: A few words.
        caption: One sentence that tells a newcomer healthy from unhealthy.
        strips: The images, one above the other.
        wide: True where the panel has its line alone.
        pixels: True for images of data, which keep their colours in a dark scheme and their sharp pixels.
        header: Head of a table shown under the images.
        rows: The table's rows.
    """

    title: str
    caption: str
    strips: tuple[Strip, ...] = ()
    wide: bool = False
    pixels: bool = False
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def plot(
    title: str, caption: str, paint: Callable[[Figure], None], height: float = 3.0, *, wide: bool = False
) -> Panel:
    """A panel with one figure: `paint` draws on it, and settings of the process are left as they were."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        figure = Figure(figsize=(FULL if wide else HALF, height), layout="constrained")
        paint(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS)
    return Panel(title, caption, (Strip(data_uri(buffer.getvalue()), title),), wide)


def data_uri(png: bytes) -> str:
    """A PNG as the text of an image's `src`."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def name(text: str, limit: int = 28) -> str:
    """A name from data as a figure may show it: one line, not too long, and never taken for a hidden legend entry."""
    text = one_line(text)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f" {text}" if text.startswith("_") else text


def plain_log(axes: Axes, which: str = "y") -> None:
    """A logarithmic axis with plain numbers, since the usual ones are written in mathematics, which is switched off."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter("")
