"""The contract of the parts: one list of laws, and every combination of the tables runs through it.

A posterior, a prior, a likelihood and an objective that go together make a model that trains; those that do not are
refused in one sentence. What each part is by itself is proved in its own tests.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from vaelab.core.config import Config, build_config, parse_overrides
from vaelab.core.errors import BadInput
from vaelab.core.facts import Column, Facts
from vaelab.distributions.normal import Normal
from vaelab.models.build import acquaint, build_model, resolve
from vaelab.models.fits import WORDS, missing, refuse_misfits
from vaelab.models.parts import LIKELIHOOD_BUILDERS, POSTERIORS, PRIORS
from vaelab.models.vae import drawn
from vaelab.objectives.build import OBJECTIVES, build_objective

ROWS, SAMPLES, ENTRIES, LATENT = 6, 4, 5, 4
ALONE = "diagonal", "standard", "gaussian", "elbo"  # what stands for a part while another one varies
# A gradient that is no derivative of the value at fixed noise, and why.
NO_DERIVATIVE = {
    "vq": "straight-through",
    "residual_vq": "straight-through",
    "fsq": "straight-through",
    "dreg": "another estimator of the same expectation",
}
# What is small here, of the parts that have it; nothing else may be set.
BOOK = {"codebook": 5, "code_size": 2}
SIZES: dict[str, dict[str, Any]] = {
    **{name: {"flow_hidden": [8]} for name in ("iaf", "coupling", "spline")},
    **dict.fromkeys(("vq", "gumbel"), BOOK),
    "residual_vq": BOOK | {"quantizers": 2},
    "fsq": {"code_levels": [3, 3]},
    **{name: {"components": 3} for name in ("mixture", "vamp", "exemplar")},
    "flow": {"steps": 2},
    **{name: {"levels": 6} for name in ("categorical", "beta_binomial")},
    "logistic_mixture": {"levels": 6, "components": 2},
    "mixed": {"components": 2},
}
MIXED = (
    Column("size", "number"),
    Column("colour", "category", ("red", "green", "blue")),
    Column("young", "category", ("no", "yes")),
    Column("weight", "number"),
    Column("kind", "category", ("a", "b", "c", "d")),
)


def rows_for(likelihood: str) -> Tensor:
    """Rows that a likelihood has a place for, [ROWS, ENTRIES]."""
    coins = torch.Generator().manual_seed(3)
    unit = torch.rand(ROWS, ENTRIES, generator=coins, dtype=torch.float64)
    kinds = {
        "bernoulli": unit.round(),
        "continuous_bernoulli": unit,
        "tokens": torch.tensor([[3.0, 4, 2, 0, 0], [4, 4, 4, 2, 0], [3, 2, 0, 0, 0]] * 2, dtype=torch.float64),
        "mixed": torch.stack([unit[:, 0], *(unit[:, [1, 2]] * 2).long().T.double(), unit[:, 3], unit[:, 4] // 0.3]).T,
    }
    counts = (unit * 6).floor()
    real = {"gaussian", "laplace", "student_t"}
    return kinds[likelihood] if likelihood in kinds else unit * 2 - 1 if likelihood in real else counts


def facts_for(likelihood: str) -> Facts:
    """What the model knows of those rows."""
    return Facts(
        (ENTRIES,),
        columns=MIXED if likelihood == "mixed" else (),
        vocabulary=6 if likelihood == "tokens" else 0,
        rows=ROWS,
    )


def config_for(posterior: str, prior: str, likelihood: str, objective: str) -> Config:
    """The settings of a small model of these parts."""
    settings: dict[str, Any] = {
        "model": {"posterior": posterior, "encoder": "mlp", "hidden": [7], "activation": "tanh", "latent": LATENT},
        "prior": {"name": prior, "hidden": [8]} | SIZES.get(prior, {}),
        "likelihood": {"name": likelihood} | SIZES.get(likelihood, {}),
        "objective": {"name": objective, "samples": SAMPLES} | ({"outer": 2} if objective == "miwae" else {}),
    }
    settings["model"] |= SIZES.get(posterior, {})
    return resolve(build_config(settings), facts_for(likelihood), "sequence" if likelihood == "tokens" else "table")


def built(config: Config) -> Any:
    """The model of a config in float64, started at its rows."""
    likelihood = config.likelihood.name
    model = build_model(config, facts_for(likelihood)).double()
    acquaint(model, rows_for(likelihood))
    return model


def draws(model: Any, x: Tensor, noise: Tensor | None, samples: int = SAMPLES) -> Any:
    """A record whose randomness is fixed: base noise where the model takes it, else the global generator's seed."""
    torch.manual_seed(5)
    return model.draw(x, samples, noise)


