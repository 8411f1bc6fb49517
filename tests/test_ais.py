"""Annealed importance sampling against closed forms, quadrature, and the laws that hold at any number of steps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from vaelab.core.errors import BadInput
from vaelab.distributions.likelihoods import Gaussian
from vaelab.distributions.normal import FullNormal
from vaelab.measure.ais import ais, simulate, simulated_ais
from vaelab.measure.hmc import EXTRA_NOISE, Path, resampled
from vaelab.models.vae import VAE


class Linear:
    """x = W z + m + noise in float64, with its log p(x) and posterior, and a q(z|x) that misses it."""

    def __init__(self, shift: float = 0.7, spread: float = 2.0, sigma: float = 0.8) -> None:
        pixels, latent = 5, 2
        draw = np.random.default_rng(3)
        self.weight = torch.tensor(draw.normal(size=(pixels, latent)))
        self.offset = torch.tensor(draw.normal(size=pixels))
        noise = sigma**2 * torch.eye(pixels, dtype=torch.float64)
        self.marginal = td.MultivariateNormal(self.offset, self.weight @ self.weight.T + noise)
        precision = torch.eye(latent, dtype=torch.float64) + self.weight.T @ self.weight / sigma**2
        self.covariance = torch.linalg.inv(precision)
        self.shift, self.spread, self.sigma = shift, spread, sigma

    def posterior_mean(self, x: Tensor) -> Tensor:
        return (x - self.offset) @ self.weight @ self.covariance / self.sigma**2

    def encode(self, x: Tensor) -> Any:
        variance = self.covariance.diagonal()
        mean = self.posterior_mean(x) + self.shift * variance.sqrt()
        return mean, (self.spread * variance).log().expand_as(mean)

    def log_px(self, x: Tensor, z: Tensor) -> Tensor:
        return td.Normal(z @ self.weight.T + self.offset, self.sigma).log_prob(x).sum(1)

    def draw_x(self, z: Tensor) -> Tensor:
        mean = z @ self.weight.T + self.offset
        return mean + self.sigma * torch.randn(mean.shape, dtype=mean.dtype)

    def rows(self, count: int, seed: int = 0) -> Tensor:
        """Rows further out than the model's own."""
        noise = np.random.default_rng(seed).normal(size=(count, len(self.offset)))
        return self.offset + 2 * torch.tensor(noise)

    def truth(self, x: Tensor) -> np.ndarray:
        return self.marginal.log_prob(x).numpy()


class ExactPosterior(Linear):
    def encode(self, x: Tensor) -> Any:
        mean = self.posterior_mean(x)
        return FullNormal(mean, torch.linalg.cholesky(self.covariance).expand(len(x), -1, -1))


def steep(layer: nn.Linear, factor: float) -> nn.Linear:
    """A layer that says more than at its start."""
    with torch.no_grad():
        layer.weight *= factor
    return layer


@pytest.mark.parametrize("steps", [2, 7])
def test_from_the_posterior_itself_every_weight_is_the_answer(steps: int) -> None:
    model = ExactPosterior()
    x = model.rows(4)
    bracket = ais(model, x, steps, chains=3, leapfrog=2)
    np.testing.assert_allclose(bracket.lower, model.truth(x), atol=1e-10)
    np.testing.assert_allclose(bracket.upper, model.truth(x), atol=1e-10)
    assert not bracket.upper_is_exact
    assert (bracket.lower_error < 1e-9).all()


@pytest.mark.parametrize(("start", "steps"), [("encoder", 200), ("prior", 600)])
def test_both_bounds_close_on_the_closed_form(start: Any, steps: int) -> None:
    model = Linear()
    x = model.rows(40)
    truth = model.truth(x)
    bracket = ais(model, x, steps, chains=64, start=start, leapfrog=1)
    for values, errors in ((bracket.lower, bracket.lower_error), (bracket.upper, bracket.upper_error)):
        assert abs((values - truth).mean()) < 0.01
        assert 0.7 < ((values - truth) / errors).std() < 1.5, "the errors over chains are what they say"
    assert bracket.between.low < truth.mean() < bracket.between.high
    assert abs(bracket.acceptance.mean() - 0.65) < 0.05
    assert (bracket.ess > 32).all()


