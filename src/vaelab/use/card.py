"""A model card: what a run learned from, what it is, how good it was measured to be, and what was found wrong with it.

Nothing in it is praise or guess: every number is one that the run folder holds. Texts that come from data, such as
names of columns, are escaped, so that they stand in the card as they are and do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from ..core.errors import one_line
from ..core.finding import SEVERITIES, Finding
from ..evaluation.text import plain, spread
from ..measure.bound import selected_by
from ..measure.estimate import Z95
from ..models.parts import POSTERIORS
from ..training.run import Run

MOST_NAMES, MOST_TEXT = 40, 300  # columns that are listed, and characters of a text from data
CHOSEN = ("DA001", "DA003")  # findings that say why the likelihood was chosen
MARKUP = re.compile(r"[\\`*_\[\]<>|&~$@#]|(?<=:)//|(?<=www)\.", re.IGNORECASE)
HELD_ROWS = {
    "exemplar": "The weights hold rows of the training data: the prior is a mixture around their codes.",
    "vamp": "The weights hold inputs that began as training rows: the prior is a mixture of their posteriors.",
}
GROUPS = ("bound", "ais", "reconstruction", "samples", "columns")  # of an evaluation, in this order


def model_card(run: Run, rows_left_out: bool = True) -> str:
    """The card of a run as Markdown, with the metadata that hubs read before it.

    Args:
        run: With selected weights.
        rows_left_out: Whether the folder that the card is for holds no rows of the data.

    Example:
        >>> import tempfile, vaelab
        >>> settings = {"train": {"steps": 20}, "report": {"html": False}}
        >>> run = vaelab.train("digits", out=tempfile.mkdtemp(), config=settings, progress=False)
        >>> [line for line in model_card(run).splitlines() if line.startswith("## ")][:4]
        ['## Data', '## Model', '## Measured', '## Findings']
    """
    parts = [_data(run), _model(run), _measured(run), _findings(run), _limits(run, rows_left_out), _use(run)]
    return "\n".join([_head(run), *parts])


def escaped(text: object) -> str:
    r"""A text from data within a line of Markdown: no mark-up, no tag, no link and no line break comes of it.

    Example:
        >>> print(escaped("<b>size</b> | [x](http://a.b)"))
        \<b\>size\</b\> \| \[x\](http:\//a.b)
    """
    line = one_line(str(text))
    short = line if len(line) <= MOST_TEXT else f"{line[:MOST_TEXT]}..."
    return MARKUP.sub(lambda found: f"\\{found[0]}", short)


def _head(run: Run) -> str:
    tags = ["vae", "variational-autoencoder", run.spec.layout, run.config.likelihood.name]
    head = yaml.safe_dump({"library_name": "vaelab", "tags": tags}, sort_keys=False)
    what = "strings" if run.spec.vocabulary else f"{run.spec.layout}s" if run.spec.layout == "image" else "rows"
    text = f"A variational autoencoder of {what}, with {run.latent} latent dimensions, trained with vaelab."
    return f"---\n{head}---\n\n# {escaped(run.spec.name)}\n\n{text}\n"


def _data(run: Run) -> str:
    spec = run.spec
    names = [escaped(name) for name in spec.columns[:MOST_NAMES]]
    more = f" and {len(spec.columns) - MOST_NAMES} more" if len(spec.columns) > MOST_NAMES else ""
    beside = ", ".join(escaped(name) for name in spec.condition[:MOST_NAMES])
    return _section(
        "Data",
        _table(
            ("", ""),
            [
                ("name", escaped(spec.name)),
                ("training rows", f"{spec.rows:,}"),
                ("held-out rows", f"{spec.held_out_rows:,}"),
                ("shape of a row", " x ".join(map(str, spec.user_shape))),
                ("columns", ", ".join(names) + more),
                ("given beside a row", beside),
                ("fingerprint", f"`{spec.fingerprint}`" if spec.fingerprint.isalnum() else escaped(spec.fingerprint)),
            ],
        ),
    )


def _model(run: Run) -> str:
    config, environment = run.config, run.environment
    model = config.model
    why = next((finding for finding in run.findings if finding.code in CHOSEN), None)
    kind = "a mass, whose bound is a code length" if run.is_mass else "a density"
    reason = f"{why.why}; {why.evidence}" if why else "named in the settings"
    hidden = {"mlp": f" of {model.hidden}", "conv": f" of {model.channels}"}
    return _section(
        "Model",
        _table(
            ("", ""),
            [
                ("likelihood p(x\\|z)", f"{config.likelihood.name}, {kind}"),
                ("why this one", escaped(reason)),
                ("posterior q(z\\|x)", f"{model.posterior}: {POSTERIORS[model.posterior].title}"),
                ("prior p(z)", _prior(run)),
                ("encoder", f"{model.encoder}{hidden.get(str(model.encoder), '')}"),
                ("decoder", f"{model.decoder}"),
                ("parameters", f"{environment.get('parameters', 0):,}"),
                ("objective", _objective(run)),
                ("selected weights", f"step {run.metrics['step']} of {config.train.total}"),
            ],
        ),
    )


def _prior(run: Run) -> str:
    prior = run.config.prior
    return f"{prior.name}, and {prior.after} fitted after training" if prior.after != "none" else f"{prior.name}"


def _objective(run: Run) -> str:
    """Its name and what was set of it, or what it says of itself where it is a user's own."""
    if run.environment.get("own_objective"):
        return escaped(run.environment.get("objective", "of its own"))
    given = run.config.objective.model_dump(mode="json", exclude_defaults=True)
    told = [f"{name}={value}" for name, value in given.items() if name != "name"]
    return escaped(", ".join([run.config.objective.name, *told]))


def _measured(run: Run) -> str:
    found = run.evaluation.get("numbers", {})
    if not found:
        return _section("Measured", _held_out(run))
    rows = [
        (name.replace("_", " "), _number(one["value"], one["interval"]), escaped(one["unit"]))
        for group in GROUPS
        for name, one in found.get(group, {}).items()
        if isinstance(one["value"], int | float)
    ]
    facts = [f"- {name}: {escaped(text)}" for name, text in run.evaluation["facts"].items()]
    return _section("Measured", _table(("number", "value", "unit"), rows), "How:\n", *facts, "", _held_out(run))


def _held_out(run: Run) -> str:
    measured = run.metrics
    name, value, error = selected_by(measured)
    kl = "closed-form KL" if measured.get("kl_is_exact") else "Monte Carlo KL"
    how = f"{measured['rows']} held-out rows, beta = 1, {measured.get('samples', 1)} posterior samples a row, {kl}"
    chose = "These rows also chose which weights were kept."
    return (
        f"Held-out {name}: {_number(value, error and Z95 * error)} nats per sample, lower is better ({how}). {chose}\n"
    )


def _findings(run: Run) -> str:
    """Warnings and errors, the gravest first."""
    grave = _grave(run)
    made = [] if run.diagnosis else ["No diagnosis of the trained model was made (`vaelab diagnose`).\n"]
    if not grave:
        return _section("Findings", "No warning and no error was found.\n", *made)
    rows = [(finding.severity, finding.code, escaped(finding.title), escaped(finding.number)) for finding in grave]
    return _section("Findings", _table(("severity", "code", "finding", "measured"), rows), *made)


def _grave(run: Run) -> list[Finding]:
    evaluated = [Finding.from_dict(one) for one in run.evaluation.get("findings", [])]
    found = [one for one in (*run.findings, *evaluated) if one.severity in ("warning", "error")]
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))


