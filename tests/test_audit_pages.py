"""The audit's pages: a page for each code, in one form, with a diff whose two lines do what the page says.

Every diff is run, once with the removed and once with the added line. A loss is judged as in the audit, by fitting
`a R + b KL + constant` to its values, with R from scipy and KL from `torch.distributions`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch import distributions as td

from vaelab.auditing.codes import NAMES
from vaelab.core.finding import SEVERITIES

PAGES = Path(__file__).resolve().parent.parent / "docs" / "audit"
HEADINGS = ["What it means", "How it shows in training", "The fix", "Reference"]
SIZES = [(6, 12, 4), (3, 12, 4), (6, 24, 4), (6, 12, 2)]  # B, P, D: each differs from the first in one


def page(code: str) -> str:
    return (PAGES / f"{code}.md").read_text()


def diff_lines(code: str) -> list[str]:
    [block] = re.findall(r"```diff\n(.*?)```", page(code), re.DOTALL)
    return block.splitlines()


def run(code: str, sign: str, **names: Any) -> SimpleNamespace:
    """The names a diff defines: its unchanged lines with the removed (`-`) or the added (`+`) line."""
    program = "\n".join(line[1:] for line in diff_lines(code) if line[:1] in (" ", sign))
    space = {"torch": torch, "F": F, "nn": nn, "math": math, **names}
    exec(compile(program, f"{code}.md", "exec"), space)
    return SimpleNamespace(**space)


def batch(B: int = 6, P: int = 12, D: int = 4, seed: int = 0, spread: float = 1.0) -> dict[str, Tensor]:
    """Binary rows, a decoder's output and two heads, all independent of each other and in double precision."""
    draw = torch.Generator().manual_seed(seed)
    logits, mu, logvar = (
        spread * torch.randn(B, n, generator=draw, dtype=torch.float64).requires_grad_() for n in (P, D, D)
    )
    x = torch.randint(0, 2, (B, P), generator=draw).double()
    return {"x": x, "logits": logits, "recon": torch.sigmoid(logits), "mu": mu, "logvar": logvar}


