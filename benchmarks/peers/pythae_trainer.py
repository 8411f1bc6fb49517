"""pythae's VAE under its own BaseTrainer, which clips no gradient."""

from __future__ import annotations

import tempfile

import torch
import torch.nn.functional as F
from harness import DECAY, RATE, begin
from networks import SMALLEST, Network
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor


class Encoder(BaseEncoder):
    """The encoder of the network."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.net = network.encoder

    def forward(self, x: Tensor) -> ModelOutput:
        mean, raw = self.net(x).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=2 * (F.softplus(raw) + SMALLEST).log())


class Decoder(BaseDecoder):
    """The decoder of the network, with probabilities."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.net = network.decoder

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z).sigmoid())


class Turns(TrainingCallback):
    """Stops at the gate."""

    def on_train_step_end(self, *given: object, **more: object) -> None:
        gate.step()


task, gate = begin()
network = Network(task.network, task.latent)
rows = torch.from_numpy(task.scaled)
model = VAE(
    VAEConfig(input_dim=(784,), latent_dim=task.latent, reconstruction_loss="bce"),
    encoder=Encoder(network),
    decoder=Decoder(network),
)
trainer = BaseTrainer(
    model,
    BaseDataset(rows, torch.zeros(len(rows))),
    training_config=BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        num_epochs=1000,
        per_device_train_batch_size=task.batch,
        learning_rate=RATE,
        optimizer_cls="AdamW",
        optimizer_params={"weight_decay": DECAY},
        no_cuda=True,
    ),
    callbacks=[Turns()],
)
gate.open(network.size, lambda: network.test_loss(task.test))
trainer.train()