def noise_for(model: Any) -> Tensor | None:
    if model.noise_size is None:
        return None
    coins = torch.Generator().manual_seed(4)
    return torch.randn(SAMPLES, ROWS, model.noise_size, generator=coins, dtype=torch.float64)


def allowed(posterior: str, prior: str) -> list[str]:
    """Objectives that go with a posterior and a prior."""
    return [name for name in OBJECTIVES if missing(posterior, prior, required(name)) is None]


def required(objective: str) -> frozenset[str]:
    return build_objective(config_for(*ALONE[:3], objective).objective, facts_for("gaussian"), LATENT).requires


def fits(pair: tuple[str, str], likelihood: str) -> bool:
    """Whether no further rule refuses them."""
    try:
        refuse_misfits(config_for(*pair, likelihood, "elbo"), facts_for(likelihood), required("elbo"))
    except BadInput:
        return False
    return True


PAIRS = [pair for pair in product(POSTERIORS, PRIORS) if missing(*pair) is None]
REFUSED_PAIRS = [pair for pair in product(POSTERIORS, PRIORS) if missing(*pair) is not None]


def named(part: str | tuple[str, str]) -> str:
    return part if isinstance(part, str) else "-".join(part)


EVERY = list(product(PAIRS, LIKELIHOOD_BUILDERS))
MODELS = [model for model in EVERY if fits(*model) or model[0][0] == "delta"]
MISFITS = [model for model in EVERY if model not in MODELS]
TRIPLES = [(*pair, objective) for pair in PAIRS for objective in OBJECTIVES if objective not in allowed(*pair)]


def test_the_product_is_hundreds_of_combinations() -> None:
    count = sum(len(allowed(*pair)) for pair, _ in MODELS)
    parts = len(LIKELIHOOD_BUILDERS) + len(POSTERIORS) + len(PRIORS) + len(OBJECTIVES)
    assert count > 20 * parts, "the product grows by multiplication, the code by addition"


@pytest.mark.parametrize(("pair", "likelihood"), MODELS, ids=named)
def test_every_combination_keeps_the_laws(pair: tuple[str, str], likelihood: str) -> None:
    model, x = built(config_for(*pair, likelihood, "elbo")), rows_for(likelihood)
    noise = noise_for(model)
    output = draws(model, x, noise)
    shapes_fit(output, "density" in POSTERIORS[pair[0]].offers)
    rows_are_apart(model, x, noise, output)
    loads_equal(model, config_for(*pair, likelihood, "elbo"), x, noise, output)
    for objective in allowed(*pair):
        trains(model, objective, pair, likelihood, x, noise)


def shapes_fit(output: Any, has_density: bool) -> None:
    """Every tensor of the record has its shape and is finite."""
    assert output.z.shape == (SAMPLES, ROWS, LATENT)
    assert output.log_px.shape == output.log_pz.shape == (SAMPLES, ROWS)
    assert output.kl.ndim == 2 and len(output.kl) == ROWS
    assert output.posterior.mean.shape == output.posterior.variance.shape == (ROWS, LATENT)
    terms = [output.z, output.log_px, output.log_pz, output.kl, output.elbo]
    if has_density:
        assert output.log_qz.shape == (SAMPLES, ROWS)
        terms.append(output.log_qz)
    assert all(term.isfinite().all() for term in terms)
    assert output.likelihood.mean.shape[:2] == (SAMPLES, ROWS)


def rows_are_apart(model: Any, x: Tensor, noise: Tensor | None, output: Any) -> None:
    """No row's terms depend on the other rows of its batch, where its noise is given."""
    if noise is None:
        return
    part = draws(model.eval(), x[2:4], noise[:, 2:4])
    whole = draws(model, x, noise)
    model.train()
    for name in ("z", "log_px", "log_pz"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[:, 2:4])
    torch.testing.assert_close(part.kl, whole.kl[2:4])


