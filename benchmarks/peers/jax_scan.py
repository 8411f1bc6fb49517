"""JAX and optax: a block of steps is one jitted scan, with the rows on the device as they came."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import CLIP, DECAY, RATE, WIDTHS, begin
from jax import Array

Layers = list[tuple[Array, Array]]


def begun(widths: list[int], random: np.random.Generator) -> Layers:
    """Starting values as PyTorch's linear layers have them."""
    pairs = list(pairwise(widths))
    bounds = [wide**-0.5 for wide, _ in pairs]
    shapes = [((wide, narrow), (narrow,)) for wide, narrow in pairs]
    return [
        tuple(jnp.asarray(random.uniform(-bound, bound, shape), jnp.float32) for shape in both)  # type: ignore[misc]
        for bound, both in zip(bounds, shapes, strict=True)
    ]


def applied(layers: Layers, x: Array) -> Array:
    """The network's last linear layer."""
    for weight, bias in layers[:-1]:
        x = jax.nn.silu(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def loss(parameters: dict[str, Layers], x: Array, key: Array) -> Array:
    """The negative bound at beta = 1 with one sample, nats per sample."""
    mean, raw = jnp.split(applied(parameters["encoder"], x), 2, -1)
    std = jax.nn.softplus(raw) + 1e-8
    logits = applied(parameters["decoder"], mean + std * jax.random.normal(key, mean.shape))
    nats = optax.sigmoid_binary_cross_entropy(logits, x).sum()
    return (nats + 0.5 * (mean**2 + std**2 - 1 - 2 * jnp.log(std)).sum()) / len(x)


task, gate = begin()
random, key = np.random.default_rng(0), jax.random.key(0)
rows, optimizer = (
    jnp.asarray(task.train),
    optax.chain(optax.clip_by_global_norm(CLIP), optax.adamw(RATE, weight_decay=DECAY)),
)
chains = {"encoder": [784, *WIDTHS, 2 * task.latent], "decoder": [task.latent, *reversed(WIDTHS), 784]}
parameters = {name: begun(widths, random) for name, widths in chains.items()}
state = (parameters, optimizer.init(parameters))


def one_step(state: Any, drawn: tuple[Array, Array]) -> tuple[Any, Array]:
    """A step on the rows of an index."""
    (parameters, inner), (index, key) = state, drawn
    value, gradient = jax.value_and_grad(loss)(parameters, rows[index].astype(jnp.float32) / 255, key)
    updates, inner = optimizer.update(gradient, inner, parameters)
    return (optax.apply_updates(parameters, updates), inner), value


@jax.jit
def block(state: Any, index: Array, key: Array) -> tuple[Any, Array]:
    """A step on each row of an index [steps, batch]."""
    return jax.lax.scan(one_step, state, (index, jax.random.split(key, len(index))))


def order() -> np.ndarray:
    """Permutation after permutation of the rows, as long as a block wants, [steps, batch]."""
    wanted = task.block * task.batch
    passes = [random.permutation(len(rows)) for _ in range(-(-wanted // len(rows)))]
    return np.concatenate(passes)[:wanted].reshape(task.block, task.batch)


def test_loss() -> float:
    """The mean of the loss over the test rows."""
    return float(loss(state[0], jnp.asarray(task.test), jax.random.key(1)))


gate.open(sum(leaf.size for leaf in jax.tree.leaves(parameters)), test_loss)
while True:
    key, now = jax.random.split(key)
    state, losses = jax.block_until_ready(block(state, order(), now))
    assert np.isfinite(losses).all()
    gate.step(task.block)
