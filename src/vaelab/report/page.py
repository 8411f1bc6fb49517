"""`write_report`: one offline page about a run, the verdict first; nothing in it loads, runs or asks for anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from ..core.config import build_config, differences
from ..core.durable import write_text
from ..core.errors import one_line
from ..diagnosis.table import HEAD, cells
from . import dimensions, examples, facts, latents, mixed, plots, strings, tables
from .style import Panel
from .verdict import given, numbers, urgent, verdict

VIEWS: dict[str, Any] = {"image": examples, "sequence": strings, "mixed": mixed, "table": tables}


@dataclass(frozen=True)
class Section:
    """A heading with its figures."""

    title: str
    panels: list[Panel]


def write_report(run: Any, path: str | Path | None = None) -> Path:
    """Writes the report of a run as one HTML page, which replaces an older one whole or not at all.

    Args:
        run: A run; one that failed or has no evaluation yet gets a page that says so.
        path: The file; None: `report.html` in the run's folder.

    Returns:
        The file written.

    Raises:
        NoSpace: where the page cannot be written.
    """
    target = Path(path) if path is not None else Path(run.folder) / "report.html"
    write_text(target, render(run))
    return target


def render(run: Any) -> str:
    """The page as text."""
    pressing = urgent(run.findings)
    return template("template.html").render(
        run=run,
        verdict=verdict(run),
        numbers=numbers(run),
        given=given(run),
        head=HEAD,
        urgent=[(finding, cells(finding)) for finding in pressing],
        remarks=[finding for finding in run.findings if finding not in pressing],
        sections=[section for section in sections(run) if section.panels],
        changed=differences(build_config(), run.config),
        settings=yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).splitlines(),
    )


def sections(run: Any) -> list[Section]:
    """Every section of figures in the order of the page; before the first evaluation only the curves."""
    view = VIEWS["mixed" if run.spec.mixed else run.spec.layout]
    built: list[tuple[str, Callable[[Any], list[Panel]]]] = [
        ("Where it stopped", facts.broken),
        ("Training", plots.training),
        ("What the code carries", dimensions.dimensions),
    ]
    if run.metrics:
        built += [
            ("Reconstructions", view.reconstructions),
            ("Samples", view.samples),
            ("Latent space", latents.latent),
            ("Interpolation", view.interpolations),
        ]
        built += [("Decoded plane", view.grid)] if run.latent == 2 else []
    built += [("Evaluation", facts.evaluated), ("Diagnosis", facts.diagnosed)]
    return [Section(title, build(run)) for title, build in built]


def _packaged(file: str) -> str:
    return resources.files(__package__).joinpath(file).read_text("utf-8")


@cache
def template(name: str) -> Template:
    """A page of this folder, whose values are escaped."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
        loader=FunctionLoader(_packaged),
    )
    environment.globals["css"] = Markup(_packaged("page.css"))
    return environment.get_template(name)


def _visible(value: Any) -> Any:
    """Control characters of a name shown escaped, so that they neither vanish nor turn the line around."""
    if isinstance(value, Markup):
        return value
    text = "–" if value is None else str(value)
    return text if text.isprintable() else one_line(text)
