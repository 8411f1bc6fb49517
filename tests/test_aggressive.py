"""Steps that move the encoder alone: which parameters change at which step, and that a run resumes in the middle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vaelab
from vaelab.models.build import build_model

ROWS = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
MODEL = {"hidden": [8], "latent": 2}


def trained(folder, steps, **train):
    settings = {"steps": steps, "batch_size": 32, "device": "cpu", "evaluate_every": steps, **train}
    config = {"model": MODEL, "likelihood": "gaussian", "train": settings, "report": {"html": False}}
    return vaelab.train(ROWS, out=folder, config=config, progress=False)


def moved(run):
    """Which parts differ from the start values that the seed gives."""
    start = build_model(run.config, run.spec.facts).state_dict()
    now = run.model.state_dict()
    parts = {name: name.split(".")[0] for name in start}
    return {part for name, part in parts.items() if not torch.equal(start[name], now[name])}


@pytest.mark.parametrize(("steps", "parts"), [(1, {"encoder"}), (3, {"encoder"}), (4, {"encoder", "decoder"})])
def test_all_but_every_fourth_step_move_the_encoder_alone(tmp_path, steps, parts):
    assert moved(trained(tmp_path / "run", steps, aggressive=4, aggressive_until=100)) == parts


def test_after_its_end_every_step_moves_everything(tmp_path):
    assert moved(trained(tmp_path / "run", 3, aggressive=100, aggressive_until=2)) == {"encoder", "decoder"}


def test_a_classifier_moves_with_the_encoder(tmp_path):
    labels = np.where(np.arange(200) % 2, np.arange(200) // 2 % 2, -1)
    config = {
        "data": {"condition": "labels"},
        "model": MODEL | {"missing_labels": "marginal"},
        "likelihood": "gaussian",
        "train": {"steps": 3, "batch_size": 32, "evaluate_every": 3, "aggressive": 4, "aggressive_until": 100},
        "report": {"html": False},
    }
    run = vaelab.train((ROWS, labels), out=tmp_path / "run", config=config, progress=False)
    start, now = build_model(run.config, run.spec.facts).state_dict(), run.model.state_dict()
    parts = {name for name in start if not torch.equal(start[name], now[name])}
    assert {name.replace("vae.", "").split(".")[0] for name in parts} == {"encoder", "classifier"}


def test_a_decoder_at_rest_keeps_its_moments_too(tmp_path):
    """Weight decay and momentum would move a parameter whose gradient is 0; one without a gradient stays."""
    run = trained(tmp_path / "run", 3, aggressive=100, aggressive_until=100, weight_decay=0.5)
    assert moved(run) == {"encoder"}