def loads_equal(model: Any, config: Config, x: Tensor, noise: Tensor | None, output: Any) -> None:
    """A model built anew from the config, its start values moved, is the same one once it has the weights."""
    twin = build_model(config, facts_for(config.likelihood.name)).double()
    for parameter in twin.parameters():
        parameter.data.add_(0.1)
    twin.load_state_dict(model.state_dict())
    model.eval(), twin.eval()
    first, second = draws(model, x, noise), draws(twin, x, noise)
    model.train()
    for name in ("z", "log_px", "log_pz", "kl"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def trains(model: Any, name: str, pair: tuple[str, str], likelihood: str, x: Tensor, noise: Tensor | None) -> None:
    """The loss is a finite scalar made of [B] terms, its gradient reaches what it should and is its derivative."""
    config = config_for(*pair, likelihood, name)
    torch.manual_seed(2)
    objective = build_objective(config.objective, facts_for(likelihood), LATENT)
    if isinstance(objective, torch.nn.Module):
        objective.double()
    buffers = {key: value.clone() for key, value in model.named_buffers()}

    def loss() -> Any:
        for key, value in model.named_buffers():  # running means and codebooks as before
            value.copy_(buffers[key])
        output = draws(model, x, noise_for(model) if objective.samples == SAMPLES else None, objective.samples)
        torch.manual_seed(6)
        return objective(output, objective.weights(10))

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = loss()
    assert found.total.ndim == 0 and found.total.isfinite()
    assert {"reconstruction", "kl"} <= set(found.terms)
    for term in found.terms.values():
        assert term.shape == (ROWS,) and not term.requires_grad and term.isfinite().all()
    gradients = torch.autograd.grad(found.minimised, parameters, allow_unused=True)
    names = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    missed = [key for key, g in zip(names, gradients, strict=True) if g is None or not g.any()]
    assert not missed, f"{name} does not reach {missed}"
    if not {*pair, name} & set(NO_DERIVATIVE):
        is_derivative(loss, parameters, [g for g in gradients if g is not None])


def is_derivative(loss: Any, parameters: list[Tensor], gradients: list[Tensor]) -> None:
    """Along a direction, the gradient is the central difference of the loss at the same random numbers."""
    size = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    step = 1e-6 / max(size, 1e-3)

    def moved(by: float) -> float:
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=by)
            return float(loss().total)

    up, down = moved(step), moved(-2 * step)
    moved(step)
    assert (up - down) / (2 * step) == pytest.approx(size**2, rel=2e-4, abs=1e-7)


@pytest.mark.parametrize("pair", REFUSED_PAIRS, ids="-".join)
def test_a_prior_that_does_not_fit_is_refused_in_a_sentence(pair: tuple[str, str]) -> None:
    with pytest.raises(BadInput, match=r"prior\.name: got .*; it needs .*; vaelab models") as caught:
        refuse_misfits(config_for(*pair, *ALONE[2:]), facts_for("gaussian"), required("elbo"))
    assert str(caught.value).count("\n") == 0


def test_only_what_is_meant_is_refused_by_a_likelihood() -> None:
    """Pseudo-inputs that would have to move through tokens or categories; all else goes with every likelihood."""
    assert set(MISFITS) == {model for model in EVERY if model[0][1] == "vamp" and model[1] in ("tokens", "mixed")}


@pytest.mark.parametrize(("pair", "likelihood"), MISFITS, ids=named)
def test_a_likelihood_that_does_not_fit_is_refused_in_a_sentence(pair: tuple[str, str], likelihood: str) -> None:
    with pytest.raises(BadInput, match=r"^\S+: got .*; .*; .*") as caught:
        refuse_misfits(config_for(*pair, likelihood, "elbo"), facts_for(likelihood), required("elbo"))
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(("posterior", "prior", "objective"), TRIPLES)
def test_an_objective_that_does_not_fit_is_refused_in_a_sentence(posterior: str, prior: str, objective: str) -> None:
    with pytest.raises(BadInput, match=r"objective\.name: got .*; it needs .*; vaelab models"):
        refuse_misfits(config_for(posterior, prior, "gaussian", objective), facts_for("gaussian"), required(objective))


def test_every_word_is_offered_and_needed_by_some_part() -> None:
    """A word that nobody needs, or nobody offers, is a rule that cannot act."""
    offered: set[str] = set().union(*(kind.offers for kind in [*POSTERIORS.values(), *PRIORS.values()]))
    needed: set[str] = set().union(*(kind.needs for kind in PRIORS.values()), *map(required, OBJECTIVES))
    assert needed <= set(WORDS) and offered >= needed