@pytest.mark.parametrize(("start", "steps"), [("encoder", 2), ("encoder", 5), ("prior", 3), ("prior", 6)])
def test_weights_are_unbiased_at_any_number_of_steps(start: Any, steps: int) -> None:
    """E[w] = p(x) however few and bad the moves: the pilot's chains and the weights' share no noise."""
    model = Linear()
    x = (model.offset + 1.0).expand(4000, -1)
    bracket = ais(model, x, steps, chains=1, start=start, leapfrog=3)
    ratio = np.exp(bracket.lower - model.truth(x))
    assert abs(ratio.mean() - 1) < 3.5 * ratio.std() / np.sqrt(len(ratio))
    assert ratio.std() / np.sqrt(len(ratio)) < 0.05


@pytest.mark.parametrize(("start", "steps"), [("encoder", 2), ("encoder", 5), ("prior", 3), ("prior", 6)])
def test_weights_of_chains_back_are_unbiased_from_exact_draws(start: Any, steps: int) -> None:
    """E[1/w] = 1/p(x); the starts are wider than the posterior, so that the mean of 1/w can be seen to converge."""
    model = Linear(spread=3.0, sigma={"encoder": 0.8, "prior": 4.0}[start])
    x, z = simulate(model, model.rows(1), 4000)
    bracket = ais(model, x, steps, chains=1, start=start, leapfrog=3, z=z)
    assert bracket.upper_is_exact
    ratio = np.exp(model.truth(x) - bracket.upper)
    assert abs(ratio.mean() - 1) < 3.5 * ratio.std() / np.sqrt(len(ratio))
    assert ratio.std() / np.sqrt(len(ratio)) < 0.1


@pytest.mark.parametrize(("beta", "size"), [(0.3, 1.45), (0.9, 0.9)])
def test_moves_keep_the_density_of_their_temperature(beta: float, size: float) -> None:
    """From exact draws of f_beta, moves with too large steps and a wrong scale leave all moments as they were."""
    start, end = td.Normal(torch.tensor(1.0, dtype=torch.float64), 2.0), td.Normal(torch.tensor(-1.0).double(), 0.5)
    precision = (1 - beta) / 4 + beta / 0.25
    mean = ((1 - beta) * 1 / 4 - beta * 1 / 0.25) / precision
    torch.manual_seed(0)
    rows = 20_000
    path = Path(
        lambda z: (start.log_prob(z).sum(-1), (end.log_prob(z) - start.log_prob(z)).sum(-1)),
        torch.tensor([[2.0, 0.1]]).double(),
        torch.tensor([[1.0, 3.0]]).double(),
        leapfrog=2,
    )
    point = path.at(mean + precision**-0.5 * torch.randn(1, rows, 2, dtype=torch.float64))
    begin, sizes = point.z, torch.full((rows,), size, dtype=torch.float64)
    for _ in range(4):
        point, acceptance = path.move(point, beta, sizes, torch.randn(1, rows, 2 + EXTRA_NOISE, dtype=torch.float64))
    assert 0.3 < acceptance.mean() < 0.85
    assert (point.z != begin).all(-1).float().mean() > 0.5
    scaled = (point.z - mean) * precision**0.5
    for power, moment in ((1, 0.0), (2, 1.0), (4, 3.0)):
        values = scaled.pow(power)
        assert (values.mean((0, 1)) - moment).abs().max() < 4 * values.std() / rows**0.5


