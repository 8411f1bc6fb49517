"""Keras: `Model.fit` on arrays. Variants are its backends, "torch" and "jax"."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from harness import CLIP, DECAY, RATE, WIDTHS, begin

task, gate = begin()
os.environ["KERAS_BACKEND"] = task.variant

import keras  # noqa: E402
from keras import layers, ops  # noqa: E402


def stack(widths: list[int], last: int) -> keras.Sequential:
    """Dense layers, the last one linear."""
    return keras.Sequential([*(layers.Dense(width, activation="silu") for width in widths), layers.Dense(last)])


class Network(keras.Model):
    """The network; the divergence is added in `call`, the pixels are the compiled loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = stack(list(WIDTHS), 2 * task.latent)
        self.decoder = stack(list(reversed(WIDTHS)), 784)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x: Any) -> Any:
        mean, raw = ops.split(self.encoder(x), 2, axis=-1)
        std = ops.softplus(raw) + 1e-8
        self.add_loss(ops.mean(ops.sum(0.5 * (mean**2 + std**2 - 1) - ops.log(std), axis=-1)))
        return self.decoder(mean + std * keras.random.normal(ops.shape(mean), seed=self.seeds))


def pixels(x: Any, logits: Any) -> Any:
    """Nats of each row's Bernoulli pixels."""
    return 784 * keras.losses.binary_crossentropy(x, logits, from_logits=True)


class Turns(keras.callbacks.Callback):
    """Stops at the gate."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        gate.step()


def test_loss() -> float:
    """The mean of the loss over the test rows."""
    if task.variant == "jax":
        model.jax_state_sync()  # the weights are in the model only at the end of an epoch
    mean, raw = np.split(ops.convert_to_numpy(model.encoder(task.test)), 2, axis=-1)
    std = np.logaddexp(0, raw) + 1e-8
    z = (mean + std * np.random.default_rng(0).standard_normal(mean.shape)).astype(np.float32)
    logits = ops.convert_to_numpy(model.decoder(z)).astype(np.float64)
    nats = np.logaddexp(0, logits) - logits * task.test
    return float((nats.sum(-1) + (0.5 * (mean**2 + std**2 - 1) - np.log(std)).sum(-1)).mean())


model = Network()
model.compile(keras.optimizers.AdamW(RATE, weight_decay=DECAY, global_clipnorm=CLIP), loss=pixels)
rows = task.scaled
model(rows[: task.batch])
gate.open(sum(int(np.prod(weight.shape)) for weight in model.trainable_weights), test_loss)
model.fit(rows, rows, batch_size=task.batch, epochs=1000, verbose=0, callbacks=[Turns()])
