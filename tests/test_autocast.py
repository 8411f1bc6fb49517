"""Mixed precision ends where the networks end: in an autocast region every distribution is as exact as outside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from vaelab.core.batch import Batch
from vaelab.core.config import build_config
from vaelab.core.facts import Facts
from vaelab.distributions.code_sequence import AutoregressivePrior
from vaelab.distributions.foreign import as_distribution
from vaelab.distributions.kl import divergence
from vaelab.distributions.later import GaussianMixturePrior
from vaelab.distributions.normal import StandardNormal
from vaelab.models.build import acquaint, build_model, resolve
from vaelab.models.parts import POSTERIORS, PRIORS
from vaelab.models.vae import drawn

ROWS, SAMPLES, ENTRIES, LATENT, CLASSES = 6, 4, 12, 16, 3
SMALL = {"encoder": "mlp", "hidden": [8], "latent": LATENT, "codebook": 256, "code_size": 2, "code_levels": [8, 5]}
FITTING = {"vmf": "sphere", "vq": "uniform", "residual_vq": "uniform", "fsq": "uniform", "gumbel": "uniform"}
MIXTURES = ("mixture", "vamp", "exemplar", "flow")


class Exactly(nn.Module):
    """A network that no autocast region reaches."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *given: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return self.net(*given)


def rows() -> Tensor:
    return torch.rand(ROWS, ENTRIES, generator=torch.Generator().manual_seed(1))


def model_of(posterior: str = "diagonal", prior: str = "standard", classes: int = 0, **model: Any) -> Any:
    """A small model away from its start, whose posterior is a good way from the prior."""
    torch.manual_seed(0)
    settings = {"model": SMALL | {"posterior": posterior, "quantizers": 2, "flow_hidden": [8]} | model}
    settings |= {"prior": {"name": prior, "components": 5, "hidden": [8]}, "likelihood": {"name": "bernoulli"}}
    facts = Facts((ENTRIES,), condition=classes, classes=classes, rows=40, frequencies=(4, 2, 1) if classes else ())
    built = build_model(resolve(build_config(settings), facts, "table"), facts)
    if not classes:
        acquaint(built, rows())
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return built


def pair(posterior: str, prior: str) -> tuple[Any, Any]:
    model = model_of(posterior, prior)
    return model.encode(rows()), model.prior_distribution()


def laddered() -> tuple[Any, Any]:
    model = model_of(groups=[4, 3, 2], latent=None)
    model.encoder.heads, model.descent.heads = (
        nn.ModuleList(map(Exactly, part.heads)) for part in (model.encoder, model.descent)
    )
    model.descent.path = Exactly(model.descent.path)
    return model.encode(rows()), model.prior_distribution()


def labelled() -> tuple[Any, Any]:
    model = model_of(classes=CLASSES, missing_labels="marginal")
    given = torch.full((ROWS, CLASSES), torch.nan)
    given[0] = torch.eye(CLASSES)[1]
    q = model.encode(Batch(rows(), given))
    assert len(q.each.mean) == ROWS * CLASSES, "the networks are done before the region begins"
    return q, model.prior_distribution()


def foreign() -> tuple[Any, Any]:
    loc = torch.randn(ROWS, LATENT, generator=torch.Generator().manual_seed(2))
    return as_distribution(td.Laplace(loc, loc.exp())), StandardNormal(LATENT)


def gmm() -> tuple[Any, Any]:
    prior = GaussianMixturePrior(LATENT, 2)
    prior.means.copy_(torch.randn(2, LATENT, generator=torch.Generator().manual_seed(3)))
    return model_of().encode(rows()), prior()


def causal() -> tuple[Any, Any]:
    model = model_of("vq", "uniform")
    prior = AutoregressivePrior(model.encoder, 8, 1)
    prior.net = Exactly(prior.net)
    return model.encode(rows()), prior()


KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    **{name: lambda name=name: pair(name, FITTING.get(name, "standard")) for name in POSTERIORS},
    **{f"{name} prior": lambda name=name: pair("full", name) for name in MIXTURES},
    "ladder": laddered,
    "labelled": labelled,
    "foreign": foreign,
    "gmm prior": gmm,
    "autoregressive prior": causal,
}


def found(q: Any, p: Any) -> dict[str, Tensor]:
    """All that a bound is made of, from the same draws."""
    torch.manual_seed(4)
    z, log_q = drawn(q, SAMPLES, None)
    torch.manual_seed(5)
    parts = {"z": z, "kl": divergence(q, p, z, log_q)[0], "mean": q.mean, "variance": q.variance}
    if "density" in getattr(q, "offers", {"density"}):
        parts |= {"log_qz": q.log_prob(z) if log_q is None else log_q, "log_pz": p.log_prob(z)}
    return {name: part.detach() for name, part in parts.items()}


def test_every_kind_of_posterior_and_prior_is_here() -> None:
    assert set(POSTERIORS) <= set(KINDS)
    assert set(PRIORS) == {"standard", *FITTING.values(), *MIXTURES}


@pytest.mark.parametrize("kind", KINDS)
def test_an_autocast_region_changes_nothing_in_a_distribution(kind: str) -> None:
    exact = found(*KINDS[kind]())
    q, p = KINDS[kind]()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = found(q, p)
    assert exact["kl"].isfinite().all()
    for name, part in rounded.items():
        assert part.dtype == torch.float32, f"{name} is {part.dtype}"
        torch.testing.assert_close(
            part, exact[name], rtol=1e-4, atol=1e-4, msg=lambda said, name=name: f"{name}: {said}"
        )


def test_noise_of_a_ladder_is_not_rounded_where_its_features_are() -> None:
    model = model_of(groups=[4, 3], latent=None)
    with torch.autocast("cpu", torch.bfloat16):
        q = model.encode(rows())
        assert q.features[0].dtype == torch.bfloat16
        z, log_q = q.rsample_with_log_prob(2)
        noise = (z[..., :4] - q.walk.q[0].mean) / q.walk.q[0].std
        assert q.sample(3).dtype == z.dtype == log_q.dtype == torch.float32
    assert not torch.allclose(noise, noise.bfloat16().float(), rtol=1e-4, atol=0)


def test_the_record_of_labels_that_are_summed_over_is_float32() -> None:
    model = model_of(classes=CLASSES, missing_labels="marginal").eval()
    with torch.autocast("cpu", torch.bfloat16):
        output = model.draw(rows())
    assert {output.kl.dtype, output.log_px.dtype, output.elbo.dtype} == {torch.float32}
