"""Cells as rows of counts: from .h5ad files and AnnData objects, with what is known of each cell beside them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.cell_files import CellFile, read_h5ad
from ..core.errors import BadInput
from ..core.finding import Finding
from .arrays import EXACT_IN_FLOAT32, Parts
from .sparse import SparseRows

NAMES_OF_TYPES = ("cell_type", "celltype", "cell_types", "labels", "label", "leiden", "louvain")
FROM_SCANPY = "keep the raw counts, as in adata.layers['counts'] = adata.X.copy(), before normalising"


def from_h5ad(path: Path, key: str | None, genes: str) -> Parts:
    """The cells of an .h5ad file as rows; see `rows_of_cells`."""
    return rows_of_cells(read_h5ad(path, key), str(path), genes)


def is_anndata(source: Any) -> bool:
    """Whether something is an AnnData object; the package is not imported to find out."""
    package = sys.modules.get("anndata")
    return package is not None and isinstance(source, package.AnnData)


def from_anndata(source: Any, where: str, key: str | None, genes: str) -> Parts:
    """The cells of an AnnData object in memory as rows.

    Raises:
        BadInput: for what `rows_of_cells` refuses, and a matrix that is not there.
    """
    matrices = {name: (matrix, source.var) for name, matrix in {"X": source.X, **source.layers}.items()}
    matrices |= {"raw": (source.raw.X, source.raw.var)} if source.raw is not None else {}
    there = tuple(name for name, (matrix, _) in matrices.items() if matrix is not None)
    if (key or "X") not in there:
        raise BadInput(where, f"no matrix {key or 'X'}", f"there are: {', '.join(there) or 'none'}", "data.key=NAME")
    matrix, var = matrices[key or "X"]
    marked = np.asarray(var["highly_variable"], bool) if "highly_variable" in var else None
    beside = {str(name): _column(source.obs[name]) for name in source.obs}
    if hasattr(matrix, "nnz"):
        from scipy import sparse

        matrix = sparse.csr_matrix(matrix)
    named, cells = tuple(map(str, var.index)), tuple(map(str, source.obs_names))
    return rows_of_cells(CellFile(matrix, named, cells, beside, marked, there), where, genes)


def rows_of_cells(found: CellFile, where: str, genes: str) -> Parts:
    """Counts as rows: a column for each gene, by name; sparse ones stay sparse until a batch is made of them.

    Args:
        found: The cells.
        where: What an error calls them.
        genes: "variable": the genes that are marked as highly variable, where some are; "all".

    Raises:
        BadInput: for entries that are no counts, naming cell, gene, and the other matrices there are.
    """
    if not all(found.x.shape):
        raise BadInput(where, f"{found.x.shape[0]} cells, {found.x.shape[1]} genes", "must hold at least one of both")
    _refuse_twins(found.genes, where)
    _refuse_other(found, where)
    chosen = found.variable if genes == "variable" and found.variable is not None and found.variable.any() else None
    x, names = found.x, found.genes
    if chosen is not None:
        x, names = x[:, np.flatnonzero(chosen)], tuple(np.array(names, object)[chosen])
    rows = SparseRows(x) if hasattr(x, "nnz") else np.ascontiguousarray(x, np.float32)
    return Parts(
        rows,
        y=_types(found.beside),
        columns=names,
        names=np.array(found.cells, object),
        beside=dict(found.beside),
        findings=() if chosen is None else (_only_variable(len(names), len(found.genes)),),
    )


def _types(beside: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The column that names the cells' types, by its usual names."""
    return next((beside[name] for name in NAMES_OF_TYPES if name in beside and beside[name].dtype == object), None)


def _column(column: Any) -> np.ndarray:
    """A column of a data frame: numbers and truth values as float64, all else as text, "" where it is missing."""
    missing = column.isna().to_numpy()
    if str(column.dtype) != "category" and getattr(column.dtype, "kind", "O") in "biuf":
        return column.to_numpy(np.float64, na_value=np.nan)
    return np.where(missing, "", column.astype(str).to_numpy(object)).astype(object)


def _refuse_twins(genes: tuple[str, ...], where: str) -> None:
    if len(set(genes)) < len(genes):
        seen: set[str] = set()
        twin = next(name for name in genes if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadInput(
            where, f"two genes called {twin}", "genes are told apart by name", "adata.var_names_make_unique()"
        )


def _refuse_other(found: CellFile, where: str) -> None:
    """Refuses a matrix with entries that are no counts: it was normalised, or its logarithm was taken."""
    entries = found.x.data if hasattr(found.x, "nnz") else found.x
    if entries.dtype.kind in "bu":
        return
    wrong = ~((entries >= 0) & (entries < EXACT_IN_FLOAT32) & (entries == np.floor(entries)))
    if not wrong.any():
        return
    if hasattr(found.x, "nnz"):
        place = int(np.flatnonzero(wrong)[0])
        row, column = int(np.searchsorted(found.x.indptr, place, "right")) - 1, int(found.x.indices[place])
        value = entries[place]
    else:
        row, column = (int(at) for at in np.argwhere(wrong)[0])
        value = entries[row, column]
    rule = "counts are whole numbers of at least 0: this matrix looks normalised or log-transformed"
    others = ", ".join(found.layers)
    fix = f"name the raw counts: data.key=LAYER, one of {others}" if len(found.layers) > 1 else FROM_SCANPY
    raise BadInput(where, f"{value:.6g} in cell {found.cells[row]}, gene {found.genes[column]}", rule, fix)


def _only_variable(count: int, total: int) -> Finding:
    return Finding(
        "DA113",
        "info",
        f"genes that are not marked as highly variable are left out, {total - count} of {total}",
        float(count),
        "genes" if count > 1 else "gene",
        why="var.highly_variable marks those that tell cells apart",
        advice="data.genes=all takes all of them",
    )
