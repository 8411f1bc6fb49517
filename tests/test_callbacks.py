"""The monitor as a callback of Lightning and of the Hugging Face Trainer, with the real packages."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from test_monitor import DIGITS, Plain, graver
from torch import Tensor, nn

from vaelab.core.errors import BadInput, MissingExtra
from vaelab.monitoring.monitor import TERMS, Monitor


@pytest.mark.parametrize(("package", "make"), [("lightning.pytorch", "lightning"), ("transformers", "hugging_face")])
def test_a_missing_package_is_named(package: str, make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"pip install \"vaelab\["):
        getattr(Monitor(), make)()


@pytest.mark.parametrize("make", ["lightning", "hugging_face"])
def test_an_unknown_role_is_refused(make: str) -> None:
    pytest.importorskip({"lightning": "lightning", "hugging_face": "transformers"}[make])
    with pytest.raises(BadInput, match="did you mean kl"):
        getattr(Monitor(), make)({"kll": "x"})


def lightning_run(monitor: Monitor, beta: float, returns: bool, folder: Any) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Plain()

        def training_step(self, batch: Any, index: int) -> Any:
            seen = self.model(batch[0])
            rec, kl = seen["reconstruction"].mean(), seen["kl"].mean()
            self.log_dict({"train_recon_loss": rec, "train_kld": kl, "KL_weight": beta})
            loss = rec + beta * kl
            return {"loss": loss, "mu": seen["mu"], "log_var": seen["log_var"]} if returns else loss

        def validation_step(self, batch: Any, index: int) -> None:
            seen = self.model(batch[0])
            self.log("val_loss", (seen["reconstruction"] + seen["kl"]).mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 2e-3)

    torch.manual_seed(0)
    sets = (torch.utils.data.TensorDataset(part) for part in (DIGITS[:1500], DIGITS[1500:]))
    loaders = [torch.utils.data.DataLoader(part, 64) for part in sets]
    trainer = lightning.Trainer(
        max_epochs=9, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[monitor.lightning()], default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Module(), *loaders)


@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.parametrize(("beta", "codes"), [(1.0, []), (60.0, ["TR121"])])
@pytest.mark.filterwarnings("ignore")
def test_lightning(beta: float, codes: list[str], returns: bool, tmp_path: Any) -> None:
    monitor = Monitor()
    lightning_run(monitor, beta, returns, tmp_path)
    series = monitor.trace.series
    assert graver(monitor.findings) == codes, monitor.report()
    assert {*TERMS, "beta", "learning_rate", "held_out_loss", "gradient_norm", "update_ratio"} <= {*series}
    assert ("kl_per_dimension" in series) == returns
    assert series["beta"].last == beta and len(series["held_out_loss"]) == 9
    assert series["loss"].last == pytest.approx(series["reconstruction"].last + beta * series["kl"].last, rel=1e-3)


def hugging_face_run(monitor: Monitor, beta: float, returns: bool, folder: Any) -> None:
    transformers = pytest.importorskip("transformers")

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Plain()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            seen = self.model(x)
            rec, kl = seen["reconstruction"].mean(), seen["kl"].mean()
            loss = rec + beta * kl
            more = {"reconstruction_loss": rec, "kl_loss": kl, "mu": seen["mu"], "log_var": seen["log_var"]}
            return {"loss": loss, **(more if returns else {}), "reconstruction": x}

    torch.manual_seed(0)
    rows = [{"x": row} for row in DIGITS]
    arguments = transformers.TrainingArguments(
        folder, max_steps=200, per_device_train_batch_size=64, logging_steps=10, eval_strategy="steps", eval_steps=50,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, learning_rate=2e-3, label_names=[],
        lr_scheduler_type="constant", dataloader_pin_memory=False, seed=0, remove_unused_columns=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        Wrapped(), arguments, train_dataset=rows[:1500], eval_dataset=rows[1500:], callbacks=[monitor.hugging_face()],
        compute_loss_func=None,
    )  # fmt: skip
    trainer.can_return_loss = True
    trainer.train()


@pytest.mark.parametrize(("beta", "codes"), [(1.0, []), (60.0, ["TR101"])])
@pytest.mark.filterwarnings("ignore")
def test_hugging_face(beta: float, codes: list[str], tmp_path: Any) -> None:
    monitor = Monitor()
    hugging_face_run(monitor, beta, True, tmp_path)
    series = monitor.trace.series
    assert graver(monitor.findings) == codes, monitor.report()
    assert {*TERMS, "kl_per_dimension", "learning_rate", "held_out_loss", "update_ratio"} <= {*series}
    assert len(series["held_out_loss"]) == 4 and series["learning_rate"].last == pytest.approx(2e-3)
    assert series["loss"].last == pytest.approx(series["reconstruction"].last + beta * series["kl"].last, rel=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_with_the_loss_alone(tmp_path: Any) -> None:
    monitor = Monitor()
    hugging_face_run(monitor, 1.0, False, tmp_path)
    assert graver(monitor.findings) == [], monitor.report()
    assert {"loss", "held_out_loss", "learning_rate"} <= {*monitor.trace.series}
