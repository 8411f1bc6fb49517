"""Embeddings: rows as codes with their uncertainty, the rows nearest to a row, and the files both are written to."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.errors import BadInput, MissingExtra, whole
from ..core.tables import pick
from .files import csv_bytes, npy_bytes, npz_bytes, parquet_bytes, rows_png, save

What = Literal["mean", "sample", "both"]
WHAT = ("mean", "sample", "both")


@dataclass(frozen=True)
class Embedding:
    """Rows as codes.

    Args:
        z: What stands for each row, [n, L]: the mean of q(z|x), or a draw of it.
        std: Standard deviations of q(z|x), [n, L]; None where codes are entries of a book.
        sample: A draw of q(z|x) beside the mean, [n, L]; None where none was asked for.
        labels, names: Of each row, [n]; None where they have none.
        indices: Which entries of the book the codes are, [n, T], counted from 0; None for real vectors.
        told: Names of the labels whose probabilities the codes end in.
    """

    z: np.ndarray
    std: np.ndarray | None = None
    sample: np.ndarray | None = None
    labels: np.ndarray | None = None
    names: np.ndarray | None = None
    indices: np.ndarray | None = None
    told: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.z)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """What a table holds: `name`, `z_1` to `z_L` and `p_LABEL`, `std_...`, `sample_...`, `code_1`, ..., `label`."""
        real = [str(place + 1) for place in range(self.z.shape[1] - len(self.told))]
        ends = [*(f"z_{place}" for place in real), *(f"p_{name}" for name in self.told)]
        found = {} if self.names is None else {"name": self.names}
        found |= dict(zip(ends, self.z.T, strict=True))
        for prefix, part in (("std", self.std), ("sample", self.sample)):
            found |= {} if part is None else {f"{prefix}_{place}": part[:, int(place) - 1] for place in real}
        indices = () if self.indices is None else self.indices.T
        found |= {f"code_{place}": column for place, column in enumerate(indices, 1)}
        return found if self.labels is None else {**found, "label": self.labels}


def embed(run: Any, x: Any, what: What = "mean", *, seed: int = 0, condition: Any = None, **beside: Any) -> Embedding:
    """Codes of rows x [n, ...] with their uncertainty, piece by piece, so that large arrays take little memory.

    Args:
        run: A run.
        x: Rows as it takes them; see `Run.embed`.
        what: "mean": of q(z|x), or the likeliest entries of a book; "sample": one draw of q(z|x) each; "both".
        seed: Of the draw.
        condition: What is given beside the rows.
        beside: Names and labels of the rows, which are handed on; see `Embedding`.

    Raises:
        BadInput: for another word, rows that do not fit, and draws of codes that are entries of a book.

    Reference: Kingma and Welling, Auto-Encoding Variational Bayes, 2014.
    """
    pick(dict.fromkeys(WHAT), what, "what")
    mean = None if what == "sample" else run.embed(x, condition=condition)
    draw = None if what == "mean" else run.embed(x, True, seed, condition)
    z = draw if mean is None else mean
    std = None if run.has_codes else run.posterior(x, condition)[1]
    indices = run.indices(x, condition) if run.has_codes and mean is not None else None
    told = tuple(run.spec.condition) if run.model.guesses else ()
    assert z is not None
    return Embedding(z, std, draw if what == "both" else None, indices=indices, told=told, **beside)


@dataclass(frozen=True)
class Neighbours:
    """The rows nearest to each of n rows, the nearest first.

    Args:
        rows: Their places among the rows searched, counted from 0, [n, k].
        distances: To them, in units of the codes, [n, k].
    """

    rows: np.ndarray
    distances: np.ndarray


def _means(of: Embedding) -> np.ndarray:
    return of.z


def _with_spreads(of: Embedding) -> np.ndarray:
    if of.std is None:
        raise BadInput("distance", "wasserstein", "codes that are entries of a book have no spread", "distance=means")
    return np.concatenate([of.z, of.std], 1)


# The distance between two rows is the Euclidean one of what these give.
DISTANCES: dict[str, Callable[[Embedding], np.ndarray]] = {"means": _means, "wasserstein": _with_spreads}


def nearest(
    query: Embedding, among: Embedding | None = None, neighbours: int = 5, distance: str = "means"
) -> Neighbours:
    r"""The rows whose codes are nearest to those of each row of a query.

    "means" is the Euclidean distance of posterior means. "wasserstein" is the 2-Wasserstein distance of the posteriors
    as normals with these deviations, which tells apart rows whose codes agree but are not equally certain:

    .. math:: W_2^2 = \lVert \mu - \mu' \rVert^2 + \lVert \sigma - \sigma' \rVert^2

    Reference: Givens and Shortt, A Class of Wasserstein Metrics for Probability Distributions, 1984.

    Args:
        query: Rows to find neighbours of.
        among: Rows to search; None: those of the query, each without itself.
        neighbours: k.
        distance: "means" or "wasserstein".

    Raises:
        BadInput: for more neighbours than there are rows, codes of other sizes, and unknown distances.

    Example:
        >>> line = Embedding(np.array([[0.0], [1.0], [3.0]]))
        >>> nearest(line, neighbours=1).rows.ravel().tolist(), nearest(line, line, 2).distances[2].tolist()
        ([1, 0, 1], [0.0, 2.0])
    """
    from sklearn.neighbors import NearestNeighbors

    searched, places = query if among is None else among, pick(DISTANCES, distance, "distance")
    whole("neighbours", neighbours)
    most = len(searched) - (among is None)
    if neighbours > most:
        raise BadInput("neighbours", neighbours, f"there are {most} rows to find them among")
    if query.z.shape[1] != searched.z.shape[1]:
        sizes = f"{query.z.shape[1]} and {searched.z.shape[1]}"
        raise BadInput("among", f"codes of {sizes} dimensions", "codes are compared within one run")
    search = NearestNeighbors(n_neighbors=neighbours).fit(places(searched))
    distances, rows = search.kneighbors(None if among is None else places(query))
    return Neighbours(rows, distances)


def save_embedding(found: Embedding, path: str | Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Writes an embedding as a table, as arrays, or as cells; an older file of that name is replaced.

    Args:
        found: The embedding.
        path: A name ending in .csv or .parquet (see `Embedding.columns`), .npz (keys `z` and, where there are any,
            `std`, `sample`, `y`, `names`, `indices`), .npy (the codes alone) or .h5ad (codes as `X` and in `obsm`).
        facts: What `uns["vaelab"]` of an .h5ad file says.

    Returns:
        The file written.

    Raises:
        BadInput: for another ending, a folder, or a parent folder that is not there.
        MissingExtra: where the ending needs a package that is not installed.
        NoSpace: where the system refuses to write.
    """
    return save(path, FILES, found, dict(facts or {}))


