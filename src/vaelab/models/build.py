"""Models by name: tables from the words of a config to constructors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.config import Config
from ..core.errors import BadInput
from ..core.facts import Facts, Shape
from ..core.seeds import derive
from ..core.settings import ModelConfig
from ..core.tables import pick
from ..distributions.incomplete import Incomplete, SelfMasking
from ..distributions.ladder import BottomUp, Descent, GroupPrior, TopPosterior
from ..distributions.later import FittedLater
from ..distributions.likelihoods import Decoder
from ..distributions.mixed import MixedInput
from ..distributions.sphere import OnSphere
from ..nets.conditioned import After, Beside, Planes
from ..nets.init import initialise
from ..nets.mlp import MLP
from ..nets.residual import Chain, Climb, Joint, Ladder, OverRows
from .codes import default_latent, has_codes
from .fits import is_hierarchy, prior_of
from .hierarchical import Hierarchy
from .parts import AFTER, DECODERS, ENCODERS, POSTERIORS, PRIORS, READERS, Plan, build_likelihood
from .prepare import Filled, Prepare, prepared
from .semi_supervised import SemiSupervised
from .vae import VAE, Model

LARGE_IMAGE = 1024  # entries up to which an MLP is as good and, on a CPU, many times as fast


def resolve(config: Config, facts: Facts, layout: str) -> Config:
    """The config with every choice that depends on the data made.

    Latent dimensions: half the entries of a row, at most 16; unused ones cost nothing, the bound switches them off.
    """
    model, shape = config.model, facts.shape
    big = layout == "image" and prod(shape) > LARGE_IMAGE and min(shape[1:]) >= 2 ** len(model.channels)
    encoder = model.encoder or ("recurrent" if facts.vocabulary else "conv" if big else "mlp")
    latent = _latent(model, shape, encoder)
    chosen = {"latent": latent, "encoder": encoder, "decoder": model.decoder or encoder}
    return config.updated(model=chosen, prior={"name": prior_of(config)})


def _latent(model: ModelConfig, shape: Shape, encoder: str) -> int:
    total = sum(model.groups or ())
    if model.latent and total and model.latent != total:
        rule = f"the groups {model.groups} have {total} dimensions together"
        raise BadInput("model.latent", model.latent, rule, "leave it out")
    usual = default_latent(model, encoder, shape) if has_codes(model) else min(16, max(1, prod(shape) // 2))
    return total or model.latent or usual


def build_model(config: Config, facts: Facts | Shape) -> Model:
    """The model that a resolved config describes, for rows of a shape; its weights follow from the seed.

    Args:
        config: With encoder, decoder, latent size, prior and likelihood all named, as `resolve` leaves it.
        facts: Of the data, or only the shape of a row: [D] for a table's row, [C, H, W] for an image.

    Raises:
        BadInput: for a convolutional network over rows that are no images, or too many blocks for their size.
    """
    plan = Plan(config, facts if isinstance(facts, Facts) else Facts(tuple(facts)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "weights"))
        model = next(build for applies, build in FAMILIES if applies(plan))(plan)
        initialise(model, config.model.init)
        return model


def build_encoder(plan: Plan) -> nn.Module:
    """The encoder network that a plan names, with an attribute `features`."""
    kind, given = plan.config.model.encoder, plan.given_to("encoder")
    assert kind, "the config is not resolved"
    shape = as_image(plan.facts.shape, kind, "model.encoder")
    prepare: Any = prepared(plan.config.likelihood)
    if plan.config.likelihood.name == "mixed":
        prepare = MixedInput(plan.facts.columns)
        shape = (prepare.size,)
    if plan.facts.incomplete:
        prepare = Filled(prepare, shape, plan.facts.missing)
        shape = prepare.shape
    build = pick(ENCODERS, kind, "model.encoder")
    if not given:
        net = build(plan, shape)
    elif kind == "conv":
        net = Planes(build(plan, Planes.widened(shape, given)), shape)
    elif kind in ("linear", "mlp"):
        net = Beside(build(plan, Beside.widened(shape, given)))
    else:
        net = After(build(plan, shape), given)
    return net if prepare is None else Prepare(prepare, net)


def build_flat(plan: Plan) -> VAE:
    """A model of one encoder, one prior and one decoder."""
    parts, facts = plan.config.model, plan.facts
    assert parts.latent and parts.decoder, "the config is not resolved"
    net: Any = build_encoder(plan)
    encoder = pick(POSTERIORS, parts.posterior, "model.posterior").build(plan, net, net.features)
    prior = build_prior(plan, encoder)
    condition = parts.condition_on if facts.condition else ()
    decoder = build_decoder(plan, parts.latent + plan.given_to("decoder"))
    return VAE(encoder, decoder, prior, latent=parts.latent, condition=condition)


def build_prior(plan: Plan, encoder: Any) -> nn.Module:
    """The prior that a plan names, with the one that takes its place after training where it names one."""
    prior = pick(PRIORS, prior_of(plan.config), "prior.name").build(plan, encoder)
    after = plan.config.prior.after
    return prior if after == "none" else FittedLater(prior, pick(AFTER, after, "prior.after").build(plan, encoder))


def build_decoder(plan: Plan, inputs: int) -> nn.Module:
    """The decoder that a plan names, over vectors of that many entries."""
    parts, facts = plan.config.model, plan.facts
    assert parts.decoder, "the config is not resolved"
    likelihood: Any = build_likelihood(plan.config.likelihood, facts)
    if facts.incomplete:
        why = plan.config.data.mask_model
        likelihood = Incomplete(likelihood, None if why == "none" else SelfMasking(facts.shape, why))
    if parts.decoder in READERS:
        return READERS[parts.decoder](plan, inputs, likelihood)
    channels, *shape = likelihood.layout(as_image(facts.shape, parts.decoder, "model.decoder"))
    wide = widened(tuple(shape), channels)
    net = pick(DECODERS, parts.decoder, "model.decoder")(plan, inputs, wide)
    if "sphere" in POSTERIORS[parts.posterior].offers:
        net = OnSphere(net, plan.latent)
    return Decoder(net, likelihood, facts.shape)


def build_hierarchy(plan: Plan) -> Hierarchy:
    """A model of several latent groups, over a path down or over all that has been drawn.

    Groups are vectors, and so is the path; images enter by the encoder's network and leave by the decoder's.
    """
    model, facts, style = plan.config.model, plan.facts, plan.style
    sizes, net = model.groups or (), build_encoder(plan)
    hidden = () if model.encoder == "linear" else model.hidden
    width = (hidden or (model.width,))[-1] if model.ladder else None
    climb = Climb(net, width, len(sizes), **style)
    path = Chain(sizes) if width is None else Ladder(sizes, width, **style)
    above = list(zip(path.widths, sizes[1:], strict=False))
    joint, alone = (hidden[-1:], hidden) if width is None else ((width,), ())
    reads: list[nn.Module] = [nn.Linear(climb.features, 2 * sizes[0])]
    reads += [Joint((climb.features, state), joint, 2 * size, **style) for state, size in above]
    encoder = BottomUp(climb, reads, sizes, model.scale)
    top = replace(plan, config=plan.config.updated(model={"latent": sizes[0], "groups": None}))
    first = pick(PRIORS, prior_of(plan.config), "prior.name").build(top, TopPosterior(encoder))
    heads = [OverRows(MLP(state, alone, 2 * size, **style)) for state, size in above]
    inputs = path.widths[-1] + plan.given_to("decoder") + (plan.latent if model.ladder else 0)
    condition = model.condition_on if facts.condition else ()
    prior, descent = GroupPrior(first, plan.latent - sizes[0]), Descent(path, heads, sizes)
    decoder = build_decoder(plan, inputs)
    return Hierarchy(encoder, prior, descent, decoder, skips=model.ladder, condition=condition)


def build_semi_supervised(plan: Plan) -> SemiSupervised:
    """A flat model that reads labels, and a classifier of the encoder's kind for those that are not known."""
    model, facts = plan.config.model, plan.facts
    net: Any = build_encoder(replace(plan, facts=replace(facts, condition=0)))
    return SemiSupervised(
        build_flat(plan),
        nn.Sequential(net, nn.Linear(net.features, facts.classes)),
        facts.frequencies or (1,) * facts.classes,
        facts.rows,
        weight=model.classifier_weight,
        relaxed=model.temperature if model.missing_labels == "gumbel" else None,
    )


# The first that applies builds the model.
FAMILIES: list[tuple[Callable[[Plan], Any], Callable[[Plan], Model]]] = [
    (lambda plan: is_hierarchy(plan.config), build_hierarchy),
    (lambda plan: plan.facts.classes and plan.config.model.missing_labels != "refuse", build_semi_supervised),
    (lambda plan: True, build_flat),
]


def acquaint(model: Any, rows: Tensor | Batch) -> None:
    """Shows training rows, on the model's scale, to every part with a method `see`, before training starts.

    Pseudo-inputs, exemplars and codebooks begin at them.
    """
    for part in model.modules():
        if callable(see := getattr(part, "see", None)):
            see(rows)


def as_image(shape: Shape, net: str | None, argument: str) -> Shape:
    """The shape that a network is built for; a convolutional one needs images."""
    if net == "conv" and len(shape) != 3:
        rule = f"needs images of shape (channels, height, width), and these rows have shape {shape}"
        raise BadInput(argument, "conv", rule, f"use {argument}=mlp")
    return shape


def widened(shape: Shape, channels: int) -> Shape:
    """The shape of a decoder network's output: `channels` parameters for each entry, first."""
    return (channels * shape[0], *shape[1:])