def test_states_come_up_again_by_weight() -> None:
    """Systematic resampling: each state floor(K w) times or once more, K w times in the mean over coins."""
    weights = torch.tensor([0.05, 0.3, 0.0, 0.65], dtype=torch.float64)
    z, coins = torch.arange(4.0)[:, None, None].expand(4, 2000, 1), torch.randn(2000, 1)
    drawn = resampled(z, weights.log()[:, None].expand(4, 2000) + 700.0, coins)[..., 0]
    counts = torch.stack([(drawn == state).sum(0) for state in range(4)])
    assert ((counts.T - 4 * weights).abs() < 1).all()
    torch.testing.assert_close(counts.double().mean(1), 4 * weights, atol=0.05, rtol=0)


def test_a_bernoulli_model_of_ours_against_quadrature() -> None:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), steep(nn.Linear(16, 12), 4.0))
    model = VAE(nn.Linear(12, 4), decoder, likelihood="bernoulli", latent=2)
    x, _ = simulate(model, torch.zeros(1, 12), 8)
    axis = torch.arange(-7, 7, 0.05)
    grid = torch.cartesian_prod(axis, axis)[:, None]
    with torch.no_grad():
        log_joint = model.decode(grid).log_prob(x).double() + td.Normal(0.0, 1.0).log_prob(grid).sum(-1).double()
    truth = (log_joint.logsumexp(0) + 2 * np.log(0.05)).numpy()
    starts: tuple[Literal["encoder", "prior"], ...] = ("encoder", "prior")
    for start in starts:
        bracket = ais(model, x, 200, start=start, leapfrog=2)
        assert (abs(bracket.lower - truth) < 4 * bracket.lower_error + 0.01).all()
        assert abs(bracket.lower.mean() - truth.mean()) < 3 * bracket.sampling_error + 0.005


def test_the_gap_on_simulated_rows_is_exact_and_shrinks() -> None:
    torch.manual_seed(1)
    decoder = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), steep(nn.Linear(30, 20), 4.0))
    model = VAE(nn.Linear(20, 12), decoder, likelihood="bernoulli", latent=6)
    few, many = (simulated_ais(model, torch.zeros(1, 20), 30, steps, chains=4, leapfrog=4) for steps in (5, 200))
    assert few.upper_is_exact
    assert few.gap.value - few.gap.interval > 1.0
    assert abs(many.gap.value) < 0.2
    assert few.mean < many.mean < few.upper.mean()


def test_a_mixture_prior_and_a_posterior_that_takes_no_noise() -> None:
    """Prior and encoder of `torch.distributions`; p(x) is a mixture of two normals."""

    class Prior(nn.Module):
        def forward(self) -> td.Distribution:
            parts = td.Independent(td.Normal(torch.tensor([[-2.0], [2.0]]), torch.tensor([[0.5], [1.0]])), 1)
            return td.MixtureSameFamily(td.Categorical(torch.tensor([0.3, 0.7])), parts)

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> td.Distribution:
            return td.Independent(td.Laplace(x[:, :1], torch.ones(len(x), 1)), 1)

    functions = {
        "encode": Encoder(),
        "log_px": lambda x, z: td.Normal(z, 1.0).log_prob(x).sum(1),
        "log_pz": lambda z: Prior()().log_prob(z),
    }
    identity = nn.Linear(1, 1)
    with torch.no_grad():
        identity.weight.fill_(1.0)
        identity.bias.fill_(0.0)
    ours = VAE(Encoder(), identity, Prior(), likelihood=Gaussian(noise="fixed", sigma=1.0), latent=1)
    x = torch.tensor([[-3.0], [0.0], [1.5]])
    left, right = td.Normal(-2.0, 1.25**0.5), td.Normal(2.0, 2.0**0.5)
    truth = (0.3 * left.log_prob(x).exp() + 0.7 * right.log_prob(x).exp()).log()[:, 0].numpy()
    for model, start in ((functions, "encoder"), (ours, "encoder"), (ours, "prior")):
        bracket = ais(model, x, 100, chains=32, start=start, leapfrog=2)  # type: ignore[arg-type]
        assert (abs(bracket.lower - truth) < 4 * bracket.lower_error + 0.01).all()
    with pytest.raises(BadInput, match="prior: got _ForeignPrior; must offer sample"):
        ais(functions, x, 10, start="prior")


