"""Roles guessed from the names that real loggers and projects use."""

from __future__ import annotations

import pytest

from vaelab.monitoring.tags import guess, maximised
from vaelab.monitoring.trace import ROLES

NAMES = {
    "loss": (
        "loss", "train/loss", "train_loss", "train_loss_epoch", "train_loss_step", "Loss/train", "trainLoss",
        "total_loss",
        "Training Loss", "losses/total", "avg_loss", "train.loss", "objective", "elbo", "ELBO", "neg_elbo",
        "negative_elbo", "nelbo", "-ELBO", "vae_loss", "elbo_loss", "free_energy", "training/total_loss", "cost",
    ),
    "reconstruction": (
        "recon_loss", "rec_loss", "reconstruction_loss", "train/recon", "Reconstruction_Loss", "bce", "BCE", "mse",
        "mse_loss", "nll", "recons_loss", "train_reconstruction", "RE", "rec", "reconstruction_error", "distortion",
        "reproduction_loss", "log_px", "log p(x|z)", "loss_recon", "loss/reconstruction", "nll_loss", "recon_error",
        "neg_log_likelihood", "train/rec_loss_step", "reconLoss", "decoder_loss", "rec_loss_epoch", "BCELoss",
    ),
    "kl": (
        "kl", "KL", "kld", "KLD", "kl_div", "KLDiv", "kl_loss", "train/kl", "latent_loss", "kl_divergence", "D_KL",
        "train_kl_epoch", "KL Divergence", "rate", "klLoss", "loss/kl", "loss_kld", "reg_loss",
        "train/KL_loss", "KLD_loss",
        "kldivloss", "divergence", "regularization_loss",
    ),
    "beta": (
        "beta", "KL_weight", "kl_weight", "kld_weight", "kl_coeff", "train/beta", "anneal_factor", "kl_beta",
        "w_kl",
    ),
    "learning_rate": (
        "lr", "learning_rate", "lr-Adam", "lr-AdamW", "lr-Adam/pg1", "train/learning_rate", "LR", "train/lr", "lr-SGD",
        "optimizer/lr", "lr/group0", "learningRate",
    ),
    "gradient_norm": (
        "grad_norm", "train/grad_norm", "gradient_norm", "grad_2.0_norm_total", "gnorm",
        "grads/total_norm",
    ),
    "held_out_loss": (
        "val_loss", "eval_loss", "valid/loss", "validation_loss", "test/loss", "val_loss_epoch", "eval/loss",
        "Loss/val",
        "val_elbo", "test_loss", "dev/loss", "held_out_loss", "validation/neg_elbo", "Loss/validation",
    ),
    "held_out_reconstruction": ("val_recon_loss", "val/nll", "eval_mse", "validation/reconstruction", "val_bce"),
    "held_out_kl": ("validation/kl", "val_kld", "eval_kl_loss", "test/KL", "val_kl_div"),
    "code_perplexity": ("perplexity", "train/codebook_perplexity"),
    "codes_used": ("codebook_usage",),
    "loss_max": ("loss_max",),
}  # fmt: skip
NOTHING = (
    "epoch", "step", "accuracy", "d_loss", "gen_loss", "train/discriminator_loss", "adv_loss", "commit_loss",
    "kl_dim_3",
    "train_kl_per_dimension/0", "kl/7", "weighted_kl", "adam_beta1", "beta_vae_loss", "loss_scale",
    "best_val_loss", "dropout_rate",
    "train_runtime", "eval_samples_per_second", "kl_target", "mu_mean", "perceptual_loss", "weight_decay", "time",
    "classification_loss", "active_units", "", "!!", "val_lr", "train_samples_per_second", "loss_ratio",
)  # fmt: skip


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, names in NAMES.items() for name in names])
def test_a_name_gets_its_role(role: str, name: str) -> None:
    assert guess([name]) == {role: name}


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_no_role_is_left_alone(name: str) -> None:
    assert guess([name]) == {}


@pytest.mark.parametrize("role", ROLES)
def test_our_own_names_are_roles(role: str) -> None:
    assert guess([role]) == {role: role}


LOGS = {
    "lightning": (
        ["epoch", "step", "train_loss_step", "train_loss_epoch", "val_loss", "val_loss_step", "train_kl",
         "train_recon", "lr-Adam"],
        {"loss": "train_loss_step", "held_out_loss": "val_loss", "kl": "train_kl", "reconstruction": "train_recon",
         "learning_rate": "lr-Adam"},
    ),
    "hugging face": (
        ["epoch", "step", "train_loss", "train_runtime", "total_flos", "loss", "grad_norm", "learning_rate",
         "eval_loss"],
        {"loss": "loss", "gradient_norm": "grad_norm", "learning_rate": "learning_rate", "held_out_loss": "eval_loss"},
    ),
    "keras": (
        ["epoch", "kl_loss", "loss", "reconstruction_loss", "val_kl_loss", "val_loss", "val_reconstruction_loss"],
        {"loss": "loss", "kl": "kl_loss", "reconstruction": "reconstruction_loss", "held_out_loss": "val_loss",
         "held_out_kl": "val_kl_loss", "held_out_reconstruction": "val_reconstruction_loss"},
    ),
    "several of a kind": (
        ["test/loss", "val/loss", "elbo", "loss", "mse", "recon_loss", "latent_loss", "kld", "nll"],
        {"loss": "loss", "held_out_loss": "val/loss", "reconstruction": "recon_loss", "kl": "kld"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("log", LOGS)
def test_a_whole_log(log: str) -> None:
    names, expected = LOGS[log]
    assert guess(names) == guess(names[::-1]) == expected


@pytest.mark.parametrize("name", ["elbo", "train/ELBO", "val_elbo", "log_px", "log_likelihood"])
def test_a_name_says_that_more_is_better(name: str) -> None:
    assert maximised(name)


@pytest.mark.parametrize("name", ["loss", "-ELBO", "neg_elbo", "nelbo", "nll", "kl", "neg_log_likelihood"])
def test_a_name_says_that_less_is_better(name: str) -> None:
    assert not maximised(name)
