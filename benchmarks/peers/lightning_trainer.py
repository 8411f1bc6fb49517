"""Lightning's Trainer without its progress bar, its logger and its checkpoints."""

from __future__ import annotations

import lightning
import torch
from harness import CLIP, DECAY, RATE, begin
from networks import Network
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class Module(lightning.LightningModule):
    """The network under its loss."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        loss = self.network.loss(batch[0])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=DECAY)

    def on_train_batch_end(self, *given: object) -> None:
        gate.step()


task, gate = begin()
network = Network(task.network, task.latent)
loader = DataLoader(TensorDataset(torch.from_numpy(task.scaled)), batch_size=task.batch, shuffle=True)
trainer = lightning.Trainer(
    accelerator="cpu",
    max_epochs=-1,
    gradient_clip_val=CLIP,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
gate.open(network.size, lambda: network.test_loss(task.test))
trainer.fit(Module(network), loader)