def as_image(names: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same rows as pictures of three channels, [B, 3, 2, P / 6]."""
    return {name: v.reshape(len(v), 3, 2, -1) if name in ("x", "recon") else v for name, v in names.items()}


def exact_kl(mu: Tensor, std: Tensor) -> Tensor:
    """KL(N(mu, std²) || N(0, 1)) in nats, [B]."""
    return td.kl_divergence(td.Normal(mu, std), td.Normal(0.0, 1.0)).sum(1)


def bernoulli(recon: Tensor, x: Tensor) -> float:
    """Mean of -log p(x) over rows, in nats."""
    return float(-stats.bernoulli.logpmf(x, recon.detach()).sum(1).mean())


def gaussian(sigma: float) -> Callable[[Tensor, Tensor], float]:
    return lambda recon, x: float(-stats.norm.logpdf(x, recon.detach(), sigma).sum(1).mean())


class Fit(NamedTuple):
    a: float
    b: float
    residual: float  # the largest part of a value that is not explained, relative to the spread of the values


def fit(loss: Callable[[dict[str, Tensor]], Tensor], likelihood: Callable, sizes: tuple[int, int, int]) -> Fit:
    """Least squares of the loss on R, KL and a constant, over eight batches that differ in all inputs."""
    batches = [batch(*sizes, seed=seed, spread=0.5 + seed / 8) for seed in range(8)]
    values = np.array([float(loss(one).detach()) for one in batches])
    terms = [
        (likelihood(one["recon"], one["x"]), float(exact_kl(one["mu"], (0.5 * one["logvar"]).exp()).mean().detach()), 1)
        for one in batches
    ]
    a, b, constant = np.linalg.lstsq(np.array(terms), values, rcond=None)[0]
    left = np.abs(values - np.array(terms) @ (a, b, constant)).max()
    return Fit(a, b, left / np.ptp(values))


@pytest.mark.parametrize("code", NAMES)
def test_a_page_has_its_title_and_headings_in_order(code: str) -> None:
    lines = page(code).splitlines()
    assert lines[0] == f"# {code} {NAMES[code]}"
    assert [line for line in lines[1:] if re.match("#+ ", line)] == [f"## {heading}" for heading in HEADINGS]
    assert 20 <= len(lines) <= 40
    assert max(map(len, lines)) <= 120
    sections = re.split(r"^## .*$", page(code), flags=re.MULTILINE)[1:]
    assert all(section.strip() for section in sections)
    assert re.search(r"(19|20)\d\d\b", sections[-1]), "a reference has a year"
    assert re.findall(r"\*\*(\w+)\*\*", sections[0]), "a page says how severe its finding is"


@pytest.mark.parametrize("code", NAMES)
def test_a_diff_removes_one_line_and_adds_one(code: str) -> None:
    signs = [line[:1] for line in diff_lines(code)]
    assert (signs.count("-"), signs.count("+")) == (1, 1)
    assert set(signs) <= {" ", "-", "+"}
    assert signs.index("+") == signs.index("-") + 1


def test_the_index_lists_every_code_and_every_page_is_of_a_code() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (.*?) \| (.+?) \| (\w+) \|$", page("README"), re.MULTILINE)
    assert [(code, target, name) for code, target, name, *_ in rows] == [(c, c, name) for c, name in NAMES.items()]
    assert {row[-1] for row in rows} <= set(SEVERITIES)
    assert {path.stem for path in PAGES.iterdir()} == {"README", *NAMES}


@pytest.mark.parametrize("code", ["README", *NAMES])
def test_links_lead_to_pages_and_there_are_no_unrun_prompts(code: str) -> None:
    assert all((PAGES / target).is_file() for target in re.findall(r"\]\(([^)]+)\)", page(code)))
    assert ">>>" not in page(code)


class Beta(NamedTuple):
    """What the diff of a page about the effective beta does."""

    broken: Callable[[int, int, int], float] | None  # beta of the removed line by B, P, D; None: no beta explains it
    likelihood: Callable[[Tensor, Tensor], float] = bernoulli
    result: str = "loss"
    image: bool = False
    unit: Callable[[int, int, int], float] = lambda B, P, D: 1  # a and b of the added line: 1 is nats per sample


BETAS = {
    "RE001": Beta(lambda B, P, D: P),
    "RE002": Beta(None),
    "RE004": Beta(None),
    "RE005": Beta(lambda B, P, D: -1),
    "RE006": Beta(lambda B, P, D: 500 / 0.1**2, gaussian(0.1)),  # a weight of 0.001 is sigma^2 = 500
    "RE007": Beta(None, gaussian(1.0)),
    "RE008": Beta(lambda B, P, D: 3, image=True),
    "KL001": Beta(lambda B, P, D: 0),
    "KL002": Beta(lambda B, P, D: -1),
    "KL003": Beta(lambda B, P, D: 1 / D),
    "KL004": Beta(lambda B, P, D: B),
    "KL005": Beta(None),
    "KL007": Beta(None, result="negative_elbo"),
    "KL008": Beta(lambda B, P, D: B * P / (128 * 784), unit=lambda B, P, D: 1 / P),
    "UN002": Beta(lambda B, P, D: 0.1, result="negative_elbo"),
}


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("code", BETAS)
def test_the_added_line_has_an_effective_beta_of_1_and_the_removed_one_has_not(
    code: str, sizes: tuple[int, int, int]
) -> None:
    case = BETAS[code]

    def fitted(sign: str) -> Fit:
        shaped = as_image if case.image else dict
        return fit(lambda one: getattr(run(code, sign, **shaped(one)), case.result), case.likelihood, sizes)

    fixed, broken = fitted("+"), fitted("-")
    assert fixed == pytest.approx((case.unit(*sizes), case.unit(*sizes), 0), abs=1e-9)
    if case.broken is None:
        assert broken.residual > 1e-6
    else:
        assert broken.residual < 1e-9
        assert broken.b / broken.a == pytest.approx(case.broken(*sizes), rel=1e-6, abs=1e-9)


def gradients(code: str, sign: str, result: str = "loss") -> list[Tensor]:
    """d loss / d (recon, mu, logvar) of one batch; zeros for an input the loss does not reach."""
    one = batch()
    one["recon"] = one["recon"].detach().requires_grad_()
    wanted = [one["recon"], one["mu"], one["logvar"]]
    found = torch.autograd.grad(getattr(run(code, sign, **one), result), wanted, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(wanted, found, strict=True)]


def bound_gradients() -> list[Tensor]:
    """The same of the bound, by hand: (p - x) / (p (1 - p)), mu and (exp(logvar) - 1) / 2, each over B."""
    one = batch()
    p = one["recon"]
    terms = [(p - one["x"]) / (p * (1 - p)), one["mu"], (one["logvar"].exp() - 1) / 2]
    return [term.detach() / len(p) for term in terms]


@pytest.mark.parametrize("code", ["GR001", "GR002"])
def test_gradients_are_whole_while_values_agree(code: str) -> None:
    values = [run(code, sign, **batch()).loss.detach() for sign in "+-"]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients(code, "+"), bound_gradients())
    broken = gradients(code, "-")
    assert not torch.allclose(broken[2], bound_gradients()[2])


def test_the_detached_variance_has_the_slope_the_page_says() -> None:
    torch.testing.assert_close(gradients("GR002", "-")[2], torch.full((6, 4), -0.5 / 6, dtype=torch.float64))


def test_every_parameter_is_in_the_optimiser() -> None:
    encoder, decoder = nn.Linear(3, 2), nn.Linear(2, 3)
    held = {
        sign: {
            id(p)
            for group in run("GR003", sign, encoder=encoder, decoder=decoder).optimizer.param_groups
            for p in group["params"]
        }
        for sign in "+-"
    }
    everything = {id(p) for net in (encoder, decoder) for p in net.parameters()}
    assert held["+"] == everything
    assert held["-"] < everything


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_a_weight_is_used(beta: float) -> None:
    def fitted(sign: str) -> Fit:
        loss = run("GR004", sign).vae_loss
        return fit(lambda o: loss(o["recon"], o["x"], o["mu"], o["logvar"], beta=beta), bernoulli, SIZES[0])

    assert fitted("+")[:2] == pytest.approx((1, beta))
    assert fitted("-")[:2] == pytest.approx((1, 1))


def test_a_common_factor_leaves_beta() -> None:
    def fitted(sign: str) -> Fit:
        return fit(lambda one: run("UN001", sign, **one).loss, bernoulli, SIZES[0])

    assert fitted("+")[:2] == pytest.approx((1, 1))
    assert fitted("-")[:2] == pytest.approx((6, 6))


def test_fifty_times_the_squared_error_is_a_noise_of_a_tenth() -> None:
    found = fit(lambda one: 50 * ((one["x"] - one["recon"]) ** 2).sum(1).mean(), gaussian(0.1), SIZES[0])
    assert found == pytest.approx((1, 0, 0), abs=1e-9)


@contextmanager
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def drawn(code: str, sign: str, rows: int = 20_000, **names: Any) -> tuple[SimpleNamespace, Tensor]:
    """The names of a sampler's diff for many equal rows, and its z with mu taken off."""
    mu, head = torch.full((rows, 2), 0.7, dtype=torch.float64), torch.full((rows, 2), -1.2, dtype=torch.float64)
    with seeded():
        space = run(code, sign, mu=mu, logvar=head, log_std=head, **names)
    return space, (space.z - mu) if hasattr(space, "z") else space.eps


SPREADS = {  # code: sign and mode of the model -> standard deviation of z for a head of -1.2
    "SA001": {("+", True): math.exp(-0.6), ("-", True): math.exp(-1.2)},
    "SA003": {("+", True): math.exp(-0.6), ("-", True): 0.0, ("+", False): 0.0},
    "SA004": {("+", True): math.exp(-0.6), ("+", False): 0.0, ("-", False): math.exp(-0.6)},
    "KL006": {("+", True): math.exp(-1.2), ("-", True): math.exp(-1.2)},
}


@pytest.mark.parametrize(
    ("code", "sign", "mode", "spread"),
    [(code, *key, spread) for code, rows in SPREADS.items() for key, spread in rows.items()],
)
def test_z_has_the_spread_the_page_says(code: str, sign: str, mode: bool, spread: float) -> None:
    noise = drawn(code, sign, model=nn.Identity().train(mode))[1]
    assert float(noise.std()) == pytest.approx(spread, rel=0.02)


@pytest.mark.parametrize(("sign", "right"), [("+", True), ("-", False)])
def test_the_divergence_is_that_of_the_posterior_that_z_comes_from(sign: str, right: bool) -> None:
    space, noise = drawn("KL006", sign)
    expected = exact_kl(space.mu, noise.std().expand_as(space.mu))
    assert bool(torch.allclose(space.kl, expected, rtol=0.02)) is right


@pytest.mark.parametrize(("sign", "moments"), [("+", (0, 1, 3)), ("-", (1 / 2, 1 / 12, 9 / 5))])
def test_noise_has_the_moments_the_page_says(sign: str, moments: tuple[float, float, float]) -> None:
    eps = drawn("SA002", sign)[0].eps.numpy().ravel()
    assert (eps.mean(), eps.var(), stats.kurtosis(eps, fisher=False)) == pytest.approx(moments, abs=0.05)


def test_a_target_below_0_has_no_lowest_loss() -> None:
    black, logits = torch.zeros(1, 1), torch.full((1, 1), -1e3)
    fixed, broken = (float(run("RE003", sign, images=black, logits=logits).recon_loss) for sign in "+-")
    assert fixed == 0
    assert broken == pytest.approx(-1e3 * 0.1307 / 0.3081)


def test_a_second_sigmoid_has_the_floor_the_page_says() -> None:
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    still = {"x": x, "mu": torch.zeros(1, 1), "logvar": torch.zeros(1, 1)}
    fixed, broken = (float(run("RE002", s, logits=1e3 * (2 * x - 1), **still).loss) for s in "+-")
    assert fixed == pytest.approx(0)
    assert broken == pytest.approx(0.693 + 0.313, abs=1e-3)


def test_the_lost_exponential_has_the_minimum_the_page_says() -> None:
    grid = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
    still = {"mu": torch.zeros_like(grid), "x": torch.zeros_like(grid), "recon": torch.full_like(grid, 0.5)}
    fixed, broken = (run("KL005", sign, logvar=grid, **still).kl for sign in "+-")
    assert (float(fixed.min()), float(grid[fixed.argmin()])) == pytest.approx((0, 0), abs=1e-9)
    assert (float(broken.min()), float(grid[broken.argmin()])) == pytest.approx((-0.625, 0.5))


def test_a_bounded_head_stays_finite_and_is_one_reading() -> None:
    head = torch.tensor([[0.0, 100.0, -1e4]], requires_grad=True)
    mu = torch.ones(1, 3)
    fixed, broken = (run("NU001", sign, head=head, mu=mu) for sign in "+-")
    assert fixed.kl.isfinite().all() and fixed.z.isfinite().all()
    assert torch.autograd.grad(fixed.kl.sum(), head)[0].isfinite().all()
    assert not broken.kl.isfinite().all()
    torch.testing.assert_close(fixed.kl, exact_kl(mu, (0.5 * fixed.logvar).exp()))


def test_large_logits_cost_what_they_should() -> None:
    def losses(size: float) -> list[float]:
        x, logits, prior = torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[size, -size, size]]), torch.zeros(1, 1)
        return [float(run("NU002", sign, x=x, logits=logits, mu=prior, logvar=prior).loss) for sign in "+-"]

    assert losses(2.0) == pytest.approx([2 * math.log1p(math.exp(2)) + math.log1p(math.exp(-2))] * 2, rel=1e-5)
    fixed, broken = losses(200.0)
    assert fixed == pytest.approx(400)
    assert not math.isfinite(broken)