def _limits(run: Run, rows_left_out: bool) -> str:
    """What follows from the findings and from what the model is."""
    said = [
        f"{escaped(finding.title)} ({finding.code}): {escaped(finding.why)}." for finding in _grave(run) if finding.why
    ]
    said += ["It bounds no likelihood: its codes have no noise."] if not run.has_bound else []
    said += ["Training did not come to its end."] if not run.is_finished else []
    said += [HELD_ROWS[run.config.prior.name]] if run.config.prior.name in HELD_ROWS else []
    said += ["Rows of the data are not in this folder."] if rows_left_out else []
    said += ["Nothing was measured on data of another source."]
    return _section("Limits", *(f"- {sentence}" for sentence in said), "")


def _use(run: Run) -> str:
    rows = {"sequence": '["..."]', "image": "numpy.load('images.npy')"}.get(run.spec.layout, "numpy.load('rows.npy')")
    code = f"import numpy, vaelab\n\nrun = vaelab.load('THIS_FOLDER')\nz = run.embed({rows})\nnew = run.sample(16)"
    versions = [(name, escaped(number)) for name, number in run.environment.get("versions", {}).items() if number]
    return "\n".join(
        [
            _section("How to load it", f"```python\n{code}\n```\n"),
            _section("Versions", _table(("package", "version it was trained with"), versions)),
        ]
    )


def _section(title: str, *lines: str) -> str:
    return "\n".join([f"## {title}\n", *lines])


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table without the rows that have nothing to say."""
    lines = [head, ["---"] * len(head), *(row for row in rows if row[1] not in ("", None))]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _number(value: float | None, interval: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{plain(value, interval)} {spread(interval)} (95 %)" if interval is not None else plain(value)
