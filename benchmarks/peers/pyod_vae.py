"""PyOD's VAE: it minimises squares in place of Bernoulli nats, knows no SiLU, and has Adam, which clips no gradient."""

from __future__ import annotations

from typing import Any

from harness import DECAY, RATE, WIDTHS, begin
from pyod.models.vae import VAE


class Turns(VAE):
    """Stops at the gate."""

    def build_model(self) -> None:
        super().build_model()
        gate.open(sum(parameter.numel() for parameter in self.model.parameters()))

    def training_forward(self, batch_data: Any) -> float:
        loss = super().training_forward(batch_data)
        gate.step()
        return loss


task, gate = begin()
Turns(
    preprocessing=False,
    lr=RATE,
    epoch_num=1000,
    batch_size=task.batch,
    verbose=0,
    optimizer_params={"weight_decay": DECAY},
    encoder_neuron_list=list(WIDTHS),
    decoder_neuron_list=list(reversed(WIDTHS)),
    latent_dim=task.latent,
    hidden_activation_name="relu",
    output_activation_name="sigmoid",
    dropout_rate=0.0,
).fit(task.scaled)