def reach(code: str, sign: str, of: str, by: str) -> bool:
    """Whether one tensor moves with another in a diff about a model with random layers."""
    with seeded():
        x = torch.randn(5, 8).requires_grad_()
        layers = {"encoder": nn.LazyLinear(8), "decoder": nn.LazyLinear(8)}
        space = run(code, sign, x=x, condition=torch.ones(5, 3), **layers)
    return torch.autograd.grad(getattr(space, of).sum(), getattr(space, by), allow_unused=True)[0] is not None


@pytest.mark.parametrize(
    ("code", "of", "by"), [("MO001", "recon", "z"), ("MO002", "mu", "x"), ("MO002", "logvar", "x")]
)
def test_what_should_move_moves(code: str, of: str, by: str) -> None:
    assert reach(code, "+", of, by)
    assert not reach(code, "-", of, by)


def test_data_from_0_to_255_cost_65025_times_as_much_at_start() -> None:
    images = torch.randint(0, 256, (4, 12), generator=torch.Generator().manual_seed(0))
    fixed, broken = (float(run("MO003", s, images=images, recon=torch.zeros(4, 12)).recon_loss) for s in "+-")
    assert 0 < fixed < 0.5 * 12
    assert broken / fixed == pytest.approx(65025)


# The known truth of one row: z ~ N(0, 1) and x | z ~ N(z, 1), so x ~ N(0, 2) and z | x ~ N(x / 2, 1 / 2).
X = torch.tensor([0.4], dtype=torch.float64)
TRUTH = float(stats.norm.logpdf(0.4, 0, math.sqrt(2)))


