"""The PixelCNN decoder: its order by autograd's Jacobian, its mass by brute force, and its draws by their mass."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from vaelab.core.config import build_config
from vaelab.core.errors import BadInput
from vaelab.core.facts import Facts
from vaelab.distributions.likelihoods import LIKELIHOODS, Bernoulli, Categorical, Gaussian
from vaelab.distributions.pixel import PixelDecoder
from vaelab.measure.importance import importance_bound
from vaelab.models.build import build_model, resolve
from vaelab.models.fits import refuse_misfits
from vaelab.nets.pixel_cnn import PLANES, PixelCNN

LATENT = 2


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def decoder(shape, likelihood=None, layers=1, width=4, **settings):
    likelihood = likelihood or Bernoulli()
    colours, height, breadth = shape
    size = (height, breadth * colours)
    net = PixelCNN(nn.Linear(LATENT, PLANES * math.prod(size)), size, likelihood.channels, layers=layers, width=width)
    return PixelDecoder(net, likelihood, shape, **settings).double()


def flat_raster(x):
    """Entries in the order in which they are drawn: [..., C, H, W] to [..., H W C]."""
    return x.movedim(-3, -1).flatten(-3)


def jacobian(given, shape):
    z = torch.randn(1, LATENT).double()

    def parameters(x):
        return flat_raster(given.given(x[None], z).logits[0, 0])

    x = torch.rand(shape).double()
    found = torch.autograd.functional.jacobian(parameters, x)
    return flat_raster(found)


@pytest.mark.parametrize("shape", [(1, 4, 5), (1, 3, 3), (3, 2, 2), (2, 3, 2)])
def test_every_entry_sees_exactly_the_entries_before_it(shape):
    seen = jacobian(decoder(shape, layers=2, width=6), shape) != 0
    count = math.prod(shape)
    assert torch.equal(seen, torch.ones(count, count, dtype=torch.bool).tril(-1))


def test_the_reach_is_as_stated_and_has_no_blind_spot_within_it():
    shape, layers = (1, 9, 11), 1
    given = decoder(shape, layers=layers, width=8)
    seen = (jacobian(given, shape) != 0).view(9, 11, 9, 11)
    reach = given.net.reach
    row, column = 7, 5
    rows, columns = np.mgrid[:9, :11]
    before = (rows < row) | ((rows == row) & (columns < column))
    near = (row - rows <= reach) & (np.abs(columns - column) <= reach)
    found = seen[row, column].numpy()
    assert not (found & ~(before & near)).any()
    # The square of the first layer's reach, to the right of the pixel too, is what a blind spot would lack.
    square = (row - rows <= 3) & (np.abs(columns - column) <= 3)
    assert found[before & square].all()


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 1, 3)])
def test_the_mass_of_all_images_is_one(shape):
    given = decoder(shape, layers=1)
    rows = torch.tensor(list(itertools.product((0.0, 1.0), repeat=math.prod(shape)))).double().view(-1, *shape)
    z = torch.randn(3, 1, LATENT).double()
    log_mass = given(z.expand(-1, len(rows), -1)).log_prob(rows)
    torch.testing.assert_close(log_mass.exp().sum(1), torch.ones(3).double())


def test_the_mass_of_all_images_of_three_levels_is_one():
    given = decoder((1, 2, 3), Categorical(3))
    rows = torch.tensor(list(itertools.product(range(3), repeat=6))).double().view(-1, 1, 2, 3)
    log_mass = given(torch.randn(1, 1, LATENT).double().expand(1, len(rows), -1)).log_prob(rows)
    assert log_mass.exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 1, 3)])
def test_draws_come_as_often_as_their_mass_says(shape):
    given, many = decoder(shape), 40_000
    rows = torch.tensor(list(itertools.product((0.0, 1.0), repeat=math.prod(shape)))).double().view(-1, *shape)
    z = torch.randn(1, 1, LATENT).double()
    with torch.no_grad():
        mass = given(z.expand(1, len(rows), -1)).log_prob(rows).exp()[0].numpy()
        observation = given(z.expand(1, many, -1))
        drawn, again = (observation.sample(torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(drawn, again)
    codes = (drawn[0].flatten(1) @ (2.0 ** torch.arange(math.prod(shape)).double().flip(0))).long().numpy()
    found = np.bincount(codes, minlength=len(mass)) / many
    assert (np.abs(found - mass) < 5 * np.sqrt(mass * (1 - mass) / many)).all()


@pytest.mark.parametrize("shape", [(1, 9, 8), (2, 7, 3)])
def test_windows_draw_what_whole_passes_would(shape):
    """The windows of a draw hold the whole reach: the mean, drawn along windows, is that of passes over everything."""
    given = decoder(shape, Gaussian("pixel"), layers=2)
    z = torch.randn(5, LATENT).double()
    x = torch.zeros(5, *shape).double()
    with torch.no_grad():
        for place in np.ndindex(shape[1], shape[2], shape[0]):
            row, column, colour = place
            x[:, colour, row, column] = given.given(x, z).mean[0][:, colour, row, column]
        torch.testing.assert_close(given(z).mean[0], x, rtol=1e-12, atol=1e-12)


def test_hidden_pixels_are_hidden_in_training_from_the_input_alone():
    given = decoder((1, 3, 4), word_dropout=1.0, prepare=lambda x: 2 * x - 1)
    z, x = torch.randn(1, 2, LATENT).double(), torch.rand(2, 1, 3, 4).double().round()
    blind = given.given(torch.full_like(x, 0.5), z[0]).log_prob(x)
    torch.testing.assert_close(given(z).log_prob(x), blind)
    given.eval()
    torch.testing.assert_close(given(z).log_prob(x), given.given(x, z[0]).log_prob(x))


def test_parts_give_what_the_whole_gives(monkeypatch):
    given = decoder((1, 4, 4)).eval()
    z, x = torch.randn(3, 5, LATENT).double(), torch.rand(5, 1, 4, 4).double().round()
    whole = given(z).log_prob(x)
    monkeypatch.setattr("vaelab.distributions.pixel.AT_ONCE", 1)
    with torch.no_grad():
        torch.testing.assert_close(given(z).log_prob(x), whole.detach())
        assert given(z[:, :1]).log_prob(x).shape == (3, 5)


SMALL = {"model": {"decoder": "pixel_cnn", "encoder": "mlp", "hidden": [8], "latent": 2, "width": 4, "layers": 1}}
VALUES = {"bernoulli": 2, "categorical": 4, "logistic_mixture": 4, "beta_binomial": 4, "poisson": 4,
          "negative_binomial": 4, "zero_inflated_negative_binomial": 4}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(LIKELIHOODS) - {"multinomial", "tokens"}))
def test_it_takes_every_likelihood_of_single_entries(name):
    read = {"levels": 4} if name in ("categorical", "logistic_mixture", "beta_binomial") else {}
    read |= {"components": 2} if name == "logistic_mixture" else {}
    config = build_config(SMALL, {"likelihood": {"name": name} | read})
    facts = Facts((1, 4, 3))
    config = resolve(config, facts, "image")
    refuse_misfits(config, facts, frozenset())
    model = build_model(config, facts).double()
    x = torch.randint(VALUES[name], (3, 1, 4, 3)).double() if name in VALUES else torch.rand(3, 1, 4, 3).double()
    output = model.draw(x, samples=2)
    (-output.elbo.mean()).backward()
    assert output.log_px.shape == (2, 3)
    silent = [name for name, p in model.decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    model.eval()
    drawn = model.sample(4).sample()[0]
    assert drawn.shape == (4, 1, 4, 3) and model.decoder.likelihood.holds(drawn).all()
    assert model.decode(torch.zeros(2, 2).double()).mean.isfinite().all()
    other = build_model(config, facts).double()
    other.load_state_dict(model.state_dict())
    z = torch.randn(1, 3, 2).double()
    assert torch.equal(other.eval().decode(z).log_prob(x), model.decode(z).log_prob(x))


@pytest.mark.parametrize(
    ("facts", "likelihood", "words"),
    [(Facts((12,)), "bernoulli", "these rows are none"), (Facts((1, 4, 3)), "multinomial", "hang together")],
)
def test_refusals(facts, likelihood, words):
    config = resolve(build_config(SMALL, {"likelihood": likelihood}), facts, "image")
    with pytest.raises(BadInput, match=words):
        refuse_misfits(config, facts, frozenset())


def test_a_likelihood_of_whole_rows_is_refused_by_the_decoder_itself():
    with pytest.raises(BadInput, match="entry by entry"):
        decoder((1, 2, 2), LIKELIHOODS["multinomial"]())


def test_importance_weighted_bound_is_the_brute_force_one_and_does_not_depend_on_parts():
    config = resolve(build_config(SMALL, {"likelihood": "bernoulli"}), Facts((1, 3, 3)), "image")
    model = build_model(config, Facts((1, 3, 3))).double().eval()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()  # q is the prior, which covers what the brute force covers
    x = torch.rand(4, 1, 3, 3).double().round()
    grid = torch.linspace(-6, 6, 81).double()
    codes = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        log_p = model.decode(codes[:, None].expand(-1, 4, -1)).log_prob(x)
        log_p = log_p + model.prior_distribution().log_prob(codes[:, None])
    truth = log_p.logsumexp(0) + 2 * math.log(12 / 80)
    bound = importance_bound(model, x, samples=4000)
    again = importance_bound(model, x, samples=4000, chunk=333)
    np.testing.assert_allclose(bound.values, truth, atol=0.02)
    np.testing.assert_allclose(bound.values, again.values, atol=1e-9)
