"""What a run gives back: rows in the user's layout and scale, numbers on the data's own, models from own parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vaelab
from vaelab.core.errors import BadInput
from vaelab.data.batches import Order, Rows
from vaelab.data.transforms import Affine

RANDOM = np.random.default_rng(0)
QUICK: dict[str, Any] = {
    "model": {"hidden": [16], "latent": 2},
    "train": {"steps": 40, "batch_size": 32, "threads": 1},
    "report": {"html": False},
}


def quick(**sections: Any) -> dict[str, Any]:
    return {name: {**QUICK.get(name, {}), **value} if isinstance(value, dict) else value for name, value in
            (QUICK | sections).items()}  # fmt: skip


def train(x: Any, folder: Path, **options: Any) -> vaelab.Run:
    return vaelab.train(x, out=folder / "run", progress=False, **{"config": QUICK, **options})


# Layouts --------------------------------------------------------------------------------------------------------------

GRAY = RANDOM.integers(0, 256, (50, 16, 18)).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (50, 3, 16, 18)).astype(np.uint8)
LAYOUTS: dict[str, np.ndarray] = {
    "table": RANDOM.normal(size=(50, 7)),
    "gray images": GRAY,
    "one channel": GRAY[:, None],
    "channels first": COLOUR,
    "channels last": np.ascontiguousarray(COLOUR.transpose(0, 2, 3, 1)),
    "big-endian": RANDOM.normal(size=(50, 7)).astype(">f8"),
    "float16": RANDOM.normal(size=(50, 7)).astype(np.float16),
    "Fortran order": np.asfortranarray(RANDOM.normal(size=(50, 7))),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_come_back_in_the_layout_and_on_the_scale_they_came_in(tmp_path: Path, name: str) -> None:
    x = LAYOUTS[name]
    run = train(x, tmp_path)
    shape = x.shape[1:]
    assert run.reconstruct(x[:4]).shape == (4, *shape)
    assert run.sample(3).shape == run.sample(3, noisy=True).shape == (3, *shape)
    assert run.interpolate(x[0], x[1], 5).shape == (5, *shape)
    assert run.embed(x).shape == (50, 2)
    assert np.abs(run.sample(500).mean() - x.astype(float).mean()) < 0.5 * x.astype(float).std()
    assert np.allclose(run.embed(x)[:4], vaelab.load(run.folder).embed(x[:4]), atol=1e-6)


@pytest.mark.parametrize("name", ["channels last", "channels first"])
def test_a_colour_stays_in_its_channel(tmp_path: Path, name: str) -> None:
    """Images whose only structure is a constant per channel: a transposed result would swap colours and rows."""
    x = LAYOUTS[name].astype(np.float32) * 0 + RANDOM.normal(0, 1, LAYOUTS[name].shape)
    bright = (..., 2, slice(None), slice(None)) if name == "channels first" else (..., 2)
    x[bright] += 100
    run = train(x, tmp_path, config=quick(train={"steps": 300, "learning_rate": 0.01}))
    sample = run.sample(50).mean(0)
    assert sample[bright].mean() > 1.3 * sample.mean()


def test_a_memory_map_is_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, GRAY)
    run = train(path, tmp_path)
    assert run.preview.dtype == np.uint8
    assert run.embed(np.load(path, mmap_mode="r")).shape == (50, 2)


def test_datasets_loaders_and_pairs_give_the_run_of_their_array(tmp_path: Path) -> None:
    x, y = torch.from_numpy(LAYOUTS["table"]).float(), torch.arange(50) % 3
    sources = [x.numpy(), x, (x, y), TensorDataset(x, y), DataLoader(TensorDataset(x), batch_size=8, shuffle=True)]
    codes = [train(s, tmp_path / str(i)).embed(x.numpy()) for i, s in enumerate(sources)]
    assert all(np.array_equal(codes[0], other) for other in codes[1:])


def test_a_folder_of_colour_images_by_class(tmp_path: Path) -> None:
    for number, image in enumerate(LAYOUTS["channels last"][:20]):
        folder = tmp_path / "images" / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02}.png")
    run = train(tmp_path / "images", tmp_path, config=quick(model={"encoder": "conv", "channels": [4, 8]}))
    assert run.spec.label_names == ("even", "odd")
    assert run.sample(2).shape[1:] in ((3, 16, 18), (16, 18, 3))
    assert run.preview_labels is not None


# Numbers --------------------------------------------------------------------------------------------------------------


def test_the_bound_is_on_the_datas_own_scale(tmp_path: Path) -> None:
    """Recomputed from the decoder's mean and noise on the original scale by scipy, with many posterior samples."""
    x = load_wine().data
    np.savez(tmp_path / "wine.npz", x_train=x[:120], x_test=x[120:])
    run = train(tmp_path / "wine.npz", tmp_path, config=quick(train={"steps": 300}))
    test, scale = x[120:], x[:120].std(0)
    mean, deviation = run.posterior(test)
    sigma = run.model.decoder.likelihood.noise.log_sigma.exp().item() * scale
    draws = [
        stats.norm.logpdf(test, run.decode(mean + deviation * RANDOM.normal(size=mean.shape)), sigma).sum(1)
        for _ in range(400)
    ]
    kl = 0.5 * (mean**2 + deviation**2 - 1 - 2 * np.log(deviation)).sum(1)
    elbo = np.mean(draws, 0) - kl
    error = np.sqrt(np.var(draws, axis=0).mean() / len(test) * (1 / 400 + 1 / run.metrics["samples"]))
    assert run.metrics["negative_elbo"] == pytest.approx(-elbo.mean(), abs=4 * error)
    assert run.metrics["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    assert run.metrics["standard_error"] == pytest.approx(elbo.std(ddof=1) / np.sqrt(len(test)), rel=0.1)


def test_scaling_the_data_shifts_the_bound_by_the_log_of_the_factor(tmp_path: Path) -> None:
    x = load_wine().data
    runs = [train(factor * x, tmp_path / str(factor)) for factor in (1.0, 1000.0)]
    difference = runs[1].metrics["negative_elbo"] - runs[0].metrics["negative_elbo"]
    assert difference == pytest.approx(13 * np.log(1000.0), abs=0.01)


def test_dynamic_binarisation_draws_anew_for_training_and_alike_for_evaluation(tmp_path: Path) -> None:
    x = torch.full((40, 6), 0.3)
    rows = Rows(x, None, Affine(), binarize="dynamic", shape=(6,), device=torch.device("cpu"))
    coins = torch.Generator().manual_seed(0)
    draws = torch.stack([rows.take(torch.arange(40), coins) for _ in range(200)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert draws.mean().item() == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(draws[0], draws[1])
    run = train(x.numpy(), tmp_path, config=quick(data={"binarize": "dynamic"}))
    held_out = [line for line in run.history if line["kind"] == "held_out"]
    assert run.config.likelihood.name == "bernoulli"
    assert held_out[-1]["reconstruction"] == pytest.approx(6 * 0.61, abs=0.5)  # the entropy of a coin of 0.3 is 0.61


@pytest.mark.parametrize(("count", "size"), [(10, 3), (3, 10), (7, 7), (5, 1)])
def test_every_row_is_drawn_equally_often_and_no_batch_is_short(count: int, size: int) -> None:
    order = Order(count, size, seed=1)
    batches = [order.batch(t) for t in range(count * 4)]
    assert {len(batch) for batch in batches} == {size}
    assert torch.bincount(torch.cat(batches), minlength=count).tolist() == [4 * size] * count
    again = Order(count, size, seed=1)
    assert all(torch.equal(again.batch(t), batches[t]) for t in reversed(range(len(batches))))


# Own parts ------------------------------------------------------------------------------------------------------------


class LaplacePosterior(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.distributions.Distribution:
        mean, raw = self.net(x).chunk(2, -1)
        return torch.distributions.Laplace(mean, nn.functional.softplus(raw) + 1e-3)


class LearnedPrior(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def forward(self) -> torch.distributions.Distribution:
        return torch.distributions.Normal(self.mean, self.raw.exp())


@pytest.mark.parametrize(
    ("encoder", "prior"),
    [
        (nn.Linear(7, 4), None),
        (nn.Linear(7, 4), LearnedPrior()),
        (LaplacePosterior(), LearnedPrior()),
        (vaelab.distributions.GaussianPosterior(nn.Flatten(), 7, 2, covariance="full"), None),
    ],
)
def test_models_from_own_parts_train_save_and_load(tmp_path: Path, encoder: nn.Module, prior: nn.Module | None) -> None:
    x = LAYOUTS["table"].astype(np.float32)
    model = vaelab.VAE(encoder, nn.Linear(2, 7), prior, likelihood="gaussian", latent=2)
    before = [parameter.clone() for parameter in model.parameters()]
    run = train(x, tmp_path, model=model, objective=vaelab.ELBO(beta=4.0))
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(line["beta"] == 4.0 for line in run.history if line["kind"] == "train")
    with pytest.raises(BadInput, match="pass it"):
        _ = vaelab.load(run.folder).model
    fresh = vaelab.VAE(encoder, nn.Linear(2, 7), prior, likelihood="gaussian", latent=2)
    assert np.allclose(vaelab.load(run.folder, model=fresh).embed(x), run.embed(x))
    with pytest.raises(BadInput, match="model of your own"):
        vaelab.train(x, resume=run.folder, progress=False)


def test_an_own_convolutional_model_sees_images_as_they_came(tmp_path: Path) -> None:
    encoder = nn.Sequential(nn.Unflatten(1, (1, 16)), nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.LazyLinear(4))
    decoder = nn.Sequential(nn.Linear(2, 16 * 18), nn.Unflatten(1, (16, 18)))
    model = vaelab.VAE(encoder, decoder, likelihood="gaussian", latent=2)
    model.draw(torch.zeros(2, 16, 18))  # lazy layers take their shape
    assert train(GRAY, tmp_path, model=model).sample(3).shape == (3, 16, 18)


def test_a_decoder_that_returns_a_tensor_is_refused_with_a_way_out() -> None:
    model = vaelab.VAE(nn.Linear(7, 4), nn.Linear(2, 7), latent=2)
    with pytest.raises(BadInput, match=r"decoder.*likelihood="):
        model.draw(torch.zeros(3, 7))
    with pytest.raises(BadInput, match="did you mean bernoulli"):
        vaelab.VAE(nn.Linear(7, 4), nn.Linear(2, 7), likelihood="bernouli", latent=2)
    with pytest.raises(BadInput, match="latent"):
        vaelab.VAE(nn.Linear(7, 4), nn.Linear(2, 7), likelihood="bernoulli")


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli", "categorical", "poisson", "gaussian"])
@pytest.mark.parametrize("encoder", ["mlp", "conv"])
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_every_likelihood_network_and_posterior_trains_and_improves(
    tmp_path: Path, likelihood: str, encoder: str, posterior: str
) -> None:
    x = np.repeat(RANDOM.integers(0, 200, (60, 1, 1)), 8, 1).repeat(8, 2).astype(np.uint8)
    model = {"encoder": encoder, "posterior": posterior, "channels": [4, 8], "latent": 2, "hidden": [16]}
    config = quick(model=model, likelihood=likelihood, train={"steps": 60, "learning_rate": 5e-3})
    run = train(x, tmp_path, config=config)
    losses = [line["loss"] for line in run.history if line["kind"] == "train"]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert all(np.isfinite(losses))
    assert run.reconstruct(x).shape == x.shape
    run.model.train()
    output = run.model.draw(run.spec.to_model(x), 2)
    vaelab.ELBO()(output, {"beta": 1.0}).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in run.model.parameters())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((3, 6)), "the model takes numbers of shape (n, 7)"),
        (np.zeros(7), "shape (7,)"),
        (np.full((2, 7), np.nan), "missing or infinite"),
        (np.zeros((0, 7)), "shape (0, 7)"),
    ],
)
def test_rows_of_another_kind_are_refused_at_use(tmp_path: Path, rows: np.ndarray, said: str) -> None:
    run = train(LAYOUTS["table"], tmp_path, config=quick(train={"steps": 2}))
    with pytest.raises(BadInput) as caught:
        run.embed(rows)
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_many_rows_of_a_wrong_shape_are_refused_with_the_shape_of_all(tmp_path: Path, kind: Any) -> None:
    run = train(LAYOUTS["table"], tmp_path, config=quick(train={"steps": 2}))
    with pytest.raises(BadInput, match=r"^x: got shape \(3072, 4\); the model takes numbers of shape \(n, 7\)$"):
        run.embed(kind(np.zeros((3072, 4))))


def test_drawn_codes_have_the_posteriors_moments(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = vaelab.distributions.GaussianPosterior(nn.Flatten(), 7, 2, covariance="full")
    model = vaelab.VAE(encoder, nn.Linear(2, 7), likelihood="gaussian", latent=2)
    run = train(LAYOUTS["table"], tmp_path, model=model, config=quick(train={"steps": 10}))
    x = LAYOUTS["table"][:1]
    drawn = run.embed(np.repeat(x, 20_000, 0), sample=True)
    posterior = run.model.encode(run.spec.to_model(x))
    covariance = (posterior.scale_tril @ posterior.scale_tril.mT)[0].detach().numpy()
    assert np.allclose(drawn.mean(0), posterior.mean[0].detach().numpy(), atol=0.05)
    assert np.allclose(np.cov(drawn.T), covariance, atol=0.05 * covariance.max())
    assert np.array_equal(run.embed(x, sample=True, seed=3), run.embed(x, sample=True, seed=3))


@pytest.mark.parametrize("train_settings", [{"precision": "bfloat16"}, {"deterministic": True}, {"schedule": "linear"}])
def test_other_ways_to_train_run_and_improve(tmp_path: Path, train_settings: dict[str, Any]) -> None:
    run = train(LAYOUTS["table"], tmp_path, config=quick(train=train_settings | {"learning_rate": 0.01}))
    held_out = [line["negative_elbo"] for line in run.history if line["kind"] == "held_out"]
    assert min(held_out) < held_out[0]
    assert not torch.are_deterministic_algorithms_enabled()
    assert all(p.dtype == torch.float32 for p in run.model.parameters())
