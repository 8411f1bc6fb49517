"""Codes: books, posteriors and priors over them, against enumeration, hand computation and another library."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import vaelab
from vaelab.core.config import Config, build_config
from vaelab.core.errors import BadInput
from vaelab.core.facts import Facts
from vaelab.distributions.code_posteriors import GumbelPosterior, QuantisedPosterior
from vaelab.distributions.code_sequence import AutoregressivePrior
from vaelab.distributions.codes import CategoricalCodes, Codes
from vaelab.distributions.quantize import Book, GridBook, LearnedBook, VectorBook, nearest, straight_through
from vaelab.measure.code_use import CodeUse
from vaelab.measure.importance import importance_bound
from vaelab.measure.information import information, paired
from vaelab.models.build import acquaint, build_model, resolve
from vaelab.models.fits import refuse_misfits
from vaelab.models.vae import VAE
from vaelab.objectives.build import build_objective
from vaelab.training.rules_codes import code_rules
from vaelab.use.embedding import embed, save_embedding

KINDS = ("vq", "residual_vq", "fsq", "gumbel")
BOOK = {"codebook": 4, "code_size": 2, "hidden": [8]}
SMALL: dict[str, dict[str, Any]] = {
    "vq": BOOK,
    "residual_vq": BOOK | {"quantizers": 2},
    "fsq": {"code_levels": [3, 2], "hidden": [8]},
    "gumbel": BOOK,
}
BOOKS: dict[str, Any] = {
    "vector": lambda: VectorBook(5, 3),
    "residual": lambda: VectorBook(4, 2, depth=3),
    "grid": lambda: GridBook((4, 3, 2)),
    "learned": lambda: LearnedBook(6, 2),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def config_of(kind: str, **model: Any) -> Config:
    settings = {"model": SMALL[kind] | {"posterior": kind} | model, "likelihood": "bernoulli", "train": {"steps": 5}}
    return build_config(settings)


def model_of(kind: str, shape: tuple[int, ...] = (6,), **model: Any) -> VAE:
    facts = Facts(shape, rows=50)
    config = resolve(config_of(kind, **model), facts, "image" if len(shape) == 3 else "table")
    return build_model(config, facts).double()  # type: ignore[return-value]


def rows(count: int = 12, shape: tuple[int, ...] = (6,)) -> Tensor:
    return torch.rand(count, *shape).round().double()


# Books ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOOKS)
def test_symbols_and_vectors_are_inverse_over_the_whole_book(name: str) -> None:
    book: Book = BOOKS[name]().double()
    every = torch.tensor(list(itertools.product(range(book.symbols), repeat=book.depth)))
    assert math.log(len(every)) == pytest.approx(book.nats)
    z = book.vectors(every)
    assert z.shape == (len(every), book.size)
    assert len(torch.unique(z, dim=0)) == len(every)
    assert torch.equal(book.indices(z), every)
    assert torch.equal(book.indices(z.reshape(1, 1, -1)).reshape(every.shape), every)


@pytest.mark.parametrize(("levels", "expected"), [((2,), [-1, 0]), ((3,), [-1, 0, 1]), ((4,), [-1, -0.5, 0, 0.5])])
def test_a_grid_has_the_levels_asked_for_and_no_others(levels: tuple[int, ...], expected: list[float]) -> None:
    book = GridBook(levels).double()
    z, terms = book(torch.linspace(-30, 30, 4001, dtype=torch.double)[None, :, None])
    assert sorted(set(z.flatten().tolist())) == expected
    assert not terms
    assert (z.flatten().diff() >= 0).all(), "a larger output never gives a lower level"
    assert sorted(book.everything().flatten().tolist()) == expected


@pytest.mark.parametrize("levels", [(8, 5, 5), (4, 3), (7,)])
def test_a_grid_agrees_with_another_library(levels: tuple[int, ...]) -> None:
    other = pytest.importorskip("vector_quantize_pytorch").FSQ(list(levels))
    h = 2 * torch.randn(40, 9, len(levels))
    z, _ = GridBook(levels)(h)
    theirs, indices = other(h)
    assert torch.allclose(z.view_as(theirs), theirs, atol=1e-6)
    assert torch.equal(GridBook(levels).indices(z), indices.long())


def test_a_zero_output_is_the_middle_of_a_grid() -> None:
    assert GridBook((8, 5, 2)).double()(torch.zeros(1, 1, 3, dtype=torch.double))[0].tolist() == [[0.0, 0.0, 0.0]]


def test_the_gradient_of_a_grid_is_that_of_its_bounded_output() -> None:
    book, h = GridBook((5,)).double(), torch.tensor([[[0.3]]], dtype=torch.double, requires_grad=True)
    (slope,) = torch.autograd.grad(book(h)[0].sum(), h)
    reach = 2 * 1.001
    assert slope.item() == pytest.approx(reach * (1 - math.tanh(0.3) ** 2) / 2)


def test_nearest_is_exact_where_expanded_squares_are_not() -> None:
    entries = 1000 + torch.arange(4.0)[:, None] * 1e-3
    assert nearest(entries, entries).tolist() == [0, 1, 2, 3]


def test_gradients_go_straight_through_to_the_network() -> None:
    h = torch.randn(3, 2, 4, dtype=torch.double, requires_grad=True)
    book, pull = VectorBook(5, 4, commitment=0.7).double().eval(), torch.randn(3, 8, dtype=torch.double)
    z, terms = book(h)
    assert torch.equal(z, book.vectors(book.indices(z))), "z lies on the entries, with no rounding beside them"
    (given,) = torch.autograd.grad((z * pull).sum() + terms["commitment"].sum(), h)
    by_hand = pull.view_as(h) + 0.7 * 2 * (h - z.view_as(h))
    assert torch.allclose(given, by_hand)
    assert torch.allclose(terms["commitment"], 0.7 * (h - z.view_as(h)).square().sum((1, 2)))
    assert straight_through(h, h.round()).grad_fn is not None


def test_residuals_are_quantised_one_after_the_other() -> None:
    book, h = VectorBook(4, 2, depth=3).double().eval(), torch.randn(5, 1, 2, dtype=torch.double)
    z, terms = book(h)
    left, apart = h[:, 0], torch.zeros(5, dtype=torch.double)
    for level in range(3):
        chosen = torch.stack([min(book.entries[level], key=lambda e, r=r: (r - e).norm()) for r in left])
        assert torch.equal(z[:, 2 * level : 2 * level + 2], chosen)
        left = left - chosen
        apart += left.square().sum(1)
    assert torch.allclose(terms["commitment"], 0.25 * apart)


def test_entries_follow_the_mean_of_what_they_stand_for() -> None:
    book = VectorBook(2, 1, decay=0.9).double().train()
    book.entries.copy_(torch.tensor([[[-1.0], [1.0]]]))
    book(torch.tensor([[[-2.0]], [[-4.0]], [[-1.0]], [[3.0]]], dtype=torch.double))
    # shares 1/2 and 1/2 before; three quarters of the batch, of mean -7/3, and one quarter, of mean 3
    first, second = 0.9 * 0.5 + 0.1 * 0.75, 0.9 * 0.5 + 0.1 * 0.25
    expected = [(0.9 * 0.5 * -1 + 0.1 * -7 / 4) / first, (0.9 * 0.5 * 1 + 0.1 * 3 / 4) / second]
    assert book.shares[0].tolist() == pytest.approx([first, second])
    assert book.entries.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("depth", [1, 2])
def test_moving_averages_agree_with_another_library(depth: int) -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    ours = VectorBook(6, 3, depth, decay=0.8).double().train()
    options = {"dim": 3, "codebook_size": 6, "decay": 0.8, "threshold_ema_dead_code": 0, "commitment_weight": 0.25}
    theirs = library.ResidualVQ(num_quantizers=depth, **options) if depth > 1 else library.VectorQuantize(**options)
    theirs = theirs.double().train()
    layers = theirs.layers if depth > 1 else [theirs]
    count = 40 * 2
    for level, layer in enumerate(layers):
        state = layer._codebook
        state.initted.fill_(True)
        state.embed.data.copy_(ours.entries[level][None])
        state.cluster_size.data.fill_(count / 6)
        state.embed_avg.data.copy_(ours.entries[level][None] * count / 6)
    for _ in range(4):
        h = torch.randn(40, 2, 3, dtype=torch.double)
        chosen = ours.indices(ours.eval()(h)[0])
        z, _ = ours.train()(h)
        quantised, indices, _ = theirs(h)
        assert torch.equal(chosen.view(40, 2, depth), indices.view(40, 2, depth))
        assert torch.allclose(z.view(40, 2, depth, 3).sum(2), quantised, atol=1e-4)
        for level, layer in enumerate(layers):
            assert torch.allclose(ours.entries[level], layer._codebook.embed[0], atol=1e-4)


def test_entries_rest_in_evaluation_mode() -> None:
    book = VectorBook(4, 2).eval()
    before = copy.deepcopy(book.state_dict())
    book(torch.randn(30, 2, 2))
    assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())


def test_a_dead_entry_is_moved_to_a_vector_of_the_batch() -> None:
    book = VectorBook(3, 2, decay=0.5).train()
    book.entries[0, 2] = 100.0
    for _ in range(10):
        h = torch.randn(50, 1, 2)
        book(h)
        if book.entries[0, 2].norm() < 50:
            break
    assert (h[:, 0] == book.entries[0, 2]).all(1).any(), "it is one of the vectors"
    assert book.shares[0, 2] == pytest.approx(1 / 3)
    assert not (h[:, 0] == book.entries[0, 0]).all(1).any(), "entries in use stay where they are"


def test_revival_is_a_function_of_the_global_seed() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        book = VectorBook(8, 2, decay=0.1).train()
        for _ in range(5):
            book(torch.randn(4, 1, 2))
        found.append(book.entries.clone())
    assert torch.equal(*found)


def test_a_book_begins_at_the_outputs_for_training_rows() -> None:
    model, x = model_of("residual_vq"), rows(40)
    acquaint(model, x)
    model.eval()
    h, book = model.encoder.raw(x), model.encoder.book
    every = h.flatten(0, 1)
    assert all((every == entry).all(1).any() for entry in book.entries[0])
    left = every - book.entries[0][nearest(every, book.entries[0])]
    assert all((left == entry).all(1).any() for entry in book.entries[1])


# Posteriors, priors and the bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6,), (1, 8, 8)])
def test_the_record_of_a_batch(kind: str, shape: tuple[int, ...]) -> None:
    settings = {"encoder": "conv", "channels": [3, 5]} if len(shape) == 3 else {}
    model, x = model_of(kind, shape, **settings).eval(), rows(7, shape)
    output = model.draw(x, samples=3)
    book, latent = model.encoder.book, model.latent
    assert output.z.shape == (3, 7, latent)
    assert output.log_px.shape == output.log_pz.shape == output.log_qz.shape == (3, 7)
    assert output.kl_is_exact
    assert torch.equal(book.vectors(book.indices(output.z)), output.z)
    assert model.encoder.positions == (4 if len(shape) == 3 else 1)
    assert output.log_pz.eq(-model.encoder.positions * book.nats).all()
    if kind != "gumbel":
        assert torch.equal(output.posterior.indices, book.indices(output.z[:1]))
        assert output.log_qz.eq(0).all() and output.posterior.log_prob(output.z).eq(0).all()
        assert torch.allclose(output.kl.sum(1), -output.log_pz[0])
        assert output.posterior.log_prob(output.z + 0.1).eq(-math.inf).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_parameter(kind: str) -> None:
    model, x = model_of(kind), rows(30)
    acquaint(model, x)
    output = model.train().draw(x)
    build_objective(build_config({}).objective)(output, {"beta": 1.0}).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_gives_an_equal_model(kind: str) -> None:
    model, x = model_of(kind), rows(30)
    acquaint(model, x)
    for _ in range(3):
        model.train().draw(x)
    again = model_of(kind)
    assert set(again.state_dict()) == set(model.state_dict())
    again.load_state_dict(model.state_dict())
    noise = torch.randn(2, 30, model.noise_size or 0, dtype=torch.double)
    outputs = [part.eval().draw(x, samples=2, noise=noise) for part in (model, again)]
    assert torch.equal(outputs[0].log_weights, outputs[1].log_weights)
    shared = [value.data_ptr() for value in model.state_dict().values() if value.numel()]
    assert len(shared) == len(set(shared)), "nothing is saved twice"


def every_z(model: VAE) -> Tensor:
    """Every code there is, [1, n, L]."""
    book, length = model.encoder.book, model.encoder.positions * model.encoder.book.depth
    sequences = torch.tensor(list(itertools.product(range(book.symbols), repeat=length)))
    return book.vectors(sequences)[None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior", ["uniform", "autoregressive"])
def test_masses_add_up_to_one_and_the_bound_lies_below_log_p(kind: str, prior: str) -> None:
    positions = 1 if kind == "residual_vq" else 2
    size = {"residual_vq": 4}.get(kind, 2)
    model = model_of(kind, latent=positions * size).eval()
    if prior == "autoregressive":
        model.prior = randomised(AutoregressivePrior(model.encoder, width=8, layers=1).double())
    x, z = rows(5), every_z(model)
    log_pz = model.prior_distribution().log_prob(z)
    assert log_pz.exp().sum().item() == pytest.approx(1, abs=1e-9)
    joint = model.decode(z.transpose(0, 1).expand(-1, 5, -1)).log_prob(x) + log_pz.T  # [n, 5]
    truth = joint.logsumexp(0)
    output = model.draw(x, samples=1)
    if kind == "gumbel":
        q = output.posterior.log_prob(z.transpose(0, 1).expand(-1, 5, -1))
        assert torch.allclose(q.exp().sum(0), torch.ones(5, dtype=torch.double))
        assert torch.allclose(importance_all(q, joint), truth), "the weights average to p(x)"
        exact = (q.exp() * (q - log_pz.T)).sum(0)
        assert ((q.exp() * (joint - q)).sum(0) <= truth + 1e-9).all()
        if prior == "uniform":
            assert torch.allclose(output.kl.sum(1), exact)
    else:
        own = model.decode(output.z).log_prob(x)[0] + model.prior_distribution().log_prob(output.z)[0]
        assert torch.allclose(output.elbo, own)
        assert (output.elbo <= truth + 1e-9).all()
        assert output.kl_is_exact


def importance_all(log_q: Tensor, joint: Tensor) -> Tensor:
    """E_q[p(x, z) / q(z|x)] by enumeration, in logarithms."""
    return (log_q + (joint - log_q)).logsumexp(0)


def randomised(module: nn.Module) -> Any:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_moments_and_samples(kind: str) -> None:
    model = model_of(kind).eval()
    prior, every = model.prior_distribution(), every_z(model)[0]
    assert torch.allclose(prior.mean[0], every.mean(0))
    assert torch.allclose(prior.variance[0], every.var(0, correction=0))
    drawn = prior.sample(4000, torch.Generator().manual_seed(1))
    counts = torch.tensor([(drawn == z).all(1).sum() for z in every]).double()
    expected = 4000 / len(every)
    assert ((counts - expected).square() / expected).sum() < len(every) + 6 * math.sqrt(2 * len(every))


def test_importance_weights_of_a_deterministic_code_say_the_bound() -> None:
    model, x = model_of("vq").eval(), rows(9)
    bound = importance_bound(model, x, samples=8)
    assert np.allclose(bound.values, model.draw(x).elbo.detach().numpy())
    assert np.allclose(bound.values, bound.elbo)


# Gumbel-softmax -----------------------------------------------------------------------------------------------------


def test_hard_samples_follow_the_categorical_distribution() -> None:
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, -1.0]]], dtype=torch.double)
    book = LearnedBook(3, 2).double()
    codes = CategoricalCodes(logits, book)
    z = codes.sample(20000, torch.Generator().manual_seed(0))
    found = nn.functional.one_hot(book.indices(z), 3).double().mean(0)
    assert torch.allclose(found, logits.softmax(-1)[0], atol=0.015)
    assert torch.allclose(z.mean(0), codes.mean[0], atol=0.05)
    assert torch.allclose(z.var(0), codes.variance, atol=0.05)
    assert torch.equal(codes.mode, book.vectors(torch.tensor([[2, 0]])))


def test_a_relaxed_sample_goes_to_the_hard_one_as_the_temperature_falls_and_to_the_mean_as_it_rises() -> None:
    logits, noise = torch.randn(4, 2, 5, dtype=torch.double), torch.randn(6, 4, 10, dtype=torch.double)
    book = LearnedBook(5, 3).double()
    hard = CategoricalCodes(logits, book).rsample(6, noise)
    cold = CategoricalCodes(logits, book, torch.tensor(1e-4, dtype=torch.double)).rsample(6, noise)
    hot = CategoricalCodes(logits, book, torch.tensor(1e6, dtype=torch.double)).rsample(6, noise)
    assert torch.allclose(cold, hard, atol=1e-6)
    assert torch.allclose(hot, book.entries[0].mean(0).repeat(2).expand_as(hot), atol=1e-4)


def test_gumbel_noise_has_no_infinities_in_either_tail() -> None:
    noise = torch.tensor([[[-12.0, -6.0, 6.0, 12.0]]])
    book = LearnedBook(4, 2)
    z = CategoricalCodes(torch.zeros(1, 1, 4), book, torch.tensor(0.5)).rsample(1, noise)
    assert z.isfinite().all()
    assert torch.allclose(z[0, 0], book.entries[0, 3], atol=1e-3)


def test_the_relaxed_loss_has_the_gradient_of_its_finite_differences() -> None:
    model, x = model_of("gumbel").train(), rows(5)
    objective = build_objective(build_config({}).objective)
    noise = torch.randn(1, 5, model.noise_size or 0, dtype=torch.double)

    def loss() -> Tensor:
        return objective(model.draw(x, noise=noise), {"beta": 1.0}).total

    loss().backward()
    for parameter in model.parameters():
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                parameter.add_(sign * 1e-6 * direction)
                ends.append(loss().item())
                parameter.sub_(sign * 1e-6 * direction)
        slope = (ends[0] - ends[1]) / 2e-6
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_the_temperature_falls_with_the_steps_of_training_only() -> None:
    model, x = model_of("gumbel"), rows(3)
    posterior = model.encoder
    assert isinstance(posterior, GumbelPosterior)
    model.eval().draw(x)
    assert posterior.temperature == 1
    posterior.steps.fill_(999)
    assert posterior.temperature.item() == pytest.approx(math.exp(-0.05))
    model.train().draw(x)
    assert posterior.temperature.item() == pytest.approx(math.exp(-0.1))
    posterior.steps.fill_(10**6)
    assert posterior.temperature.item() == pytest.approx(0.5)


# The prior that is fitted after training ----------------------------------------------------------------------------


def test_an_autoregressive_prior_starts_uniform_and_learns_what_follows_what() -> None:
    torch.manual_seed(1)
    posterior = QuantisedPosterior(nn.Flatten(), 4, 6, VectorBook(3, 2))
    prior = AutoregressivePrior(posterior, width=32, layers=1)
    prior.start()
    first = torch.randint(3, (600, 1))
    z = posterior.book.vectors((first + torch.arange(6)) % 3)  # each symbol follows from the one before
    assert torch.allclose(prior().log_prob(z[None]), torch.tensor(-6 * math.log(3)))
    prior.fit(z, steps=500, seed=0)
    assert prior().log_prob(z[None]).mean().item() == pytest.approx(-math.log(3), abs=0.1)
    drawn = posterior.book.indices(prior().sample(200, torch.Generator().manual_seed(0)))
    assert ((drawn.diff(dim=1) % 3) == 1).double().mean() > 0.97
    assert torch.allclose(prior().mean, z.mean(0), atol=1e-6)


def test_samples_of_an_autoregressive_prior_follow_its_mass() -> None:
    posterior = QuantisedPosterior(nn.Flatten(), 4, 2, VectorBook(3, 2)).double()
    prior = randomised(AutoregressivePrior(posterior, width=8, layers=1).double())
    every = torch.tensor(list(itertools.product(range(3), repeat=2)))
    mass = prior().log_prob(posterior.book.vectors(every)[None])[0].exp()
    drawn = posterior.book.indices(prior().sample(20000, torch.Generator().manual_seed(0)))
    found = torch.stack([(drawn == one).all(1).double().mean() for one in every])
    assert torch.allclose(found, mass, atol=0.015)


# Findings, refusals and uses ----------------------------------------------------------------------------------------


def test_perplexity_counts_how_evenly_a_book_is_used() -> None:
    model, use = model_of("vq").eval(), CodeUse()
    x = rows(40)
    output = model.draw(x)
    for part in x.split(7):
        use.update(model.draw(part))
    shares = output.posterior.indices.flatten().bincount(minlength=4) / 40
    entropy = -sum(share * math.log(share) for share in shares.tolist() if share)
    assert use.compute() == {
        "code_perplexity": [pytest.approx(math.exp(entropy))],
        "codes_used": [int((shares > 0).sum())],
        "codebook": 4,
        "codes_seen": 40,
    }


@pytest.mark.parametrize(
    ("perplexity", "used", "expected"),
    [(1.2, 3, {"TR170", "TR173"}), (20.0, 40, {"TR171", "TR173"}), (90.0, 128, {"TR172"})],
)
def test_what_is_said_of_a_book(perplexity: float, used: int, expected: set[str]) -> None:
    numbers = {"code_perplexity": [perplexity], "codes_used": [used], "codebook": 128, "codes_seen": 9000, "rows": 1000}
    found = list(code_rules(numbers, {"prior.after": "none", "model.posterior": "vq"}))
    assert {finding.code for finding in found} == expected | {"TR174"}
    assert found[0].measured == pytest.approx(100 * perplexity / 128)
    wasted = next(finding for finding in found if finding.code == "TR174")
    assert wasted.measured == pytest.approx(9 * math.log(128 / perplexity))
    assert not any(f.code == "TR174" for f in code_rules(numbers, {"prior.after": "autoregressive"}))
    assert list(code_rules({}, {})) == []


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"model": {"posterior": "vq", "latent": 15}}, "no multiple of the 16 entries"),
        ({"model": {"posterior": "fsq", "code_levels": [5, 1]}}, "at least two levels"),
        ({"model": {"posterior": "vq"}, "prior": "standard"}, "codes in a space of real vectors"),
        ({"model": {"posterior": "diagonal"}, "prior": "uniform"}, "codes out of a finite book"),
        ({"model": {"posterior": "vq"}, "objective": {"name": "iwae", "samples": 5}}, "entries of a book"),
        ({"model": {"posterior": "gumbel"}, "objective": {"name": "miwae", "samples": 8}}, "entries of a book"),
        ({"model": {"posterior": "fsq"}, "objective": {"target_rate": 5.0}}, "has the rate that its book"),
        ({"model": {"posterior": "vq"}, "prior": {"after": "gmm"}}, "another kind of codes"),
        ({"model": {"posterior": "vq"}, "objective": {"beta": 0.5}}, "objective.beta: got 0.5; .* code is a constant"),
        ({"model": {"posterior": "residual_vq"}, "objective": {"free_bits": 0.5}}, "objective.free_bits: got 0.5"),
        ({"model": {"posterior": "fsq"}, "objective": {"capacity": 3.0}}, "objective.capacity: got 3.0"),
        ({"model": {"posterior": "fsq"}, "objective": {"anneal": "linear", "warmup_steps": 9}}, "objective.anneal"),
        ({"model": {"posterior": "vq"}, "objective": {"warmup_steps": 9}}, "objective.warmup_steps: got 9"),
        ({"model": {"posterior": "vq"}, "train": {"on_collapse": "anneal"}}, "no weight of a divergence"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(settings: dict[str, Any], match: str) -> None:
    def built() -> None:
        facts = Facts((12,), rows=50)
        config = resolve(build_config({"likelihood": "bernoulli"}, settings), facts, "table")
        refuse_misfits(config, facts, build_objective(config.objective, facts, config.model.latent or 0).requires)
        build_model(config, facts)

    with pytest.raises(BadInput, match=match):
        built()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_from_training_to_use(kind: str, tmp_path: Path) -> None:
    x = (torch.randn(300, 1, 8, generator=torch.Generator().manual_seed(0)) + torch.randn(300, 6, 1) > 0).float()
    settings = {"model": SMALL[kind] | {"posterior": kind}, "likelihood": "bernoulli", "train": {"steps": 40}}
    settings["report"] = {"html": kind == "residual_vq"}
    run = vaelab.train(x.flatten(1).numpy(), out=tmp_path / "run", config=settings, progress=False)
    assert {"TR100", "TR174"} <= {finding.code for finding in run.findings}
    assert run.metrics["code_perplexity"][0] > 1
    codes = run.embed(run.preview[:5])
    book = run.model.encoder.book
    assert torch.equal(book.vectors(book.indices(torch.from_numpy(codes))), torch.from_numpy(codes))
    assert run.sample(3).shape == (3, 48) and run.reconstruct(run.preview[:2]).shape == (2, 48)
    assert torch.equal(book.vectors(torch.from_numpy(run.indices(run.preview[:5]))), torch.from_numpy(codes))
    path = run.interpolate(run.preview[0], run.preview[1], steps=4)
    assert np.allclose(path[[0, -1]], run.reconstruct(run.preview[:2]), atol=1e-6)
    with pytest.raises(BadInput, match="entries of a book"):
        run.traverse()
    table = pd.read_csv(save_embedding(embed(run, run.preview[:5]), tmp_path / "codes.csv"))
    assert np.array_equal(table.filter(like="code_").to_numpy(), run.indices(run.preview[:5]))
    if kind == "residual_vq":
        page = (tmp_path / "run" / "report.html").read_text()
        assert "Use of the codes, held-out" in page and "Aggregate posterior" not in page


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_at_the_same_weights_and_book(kind: str, tmp_path: Path) -> None:
    x = (np.random.default_rng(0).random((120, 16)) > 0.5).astype(np.float32)
    settings = {"model": SMALL[kind] | {"posterior": kind}, "likelihood": "bernoulli", "report": {"html": False}}

    def trained(steps: int, name: str) -> Any:
        train = {"schedule": "constant", "steps": steps, "checkpoint_every": 10, "evaluate_every": 10, "ema": 0.9}
        config = settings | {"train": train | {"accumulate": 2 if kind == "fsq" else 1}}
        return vaelab.train(x, out=tmp_path / name, config=config, progress=False)

    whole, half = trained(40, "whole"), trained(20, "half")
    vaelab.train(x, resume=half.folder, config={"train": {"steps": 40}}, progress=False)
    left, right = whole.model.state_dict(), vaelab.load(half.folder).model.state_dict()
    assert all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("kind", KINDS)
def test_slices_of_a_batch_are_refused_where_a_pass_moves_the_book_or_the_temperature(
    kind: str, tmp_path: Path
) -> None:
    x = (np.random.default_rng(0).random((60, 16)) > 0.5).astype(np.float32)
    settings = {"model": {"posterior": kind, "hidden": [8]}, "likelihood": "bernoulli", "report": {"html": False}}
    settings |= {"train": {"steps": 2, "batch_size": 20, "accumulate": 2}}
    if kind == "fsq":
        assert vaelab.train(x, out=tmp_path / "run", config=settings, progress=False).metrics["step"] > 0
        return
    with pytest.raises(BadInput, match=r"train.accumulate: got 2; the books or the temperature") as caught:
        vaelab.train(x, out=tmp_path / "run", config=settings, progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_one_row_have_no_row_of_their_own(kind: str) -> None:
    q = model_of(kind).eval().encoder
    for count in (1, 2):
        drawn = q(rows(count)).sample(7)
        assert drawn.shape == ((7, q.latent) if count == 1 else (7, count, q.latent))


@pytest.mark.parametrize("levels", [(2,), (3,), (4, 5), (8, 7, 2)])
def test_a_grid_reaches_as_far_as_it_says(levels: tuple[int, ...]) -> None:
    everything = GridBook(levels).everything()
    assert torch.equal(everything.amin(0), -torch.ones(len(levels)))
    highest = [1.0 if count % 2 else 1 - 2 / count for count in levels]
    torch.testing.assert_close(everything.amax(0), torch.tensor(highest))


def test_what_codes_say_of_rows_lies_between_bounds_by_counting() -> None:
    z = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    q = Codes(z, VectorBook(3, 1), {})
    pairs = paired(q, z).double().numpy()
    assert np.array_equal(np.exp(pairs), (z == z.T).double().numpy())
    found = information(
        z.numpy(), pairs, np.log([0.5, 0.5, 0.25, 0.25]), *(part.numpy() for part in (z, 0 * z)), masses=True
    )
    entropy = 1.5 * math.log(2)  # of shares 1/2, 1/4 and 1/4, which are the prior's too
    assert found.mutual.value == pytest.approx(entropy)
    assert found.marginal.value == pytest.approx(0, abs=1e-12)
    assert found.correlation is None


def test_a_categorical_code_is_weighed_under_every_row() -> None:
    posterior = model_of("gumbel", latent=4).eval().encoder
    x = rows(5)
    q = posterior(x)
    z = q.sample(1)[0]
    table = paired(q, z)
    by_row = torch.stack([posterior(x[j : j + 1]).log_prob(z[:, None])[:, 0] for j in range(5)], 1)
    assert torch.allclose(table, by_row)
