"""Commands that put codes to work: embed, nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .app import RunPath, To, app
from .words import taken, wrote


@app.command
def embed(
    run: RunPath,
    source: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    /,
    *,
    to: To = Path("codes.csv"),
    count: Annotated[int | None, Parameter(help="only the first rows")] = None,
    what: Annotated[str, Parameter(help="mean of q(z|x), one sample of it, or both")] = "mean",
    sample: Annotated[bool, Parameter(help="the same as --what sample")] = False,
    seed: Annotated[int, Parameter(help="of the sample")] = 0,
) -> int:
    """Write the latent codes of rows with their uncertainty; of .h5ad to .h5ad, the same cells with codes added."""
    from ..api import load
    from ..use.embedding import facts_of, save_embedding, save_into_cells

    loaded = load(run)
    cells = source if source is not None and {Path(source).suffix.lower(), to.suffix.lower()} == {".h5ad"} else None
    if cells is not None and count is not None:
        _refuse_count(count)
    found, _, said = _embedded(loaded, source, count, to, "sample" if sample and what == "mean" else what, seed)
    if cells is not None:
        return wrote(save_into_cells(cells, found, to, facts_of(loaded)), f"codes of {said}, in obsm")
    return wrote(save_embedding(found, to, facts_of(loaded)), f"codes of {said}")


@app.command
def nearest(
    run: RunPath,
    query: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    rows: Annotated[str | None, Parameter(help="rows to search; default: training rows kept in the run")] = None,
    /,
    *,
    to: To = Path("nearest.csv"),
    neighbours: Annotated[int, Parameter(help="for each row of the query")] = 5,
    count: Annotated[int | None, Parameter(help="only the first rows of the query")] = None,
    distance: Annotated[str, Parameter(help="means, or wasserstein, which counts the uncertainty in")] = "means",
) -> int:
    """Write the rows whose codes are nearest to those of a query; in the same file, each row but itself."""
    from ..api import load
    from ..use import embedding

    loaded = load(run)
    picture = to.suffix.lower() == ".png"
    asked, of_query, said = _embedded(loaded, query, count or (10 if picture else None), to)
    if itself := rows is not None and rows == query and count is None and not picture:
        among, searched, there = asked, of_query, said
    else:
        among, searched, there = _kept(loaded) if rows is None else _embedded(loaded, rows, None, to)
    found = embedding.nearest(asked, None if itself else among, neighbours, distance)
    path = embedding.save_neighbours(asked, among, found, to, loaded, (of_query, searched))
    return wrote(path, f"{neighbours} neighbours of {said} among {there}")


def _embedded(
    run: Any, source: str | None, count: int | None, to: Path, what: Any = "mean", seed: int = 0
) -> tuple[Any, Any, str]:
    """The codes of a file's rows, or of those the run kept, the rows, and what they are."""
    from ..use.embedding import embed

    found = taken(run, source, count, to)
    codes = embed(run, found.rows, what, seed=seed, condition=found.given, labels=found.labels, names=found.names)
    return codes, found.rows, found.what


def _kept(run: Any) -> tuple[Any, Any, str]:
    """The codes of the training rows that the run kept, the rows, and what they are."""
    from ..core.errors import BadInput
    from ..use.embedding import embed

    rows = run.training_preview
    if rows is None or not len(rows):
        raise BadInput("rows", None, f"{run.folder} keeps no training rows", "name a file of rows to search")
    return embed(run, rows, condition=run.training_condition), rows, f"{len(rows)} training rows kept in the run"


def _refuse_count(count: int) -> None:
    from ..core.errors import BadInput

    raise BadInput("count", count, "the output is the same cells with codes added", "leave it out, or end --to in .csv")
