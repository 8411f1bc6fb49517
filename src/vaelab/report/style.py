"""How every figure of the report looks, and the way from a painted figure to an image that stands inside the page."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator
from PIL import Image

from ..core.errors import one_line

# After Okabe and Ito, Color Universal Design, 2008: told apart with every common colour vision, on light and dark.
BLUE, ORANGE, GREEN, PURPLE, GRAY = "#1B7FC4", "#D55E00", "#009E73", "#B5608F", "#8A8F98"
RED = "#D62839"  # for what went wrong, and nothing else
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
    "axes.facecolor": "none",
}


def _scheme(ink: str, faint: str, paper: str) -> dict[str, str]:
    inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
    return dict.fromkeys(inked, ink) | {"grid.color": faint, "figure.facecolor": paper}


LIGHT, DARK = _scheme("#3a3f47", "#d5d9df", "#ffffff"), _scheme("#cdd3da", "#31373f", "#14171b")


@dataclass(frozen=True)
class Strip:
    """One image of a panel, as a data URI, with the words above it, and another for a dark page where it needs one.

    Args:
        marks: A few letters beneath each of the equally wide columns of the image.
    """

    image: str
    label: str = ""
    dark: str = ""
    marks: tuple[str, ...] = ()


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
        head: Words above the columns of the table; without them it is set in several columns of names and numbers.
        strings: Whether cells are strings of the data, which may be broken anywhere; words and numbers never are.
    """

    title: str
    caption: str
    strips: tuple[Strip, ...] = ()
    wide: bool = False
    pixels: bool = False
    rows: tuple[tuple[str, ...], ...] = ()
    head: tuple[str, ...] = ()
    strings: bool = False


def plot(
    title: str, caption: str, paint: Callable[[Figure], None], height: float = 3.2, *, wide: bool = False
) -> Panel:
    """A panel with one figure that `paint` draws, shown in light and in dark colours."""
    with _own_settings():
        figure = Figure(figsize=(FULL if wide else HALF, height), dpi=DOTS, layout="constrained")
        figure.patch.set_alpha(0)
        paint(figure)
        light = _drawn(figure)
        figure.set_layout_engine("none")  # everything stays where it is, and half the time is saved
        _darken(figure)
        return Panel(title, caption, (Strip(light, dark=_drawn(figure)),), wide)


@contextmanager
def _own_settings() -> Iterator[None]:
    """The settings of our figures; those of the process are left as they were."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS | LIGHT)
        yield


def _drawn(figure: Figure) -> str:
    canvas, buffer = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(buffer, format="PNG")
    return data_uri(buffer.getvalue())


def _darken(figure: Figure) -> None:
    """Gives whatever has a colour of the light scheme that of the dark one."""
    figure.findobj(_recolour)
    for text in figure.findobj(Text):
        if text.get_path_effects():
            text.set_path_effects(outline(DARK["figure.facecolor"]))


def _recolour(artist: Artist) -> bool:
    if isinstance(artist, Text | Line2D):
        color = next((key for key in ("text.color", "grid.color") if same_color(artist.get_color(), LIGHT[key])), None)
        if color:
            artist.set_color(DARK[color])
    return False


def outline(paper: str = LIGHT["figure.facecolor"]) -> list[patheffects.AbstractPathEffect]:
    """Paper around the letters of a text, so that it can be read on points."""
    return [patheffects.withStroke(linewidth=3, foreground=paper)]


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