@pytest.mark.parametrize("start", ["encoder", "prior"])
def test_neither_chunks_nor_other_rows_change_a_value(start: Any) -> None:
    model = Linear()
    x = model.rows(7)
    whole = ais(model, x, 20, chains=3, start=start, leapfrog=3)
    parts = ais(model, x, 20, chains=3, start=start, leapfrog=3, chunk=3)
    first = ais(model, x[:1], 20, chains=3, start=start, leapfrog=3)
    for name in ("lower", "upper", "lower_error", "upper_error", "ess", "acceptance"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), atol=1e-9)
        np.testing.assert_allclose(getattr(whole, name)[:1], getattr(first, name), atol=1e-9)
    other = ais(model, x, 20, chains=3, start=start, leapfrog=3, seed=1)
    assert (abs(other.lower - whole.lower) > 1e-6).all()


def test_nothing_is_left_behind_in_the_model_or_the_generators() -> None:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 6))
    model = VAE(nn.Linear(6, 4), decoder, likelihood="bernoulli", latent=2)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    weights, state = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    with torch.no_grad():
        one = ais(model, torch.ones(2, 6), 5, chains=2)
    two = ais(model, torch.ones(2, 6), 5, chains=2)
    np.testing.assert_array_equal(one.lower, two.lower)
    assert all(part.training for part in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, weight, grad in zip(model.parameters(), weights, before, strict=True):
        assert torch.equal(parameter, weight)
        np.testing.assert_array_equal(parameter.grad, grad)


def test_an_encoder_off_by_a_thousand_is_survived() -> None:
    """Trajectories that run away are refused before they overflow, and PyTorch's own checks see a NaN."""
    model = Linear(spread=1e6)
    model.weight, model.offset, model.covariance = (
        part.float() for part in (model.weight, model.offset, model.covariance)
    )
    bracket = ais(model, model.rows(3).float(), 30, chains=2, leapfrog=12)
    assert np.isfinite(bracket.lower).all()
    assert np.isfinite(bracket.upper).all()


def test_a_single_row_and_chain_and_another_scale() -> None:
    model = Linear()
    bracket = ais(model, model.rows(1), 10, chains=1)
    assert bracket.lower.shape == (1,)
    assert np.isnan(bracket.lower_error).all()
    assert bracket.ess == pytest.approx(1.0)
    moved = bracket.shifted(2.0)
    assert moved.mean == pytest.approx(bracket.mean + 2)
    assert moved.gap.value == pytest.approx(bracket.gap.value)
    assert "as far as the chains mix" in repr(moved)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 1}, "steps: got 1; must be a whole number of at least 2"),
        ({"chains": 0}, "chains: got 0; must be a whole number of at least 1"),
        ({"leapfrog": 1.5}, "leapfrog: got 1.5; must be a whole number of at least 1"),
        ({"chunk": 0}, "chunk: got 0; must be a whole number of at least 1"),
        ({"start": "encode"}, "start: got encode; is no place to start from; did you mean encoder?"),
        ({"z": torch.zeros(1, 2)}, r"z: got shape \(1, 2\); must be one vector for each of the 3 rows"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], text: str) -> None:
    model = Linear()
    with pytest.raises(BadInput, match=text):
        ais(model, model.rows(3), **options)


def test_what_a_model_lacks_is_named() -> None:
    model = Linear()
    x = model.rows(2)
    functions = {"encode": model.encode, "log_px": model.log_px}
    with pytest.raises(BadInput, match="no draw_x"):
        simulated_ais(functions, x, 2, 5)
    with pytest.raises(BadInput, match="rows: got 0"):
        simulate(model, x, 0)
    functions["log_px"] = lambda x, z: model.log_px(x, z).detach()
    with pytest.raises(BadInput, match="without a gradient"):
        ais(functions, x, 5, start="prior")
    with pytest.raises(BadInput, match="a single row is x"):
        ais(model, x[0])
    with pytest.raises(BadInput, match="must be rows"):
        simulated_ais(model, x[:0], 2, 5)
