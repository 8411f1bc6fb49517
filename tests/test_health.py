"""`check` and `diagnose` as users meet them: calls, commands, files left behind, exit statuses, wrong turns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from torch import nn

import vaelab
from vaelab.cli import main
from vaelab.core.config import parse_overrides
from vaelab.core.errors import Diverged

ROWS = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32) @ np.random.default_rng(1).normal(size=(6, 6))
SHORT: dict[str, Any] = {"train": {"steps": 60, "batch_size": 32}, "report": {"html": False}}


def call(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    written = capsys.readouterr()
    return int(left.value.code or 0), written.out, written.err


def codes(findings: Any) -> list[str]:
    return [finding.code for finding in findings if finding.severity in ("warning", "error")]


class Mine(nn.Module):
    """A stranger's model: no part of it is known to vaelab."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)
        self.unused = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> Any:
        mean, log_variance = self.encoder(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(z), mean, log_variance


def own_loss(model: Mine, x: torch.Tensor) -> torch.Tensor:
    output, mean, log_variance = model(x)
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
    return (((output - x) ** 2).sum(1) + kl).mean()


def test_a_strangers_model_is_checked_and_left_as_it_was() -> None:
    model = Mine().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = vaelab.check(model, ROWS.astype(np.float32), loss=own_loss)
    assert codes(found) == ["CH106"]  # the loss never reaches `unused`
    assert "unused" in found[0].title
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_strangers_model_without_its_loss_is_refused() -> None:
    with pytest.raises(vaelab.BadInput, match="pass loss="):
        vaelab.check(Mine(), ROWS)


def test_a_model_of_ours_is_checked_on_any_data() -> None:
    model = vaelab.VAE(nn.Linear(6, 4), nn.Linear(2, 6), likelihood="gaussian", latent=2)
    assert codes(vaelab.check(model, ROWS)) == []
    model.encoder.requires_grad_(False)
    assert codes(vaelab.check(model, ROWS)) == ["CH107"]


def test_the_command_checks_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = call(["check", "digits", "likelihood=bernoulli"], capsys)
    assert status == 0 and "ready to train" in out and "DA002" in out
    status, out, _ = call(
        ["check", "digits", "likelihood=gaussian", "likelihood.noise=fixed", "likelihood.sigma=5"], capsys
    )
    assert status == 0 and "DA138" in out and "worth a look first" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["check"], "nothing to check"),
        (["check", "no-such-file.csv"], "no-such-file.csv"),
        (["check", "digits", "model.laten=3"], "did you mean"),
        (["diagnose", "no-such-folder"], "no-such-folder"),
        (["diagnose", "log.csv", "kl"], "role=tag"),
        (["diagnose", "log.csv", "kll=a"], "did you mean kl"),
        (["diagnose", "empty.csv"], "empty.csv"),
        (["diagnose", "runs"], "name one of them"),
        (["diagnose", "."], "config.yaml|events|no run"),
    ],
)
def test_wrong_turns_get_one_line_and_status_2(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("step,loss,a\n1,2,3\n2,1,3\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "config.yaml").write_text("seed: 0")
    status, out, error = call(arguments, capsys)
    assert status == 2 and out == "" and "Traceback" not in error
    assert any(word in error for word in text.split("|"))
    assert len(error.strip().splitlines()) == 1


def collapsed(folder: Path) -> vaelab.Run:
    config = {**SHORT, "objective": {"beta": 30.0}, "train": {"steps": 400, "batch_size": 64}}
    return vaelab.train("digits", out=folder, config=config, progress=False)


def test_a_run_is_diagnosed_and_the_remedy_is_a_whole_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The collapse is named; the command that is printed trains again, and the run is alive."""
    folder = tmp_path / "first"
    collapsed(folder)
    status, out, _ = call(["diagnose", folder], capsys)
    assert status == 1 and "posterior collapse: beta is too high" in out and "what to change" in out
    again = next(line for line in out.splitlines() if line.startswith("next")).split()[1:]
    assert again[:2] == ["vaelab", "train"]
    assert parse_overrides(again[4:]) == {"objective": {"beta": 1.0}}
    status, out, _ = call([*again[1:], "--out", tmp_path / "second", "--quiet"], capsys)
    assert status == 0
    assert set(codes(vaelab.diagnose(tmp_path / "second"))) <= {"TR106"}  # 400 steps are few
    assert vaelab.load(tmp_path / "second").metrics["kl"] > 1


def test_what_was_diagnosed_stays_with_the_run_until_it_is_resumed(tmp_path: Path) -> None:
    run = collapsed(tmp_path / "run")
    found = vaelab.diagnose(run)
    assert vaelab.load(run.folder).diagnosis["numbers"].keys() == found.numbers.keys()
    assert [finding.code for finding in vaelab.load(run.folder).findings] == [finding.code for finding in found]
    vaelab.train(resume=run.folder, config={"train": {"steps": 420}}, progress=False)
    assert vaelab.load(run.folder).diagnosis == {}


def test_json_holds_every_number_with_its_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = vaelab.train(ROWS, out=tmp_path / "run", config=SHORT, progress=False)
    _, out, _ = call(["diagnose", run.folder, "--json"], capsys)
    told = json.loads(out)
    assert {"rate", "listening", "mutual_information", "total_correlation"} <= told["numbers"].keys()
    assert all({"value", "interval", "unit"} <= number.keys() for number in told["numbers"].values())
    assert all(finding["code"] for finding in told["findings"])


def test_a_strangers_log_is_diagnosed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(tmp_path / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train/total", "train/bce", "train/latent", "a"])
        for step in range(60):
            kl = 20 * np.exp(-step / 3)
            writer.writerow([step, 150 - step / 10 + kl, 150 - step / 10, kl, step])
    status, out, _ = call(["diagnose", tmp_path / "metrics.csv", "kl=train/latent"], capsys)
    assert status == 1 and "TR101" in out and "train/latent" in out


class Cursed(vaelab.VAE):
    """Has no finite bound once its weights have moved by one hundredth."""

    def draw(self, *arguments: Any, **named: Any) -> vaelab.VAEOutput:
        output = super().draw(*arguments, **named)
        self.start = getattr(self, "start", self.decoder.net.bias.detach().clone())
        if self.training and (self.decoder.net.bias - self.start).abs().max() > 0.01:
            output.log_px = output.log_px * torch.nan
        return output


def test_a_run_that_was_stopped_leaves_its_findings_and_a_page(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Cursed(nn.Linear(6, 4), nn.Linear(2, 6), likelihood="gaussian", latent=2)
    config = {"train": {"steps": 400, "batch_size": 32}}
    with pytest.raises(Diverged, match="step"):
        vaelab.train(ROWS, out=tmp_path / "run", model=model, config=config, progress=False)
    run = vaelab.load(tmp_path / "run", model)
    lead = run.findings[0]
    assert lead.severity == "error" and "NaN" in lead.title and lead.measured == 1
    told = vaelab.diagnose(tmp_path / "run")
    assert "no evaluation yet" in told.heading and told.findings[0].code == lead.code
    event = next(line for line in run.history if line["kind"] == "event")
    assert event["what"] == "refused" and event["step"] > 0
    assert "NaN" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_that_left_all_bounds_is_diagnosed_all_the_same(tmp_path: Path) -> None:
    """Outputs beyond what distances can be taken of: the rate is named, and the page is written."""
    config = {"train": {"steps": 200, "learning_rate": 100.0, "on_nan": "rollback"}}
    run = vaelab.train("digits", out=tmp_path / "run", config=config, progress=False)
    assert codes(run.findings)[0] in ("TR120", "TR131") and "rate" in run.findings[0].title
    assert (run.folder / "report.html").stat().st_size > 10_000


def test_five_rows_are_no_ground_for_errors(tmp_path: Path) -> None:
    run = vaelab.train(ROWS[:5], out=tmp_path / "run", config=SHORT, progress=False)
    assert all(finding.severity != "error" for finding in vaelab.diagnose(run))


def test_a_run_of_ones_own_model_is_diagnosed_with_it_and_in_part_without(tmp_path: Path) -> None:
    model = vaelab.VAE(nn.Linear(6, 4), nn.Linear(2, 6), likelihood="gaussian", latent=2)
    run = vaelab.train(ROWS, out=tmp_path / "run", model=model, config=SHORT, progress=False)
    without = vaelab.diagnose(tmp_path / "run")
    assert "a model of your own" in without.heading and without.numbers == {}
    assert vaelab.diagnose(tmp_path / "run", model=model).numbers.keys() == vaelab.diagnose(run).numbers.keys() != set()


def test_checks_do_not_change_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run with and without the checks before it ends in the same bits."""
    from vaelab.training import fit

    first = vaelab.train(ROWS, out=tmp_path / "a", config=SHORT, progress=False)
    monkeypatch.setattr(fit, "quick", lambda *_, **__: [])
    second = vaelab.train(ROWS, out=tmp_path / "b", config=SHORT, progress=False)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert first.history == second.history


@pytest.mark.parametrize(
    ("last", "reaches"), [(nn.Identity(), True), (nn.ReLU(), False), (nn.Sigmoid(), False), (nn.Softplus(), False)]
)
def test_a_last_activation_that_cannot_reach_the_data_is_named(last: nn.Module, reaches: bool) -> None:
    torch.manual_seed(0)
    model = vaelab.VAE(nn.Linear(13, 4), nn.Sequential(nn.Linear(2, 13), last), likelihood="gaussian", latent=2)
    assert codes(vaelab.check(model, load_wine().data)) == ([] if reaches else ["CH121"])
