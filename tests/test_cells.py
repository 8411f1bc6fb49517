"""Cells: counts given their library size against scipy, AnnData files of every kind, and files that are meant ill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, special, stats

import vaelab
from vaelab.cli import main
from vaelab.core.cell_files import read_h5ad, with_arrays
from vaelab.core.errors import BadInput
from vaelab.data.source import load
from vaelab.data.sparse import SparseRows
from vaelab.distributions.library import Library
from vaelab.use.embedding import embed_cells

CELLS, GENES = 60, 12
PBMC = Path(__file__).parents[2] / "shared" / "data" / "cells" / "pbmc_10k_protein_v3.h5ad"


def plain(names: Any) -> pd.Index:
    """Names that every version of anndata can write."""
    return pd.Index(list(names), dtype=object)


def made(kind: Any = np.asarray, seed: int = 0) -> anndata.AnnData:
    """Two types of cells in two batches, counts of very different totals."""
    random = np.random.default_rng(seed)
    types, batch = random.integers(0, 2, CELLS), random.integers(0, 2, CELLS)
    shares = random.dirichlet(np.ones(GENES), 2)
    counts = random.poisson(shares[types] * random.uniform(50, 500, (CELLS, 1))).astype(np.float32)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(plain(f"type {one}" for one in types)),
            "batch": pd.Categorical(batch + 1),
            "depth": counts.sum(1),
            "chosen": types == 1,
            "dose": pd.array([1, None] * (CELLS // 2), dtype="Int64"),
        },
        index=plain(f"cell {k}" for k in range(CELLS)),
    )
    marked = np.arange(GENES) % 3 > 0
    var = pd.DataFrame({"highly_variable": marked}, index=plain(f"g{k}" for k in range(GENES)))
    cells = anndata.AnnData(kind(counts), obs=obs, var=var)
    cells.layers["logs"] = np.log1p(counts)
    return cells


def call(words: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out + said.err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vaelab.Run:
    folder = tmp_path_factory.mktemp("cells")
    made(sparse.csr_matrix).write_h5ad(folder / "cells.h5ad")
    config = {
        "data": {"condition": ["batch"]},
        "model": {"latent": 2, "hidden": [16]},
        "likelihood": {"name": "negative_binomial", "library": "observed", "dispersion": "column"},
        "train": {"steps": 60},
        "report": {"html": False},
    }
    return vaelab.train(folder / "cells.h5ad", out=folder / "run", config=config, progress=False)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("by_column", [False, True])
def test_counts_given_their_total_are_scipys_negative_binomials(zeros: bool, by_column: bool) -> None:
    torch.manual_seed(0)
    likelihood = Library((5,), True, by_column, zeros).double()
    parameters = torch.randn(2, 3, likelihood.channels, 5, dtype=torch.float64)
    x = torch.poisson(torch.full((3, 5), 3.0, dtype=torch.float64))
    found = likelihood(parameters).log_prob(x)
    for sample, row in np.ndindex(2, 3):
        own = parameters[sample, row].numpy()
        mean = special.softmax(own[0]) * x[row].sum().item()
        log_dispersion = np.zeros(5) if by_column else 15 * np.tanh(own[1] / 15)
        mass = stats.nbinom.pmf(x[row], np.exp(-log_dispersion), 1 / (1 + mean * np.exp(log_dispersion)))
        if zeros:
            share = special.expit(own[-1])
            mass = share * (x[row].numpy() == 0) + (1 - share) * mass
        assert found[sample, row].item() == pytest.approx(np.log(mass).sum(), rel=1e-6)


def test_means_of_their_own_with_one_dispersion_a_column_are_scipys_too() -> None:
    likelihood = Library((2,), observed=False).double()
    likelihood.log_dispersion.data.copy_(torch.tensor([-1.0, 1.0]))
    x, log_mean = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([0.5, -1.0]).double()
    size, mean = np.exp(-15 * np.tanh(np.array([-1, 1]) / 15)), np.exp(20 * np.tanh(log_mean.numpy() / 20))
    truth = stats.nbinom.logpmf(x[0], size, size / (size + mean)).sum()
    assert likelihood(log_mean.view(1, 1, 1, 2)).log_prob(x).item() == pytest.approx(truth, rel=1e-9)


def test_an_empty_cell_costs_nothing_and_gives_finite_gradients() -> None:
    parameters = torch.randn(1, 1, 1, 4, requires_grad=True)
    nats = Library((4,))(parameters).log_prob(torch.zeros(1, 4))
    nats.sum().backward()
    assert nats.item() == pytest.approx(0, abs=1e-6) and parameters.grad.isfinite().all()


def test_drawn_cells_have_the_training_cells_mean_total_and_the_moments_of_it() -> None:
    likelihood = Library((3,))
    likelihood.see(torch.tensor([[10.0, 0.0, 0.0], [20.0, 10.0, 20.0]]))
    observed = likelihood(torch.tensor([0.0, 1.0, -1.0]).view(1, 1, 1, 3).expand(1, 40_000, 1, 3))
    mean = 30 * special.softmax([0.0, 1.0, -1.0])
    np.testing.assert_allclose(observed.mean[0, 0], mean, rtol=1e-5)
    drawn = observed.sample(torch.Generator().manual_seed(0))[0].double().numpy()
    variance = mean + mean**2  # a dispersion of 1
    assert (np.abs(drawn.mean(0) - mean) < 5 * np.sqrt(variance / len(drawn))).all()
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.1)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_files_and_objects_hold_the_same_cells(tmp_path: Path, kind: Any) -> None:
    cells = made(kind)
    cells.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    dense = np.asarray(made().X)
    for source in (cells, tmp_path / "cells.h5ad"):
        read = load(source, genes="all")
        assert isinstance(read.train, SparseRows) == (kind is not np.asarray)
        assert np.array_equal(np.asarray(read.train), dense) and np.array_equal(
            np.asarray(read.train[[3, 1]]), dense[[3, 1]]
        )
        assert read.columns == tuple(cells.var_names) and list(read.names) == list(cells.obs_names)
        assert [read.label_names[code] for code in read.train_labels] == list(cells.obs["cell_type"])
        assert list(read.beside["batch"]) == [str(one) for one in cells.obs["batch"]]
        assert np.array_equal(read.beside["depth"], dense.sum(1)) and set(read.beside["chosen"]) == {0.0, 1.0}
        assert read.beside["dose"][0] == 1 and np.isnan(read.beside["dose"][1])
        chosen = load(source)
        assert chosen.columns == tuple(cells.var_names[cells.var.highly_variable])
        assert np.array_equal(np.asarray(chosen.train), dense[:, cells.var.highly_variable])
        assert [finding.code for finding in chosen.findings] == ["DA113"]


def test_sparse_and_dense_counts_train_the_same_model(run, tmp_path: Path) -> None:
    config = run.config.updated(data={"source": None}).model_dump(mode="json")
    again = vaelab.train(made(), out=tmp_path / "run", config=config, progress=False)
    assert again.metrics == run.metrics
    assert set(run.spec.condition) == {"1", "2"} and run.spec.classes == 2


def test_genes_are_matched_by_name_whatever_their_order(run, tmp_path: Path, capsys) -> None:
    cells = made(sparse.csr_matrix)
    codes = embed_cells(run, cells)
    turned = cells[:, ::-1].copy()
    turned.var["highly_variable"] = False
    turned.obsm.clear()
    turned.write_h5ad(tmp_path / "turned.h5ad")
    status, said = call(["embed", run.folder, tmp_path / "turned.h5ad", "--to", tmp_path / "coded.h5ad"], capsys)
    assert status == 0 and "60 rows" in said
    coded = anndata.read_h5ad(tmp_path / "coded.h5ad")
    np.testing.assert_allclose(coded.obsm["X_vae"], codes.z, atol=1e-5)
    np.testing.assert_allclose(coded.obsm["X_vae_std"], cells.obsm["X_vae_std"], atol=1e-5)
    assert dict(coded.uns["vaelab"]) == dict(cells.uns["vaelab"]) and coded.uns["vaelab"]["library"] == "observed"
    assert np.array_equal(coded.X.toarray(), turned.X.toarray())
    assert coded.obs.equals(anndata.read_h5ad(tmp_path / "turned.h5ad").obs)
    again = with_arrays(tmp_path / "coded.h5ad", {"X_vae": codes.z[:, :1]}, "vaelab", {"run": "later"})
    (tmp_path / "again.h5ad").write_bytes(again)
    assert anndata.read_h5ad(tmp_path / "again.h5ad").obsm["X_vae"].shape == (CELLS, 1)


def test_what_the_codes_say_does_not_depend_on_how_deep_a_cell_was_read(run) -> None:
    """Under the observed library the shares of a code are the same whatever the total: the bound is of x given it."""
    rows = np.asarray(load(made(), genes="variable").train)
    observed = run.model.decode(torch.zeros(1, 1, 2), torch.tensor([[1.0, 0.0]]))
    assert observed.log_shares.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert run.reconstruct(rows[:2], ["1", "2"]).sum(1) == pytest.approx(
        run.model.decoder.likelihood.total.item(), rel=1e-4
    )


REFUSED = {
    "other genes": (lambda c: setattr(c, "var_names", plain(f"h{k}" for k in range(GENES))), "no column 'g1'"),
    "log-normalised": (
        lambda c: setattr(c, "X", c.layers["logs"]),
        "normalised or log-transformed; name the raw",
    ),
    "negative": (lambda c: c.X.__setitem__((2, 4), -1), "-1 in cell cell 2, gene g4"),
    "not a number": (lambda c: c.X.__setitem__((2, 4), np.nan), "nan in cell cell 2, gene g4"),
    "no batch": (lambda c: c.obs.pop("batch"), "condition"),
    "another batch": (
        lambda c: c.obs.__setitem__("batch", pd.Categorical(plain(["third"] * CELLS))),
        "no training row has that label",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_cells_that_do_not_fit_are_refused_in_one_line(run, tmp_path: Path, capsys, what: str) -> None:
    change, words = REFUSED[what]
    cells = made()
    change(cells)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    status, said = call(["embed", run.folder, tmp_path / "cells.h5ad", "--to", tmp_path / "z.h5ad"], capsys)
    assert status == 2 and words in said and len(said.strip().splitlines()) == 1, said
    assert not (tmp_path / "z.h5ad").exists()


def test_a_layer_is_named_by_the_key_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    cells = made()
    cells.layers["counts"], cells.X = cells.X.copy(), cells.layers["logs"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for source in (cells, tmp_path / "cells.h5ad"):
        assert np.array_equal(np.asarray(load(source, key="counts", genes="all").train), cells.layers["counts"])
        with pytest.raises(BadInput, match="no matrix cuonts; there are: X, "):
            load(source, key="cuonts")


def _in(path: Path, change: Any) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def _replace(file: Any, name: str, **how: Any) -> None:
    del file[name]
    file.create_dataset(name, **how)


ILL = {
    "external link": (lambda f: f.__setitem__("obs/more", h5py.ExternalLink("other.h5", "/x")), "a link"),
    "soft link": (lambda f: f.__setitem__("obs/more", h5py.SoftLink("/X")), "a link"),
    "outside": (
        lambda f: _replace(f, "obs/depth", shape=(9,), dtype="f4", external=[("a.bin", 0, 36)]),
        "other files",
    ),
    "bomb": (lambda f: _replace(f, "X/data", shape=(10**10,), dtype="f4", chunks=(10**6,)), "limit 8.0 GiB"),
    "hollow": (lambda f: _replace(f, "X/data", shape=(10**9,), dtype="f4", chunks=(10**6,)), "may be a bomb"),
    "indices": (lambda f: f["X/indices"].__setitem__(0, 10**6), "damaged"),
    "pointers": (lambda f: f["X/indptr"].__setitem__(1, 10**6), "damaged"),
    "shape": (lambda f: f["X"].attrs.__setitem__("shape", [CELLS + 1, GENES]), "damaged"),
    "objects": (lambda f: _replace(f, "obs/depth", data=np.zeros(CELLS, [("a", "f4")])), "list of text"),
    "no obs": (lambda f: f.__delitem__("obs"), "no table obs"),
    "no X": (lambda f: f.__delitem__("X"), "no matrix X; there are: logs"),
    "own member": (lambda f: f.__setitem__("uns/again", f["uns"]), ""),
}


@pytest.mark.parametrize("what", ILL)
def test_files_that_point_elsewhere_swell_or_lie_are_refused(tmp_path: Path, what: str) -> None:
    change, words = ILL[what]
    made(sparse.csr_matrix).write_h5ad(tmp_path / "cells.h5ad")
    _in(tmp_path / "cells.h5ad", change)
    if not words:
        assert read_h5ad(tmp_path / "cells.h5ad").x.shape == (CELLS, GENES)
        return
    with pytest.raises(BadInput, match=words):
        read_h5ad(tmp_path / "cells.h5ad")


def test_a_cut_or_altered_file_is_read_as_it_was_or_refused(tmp_path: Path) -> None:
    made(sparse.csr_matrix).write_h5ad(tmp_path / "cells.h5ad")
    data, random = (tmp_path / "cells.h5ad").read_bytes(), np.random.default_rng(0)
    broken = [data[:cut] for cut in random.integers(0, len(data), 25)]
    for place in random.integers(0, len(data), 60):
        broken.append(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    refused = 0
    for content in broken:
        (tmp_path / "broken.h5ad").write_bytes(content)
        try:
            load(tmp_path / "broken.h5ad")
        except BadInput as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused >= 25  # each that was cut; bytes between the entries are nobody's


@pytest.mark.skipif(not PBMC.exists(), reason="no shared/data: the cells are not in the project")
def test_real_cells_of_an_early_format_are_read_as_anndata_reads_them(tmp_path: Path) -> None:
    truth, read = anndata.read_h5ad(PBMC), load(PBMC, genes="all")
    assert read.columns == tuple(truth.var_names) and np.array_equal(np.asarray(read.train), truth.X)
    assert len(load(PBMC).columns) == truth.var.highly_variable.sum()
    shutil.copy(PBMC, tmp_path / "cells.h5ad")
    (tmp_path / "coded.h5ad").write_bytes(with_arrays(tmp_path / "cells.h5ad", {"X_vae": truth.X[:, :2]}, "vaelab", {}))
    coded = anndata.read_h5ad(tmp_path / "coded.h5ad")
    assert np.array_equal(coded.obsm["X_vae"], truth.X[:, :2]) and coded.obs.equals(truth.obs)