def save_into_cells(source: str | Path, found: Embedding, path: str | Path, facts: Mapping[str, Any]) -> Path:
    """Writes a copy of an .h5ad file with the codes in `obsm["X_vae"]`, and `uns["vaelab"]` saying of what run.

    Their deviations are in `obsm["X_vae_std"]`, draws beside the means in `obsm["X_vae_sample"]`.

    Raises:
        BadInput: for what `save_embedding` refuses, and a file that cannot be read.
        NoSpace: where the system refuses to write.
    """
    from ..core.cell_files import with_arrays

    return save(path, {".h5ad": lambda: with_arrays(source, _obsm(found), "vaelab", facts)})


def embed_cells(run: Any, cells: Any, what: What = "mean", *, seed: int = 0) -> Embedding:
    """Adds codes to an AnnData object: `obsm["X_vae"]`, `obsm["X_vae_std"]` and `uns["vaelab"]`.

    Args:
        run: A run that was trained on cells with these genes, in any order.
        cells: The AnnData object; it is changed.
        what, seed: As of `embed`.

    Raises:
        BadInput: for a gene or a condition that is missing, and entries that are no counts.
    """
    from ..data.conditions import words_in
    from ..data.source import load

    read = load(cells, key=run.config.data.key, genes="all")
    condition = words_in(read, run.config.data.condition, False)
    found = embed(run, run.spec.in_order(read.train, read.columns), what, seed=seed, condition=condition)
    cells.obsm.update(_obsm(found))
    cells.uns["vaelab"] = facts_of(run)
    return found


def facts_of(run: Any) -> dict[str, str]:
    """What an .h5ad file says of the run that its codes come from; no path, as such files are handed on."""
    bound = run.metrics.get("negative_elbo")
    return {
        "run": run.folder.resolve().name,
        "vaelab": str(run.environment.get("vaelab", "")),
        "likelihood": run.config.likelihood.name,
        "library": run.config.likelihood.library,
        "trained_on": f"{run.spec.rows} rows of {Path(run.spec.name).name}",
        "fingerprint": run.spec.fingerprint,
        "negative_elbo": "" if bound is None else f"{bound:.4f} nats per sample, held out",
    }