@pytest.mark.parametrize("likelihood", LIKELIHOOD_BUILDERS)
def test_samples_of_a_likelihood_follow_its_log_prob(likelihood: str) -> None:
    """E[d log p(x) / dθ] = 0 when x is drawn from p: the score of every parameter, by many draws."""
    model = built(config_for(*ALONE[:2], likelihood, "elbo"))
    z = torch.randn(1, 1, LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    count = 4000
    decoded = model.decode(z.expand(1, count, -1).clone().requires_grad_())
    torch.manual_seed(0)
    x = decoded.sample(torch.Generator().manual_seed(0))[0]
    leaf = z.expand(1, count, -1).clone().requires_grad_()
    (score,) = torch.autograd.grad(model.decode(leaf).log_prob(x).sum(), leaf)
    error = score[0].std(0) / math.sqrt(count)
    assert error.max() > 0
    assert (score[0].mean(0).abs() < 5 * error + 1e-12).all()


EUCLIDEAN = [name for name, kind in POSTERIORS.items() if {"euclidean", "density"} <= kind.offers]


@pytest.mark.parametrize("posterior", EUCLIDEAN)
def test_samples_of_a_posterior_follow_its_log_prob(posterior: str) -> None:
    """E_q[r(z) / q(z)] = 1 for a narrow normal r in the midst of q: the ratio ties its density to its samples."""
    q = built(config_for(posterior, *ALONE[1:])).eval().encode(rows_for("gaussian")[:1])
    torch.manual_seed(0)
    z, log_q = drawn(q, 40_000, None)
    narrow = torch.distributions.Normal(z.mean(0), 0.5 * z.std(0))
    ratio = (narrow.log_prob(z).sum(-1) - (q.log_prob(z) if log_q is None else log_q)).exp()
    assert ratio.mean().item() == pytest.approx(1, abs=5 * ratio.std().item() / math.sqrt(len(z)))
    assert torch.allclose((ratio[..., None] * z).mean(0), z.mean(0), atol=0.1 * float(z.std()))


@pytest.mark.parametrize("name", [name for name in PRIORS if missing("diagonal", name) is None])
def test_samples_of_a_prior_follow_its_log_prob(name: str) -> None:
    """E_r[p(z) / r(z)] = 1 for a wide normal r over p, and the moments it weighs out are those of p's samples."""
    prior = built(config_for("diagonal", name, *ALONE[2:])).eval().prior_distribution()
    z = prior.sample(4000, torch.Generator().manual_seed(0))
    assert z.shape == (4000, LATENT)
    wide = torch.distributions.Normal(z.mean(0), 1.5 * z.std(0))
    other = wide.sample((20000,))
    ratio = (prior.log_prob(other[:, None])[:, 0] - wide.log_prob(other).sum(-1)).exp()
    assert ratio.mean().item() == pytest.approx(1, abs=5 * ratio.std().item() / math.sqrt(len(other)))
    moments = (ratio[:, None] * other).mean(0)
    assert torch.allclose(moments, z.mean(0), atol=0.1 * float(z.std(0).max()) + 5 * float(z.std()) / math.sqrt(4000))


@pytest.mark.parametrize("posterior", [name for name, kind in POSTERIORS.items() if "normal" in kind.offers])
def test_noise_gives_samples_and_their_density(posterior: str) -> None:
    q = built(config_for(posterior, *ALONE[1:])).encode(rows_for("gaussian"))
    assert isinstance(q, Normal)
    z, log_q = q.pushed(torch.randn(3, *q.noise_shape, dtype=torch.float64))
    torch.testing.assert_close(log_q, q.log_prob(z))


IN_VAIN = [
    "model.word_dropout=0.3", "model.classifier_weight=3.0", "model.temperature=0.1", "model.codebook=7",
    "model.code_size=3", "model.code_levels=[3]", "model.quantizers=2", "model.commitment=1.0", "model.flow_steps=3",
    "model.flow_hidden=[5]", "prior.components=7", "prior.steps=3", "prior.after_steps=4", "data.text_column=a",
    "likelihood.noise=fixed", "likelihood.sigma=2.0", "likelihood.components=3", "likelihood.levels=9",
    "objective.outer=2", "objective.mix=0.1", "objective.estimator=naive", "objective.kernel=rbf",
]  # fmt: skip


@pytest.mark.parametrize("setting", IN_VAIN)
def test_a_setting_that_no_part_reads_is_refused(setting: str) -> None:
    """Beside parts that are all of the plainest kind."""
    plain = {"model": {"encoder": "mlp", "decoder": "mlp", "latent": 2}, "likelihood": {"name": "bernoulli"}}
    config = resolve(build_config(plain, parse_overrides([setting])), facts_for("bernoulli"), "table")
    with pytest.raises(BadInput, match=rf"^{setting.partition('=')[0]}: got "):
        refuse_misfits(config, facts_for("bernoulli"), frozenset())
    refuse_misfits(resolve(build_config(plain), facts_for("bernoulli"), "table"), facts_for("bernoulli"), frozenset())