def log_weights(count: int, exact: bool = False) -> Tensor:
    """log p(x|z) + log p(z) - log q(z|x), [K, 1], with the exact posterior or the prior as q."""
    q = td.Normal(X / 2, math.sqrt(0.5)) if exact else td.Normal(0 * X, 1.0)
    z = q.sample((count,))
    return td.Normal(z, 1.0).log_prob(X) + td.Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)


@pytest.mark.parametrize(
    ("code", "result", "fixed", "broken"),
    [
        ("LI001", "nll", -TRUTH, TRUTH),
        ("LI002", "log_px", TRUTH, TRUTH + math.log(7)),
        ("LI003", "log_px", TRUTH, TRUTH),  # with the exact posterior there is no gap to close
    ],
)
def test_an_estimate_with_the_exact_posterior(code: str, result: str, fixed: float, broken: float) -> None:
    found = [float(getattr(run(code, sign, log_w=log_weights(7, exact=True)), result)) for sign in "+-"]
    assert found == pytest.approx([fixed, broken])


@pytest.mark.parametrize(("count", "closed"), [(1, 0.0), (20_000, 1.0)])
def test_more_samples_close_the_gap(count: int, closed: float) -> None:
    """The share of KL(q || posterior), the gap of the bound, that K samples close on average."""
    gap = float(td.kl_divergence(td.Normal(0.0, 1.0), td.Normal(X / 2, math.sqrt(0.5))))
    with seeded():
        log_w = log_weights(20_000).reshape(count, -1)  # [K, B]: few samples for many rows, or many for one
    fixed, broken = (float(run("LI003", sign, log_w=log_w).log_px.mean()) for sign in "+-")
    assert 1 + (fixed - TRUTH) / gap == pytest.approx(closed, abs=0.05)
    assert 1 + (broken - TRUTH) / gap == pytest.approx(0, abs=0.05)


def test_as_many_samples_as_asked_for() -> None:
    fixed, broken = (
        run("LI004", sign, samples=100, log_weights=lambda count: log_weights(count, exact=True)) for sign in "+-"
    )
    assert (len(fixed.log_w), len(broken.log_w)) == (100, 120)
    assert [float(fixed.log_px), float(broken.log_px)] == pytest.approx([TRUTH, TRUTH + math.log(1.2)])