def save_neighbours(
    query: Embedding, among: Embedding, found: Neighbours, path: str | Path, run: Any, rows: Sequence[Any]
) -> Path:
    """Writes neighbours: a table with a line for each, arrays, or pictures of each row with its neighbours behind it.

    Args:
        query, among: What was searched for, and among which rows.
        found: The neighbours.
        path: A name ending in .csv or .parquet (columns `query`, `rank`, `row`, `distance`, names and labels where
            there are some), .npz (keys `rows` and `distances`), or of images .png.
        run: The run.
        rows: The rows of the query and those searched.
    """

    def picture() -> bytes:
        shown, there = (_as_given(run.spec, np.asarray(part)) for part in rows)
        return rows_png(run, np.concatenate([shown[:, None], there[found.rows]], 1), {})

    table = _neighbour_columns(query, among, found)
    formats: dict[str, Callable[[], bytes]] = {
        ".csv": lambda: csv_bytes(table, zip(*table.values(), strict=True)),
        ".parquet": lambda: parquet_bytes(table),
        ".npz": lambda: npz_bytes(rows=found.rows, distances=found.distances),
    }
    return save(path, formats | ({".png": picture} if run.spec.layout == "image" else {}))


def _neighbour_columns(query: Embedding, among: Embedding, found: Neighbours) -> dict[str, np.ndarray]:
    count, near = found.rows.shape
    asked, rows = np.repeat(np.arange(count), near), found.rows.ravel()
    table = {"query": asked, "rank": np.tile(np.arange(1, near + 1), count), "row": rows}
    table |= {"distance": found.distances.ravel()}
    for name, of in (("name", "names"), ("label", "labels")):
        for prefix, part, places in (("query_", query, asked), ("", among, rows)):
            if (values := getattr(part, of)) is not None:
                table[f"{prefix}{name}"] = np.asarray(values)[places]
    return table


def _as_given(spec: Any, rows: np.ndarray) -> np.ndarray:
    """Images [n, ...] as the user has them; those that a run kept have their channels first."""
    if spec.axes == "HWC" and rows.shape[1:] == spec.shape:
        return np.moveaxis(rows, 1, -1)
    return rows.reshape(-1, *spec.user_shape)


def _obsm(found: Embedding) -> dict[str, np.ndarray]:
    parts = {"X_vae": found.z, "X_vae_std": found.std, "X_vae_sample": found.sample}
    return {name: part for name, part in parts.items() if part is not None}


def _npz(found: Embedding, facts: Mapping[str, Any]) -> bytes:
    parts = {"z": found.z, "std": found.std, "sample": found.sample, "indices": found.indices}
    parts |= {"y": found.labels, "names": found.names}
    arrays = {name: np.asarray(part) for name, part in parts.items() if part is not None}
    return npz_bytes(**{name: one.astype(str) if one.dtype == object else one for name, one in arrays.items()})


def _npy(found: Embedding, facts: Mapping[str, Any]) -> bytes:
    if found.sample is not None:
        raise BadInput("output", ".npy", "holds one array, and both are two", "end the name in .npz, .csv or .parquet")
    return npy_bytes(found.z)


def _h5ad(found: Embedding, facts: Mapping[str, Any]) -> bytes:
    try:
        import anndata
        import h5py
        import pandas
    except ImportError:
        raise MissingExtra("anndata", "cells", "writing .h5ad") from None
    names = np.arange(len(found)).astype(str) if found.names is None else found.names
    obs = pandas.DataFrame(index=_index(map(str, names)))
    if found.labels is not None:
        obs["label"] = pandas.Categorical(_index(map(str, found.labels)))
    dimensions = pandas.DataFrame(index=_index(f"z_{place + 1}" for place in range(found.z.shape[1])))
    cells = anndata.AnnData(found.z, obs=obs, var=dimensions, obsm=_obsm(found), uns={"vaelab": dict(facts)})
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        anndata.io.write_elem(file, "/", cells)
    return buffer.getvalue()


def _index(names: Iterable[str]) -> Any:
    """Names as Python's own text: not every version of the file format has a place for that of pandas."""
    import pandas

    return pandas.Index(list(names), dtype=object)


FILES: dict[str, Callable[[Embedding, Mapping[str, Any]], bytes]] = {
    ".csv": lambda found, facts: csv_bytes(found.columns, zip(*found.columns.values(), strict=True)),
    ".parquet": lambda found, facts: parquet_bytes(found.columns),
    ".npy": _npy,
    ".npz": _npz,
    ".h5ad": _h5ad,
}
