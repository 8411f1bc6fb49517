"""Recipes: named settings with their source and the published figure they stand beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .core.tables import pick


@dataclass(frozen=True)
class Recipe:
    """Settings by name.

    Args:
        title: What it trains.
        source: Where network and settings come from.
        published: The figure published there, with its unit.
        settings: Nested settings, as in a config file.
        data: The data it is meant for, when none is named.
        wants: The data that one has to name, in words; "" where any does, or `data` stands.
        ours: What it reached here, with its unit, and the committed table of `benchmarks/results` that says so.
    """

    title: str
    source: str
    published: str
    settings: Mapping[str, Any]
    data: str | None = None
    ours: str = "not measured yet"
    wants: str = ""

    def command(self, name: str) -> str:
        """How to run it under its name."""
        return f"vaelab train --recipe {name}" + ("" if self.data else " FILE")


def on_digits(hidden: Sequence[int] = (300, 300), **sections: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model of dynamically binarised MNIST: an MLP and its mirror, 40 dimensions, 64 epochs."""
    settings: dict[str, Any] = {
        "data": {"binarize": "dynamic"},
        "model": {"latent": 40, "encoder": "mlp", "decoder": "mlp", "hidden": list(hidden)},
        "likelihood": {"name": "bernoulli"},
        "train": {"steps": 30_000, "batch_size": 128, "learning_rate": 1e-3},
    }
    for section, values in sections.items():
        settings[section] = settings.get(section, {}) | dict(values)
    return settings


MLP_TABLE = "VAE of two layers of 300 units and 40 dimensions, IS 5000"

RECIPES: dict[str, Recipe] = {
    "tutorial-mnist": Recipe(
        title="gray MNIST, two latent dimensions, MLP 784-512-256-128-64 and its mirror",
        source="a modern PyTorch tutorial of the VAE; its network has 1,149,972 parameters",
        published="test loss about 140 nats (reconstruction 133, KL 7); a loss, since the data is gray",
        data="mnist",
        settings={
            "model": {
                "latent": 2,
                "encoder": "mlp",
                "decoder": "mlp",
                "hidden": [512, 256, 128, 64],
                "activation": "silu",
                "scale": "softplus",
                "init": "pytorch",
            },
            "likelihood": {"name": "bernoulli"},
            "train": {
                "epochs": 50,
                "batch_size": 128,
                "learning_rate": 1e-3,
                "schedule": "constant",
                "weight_decay": 1e-2,
                "clip_norm": 1.0,
            },
        },
        ours="held-out loss 136.60, 138.66 and 137.93 nats, three seeds (results/mnist-tutorial.txt)",
    ),
    "guide-mnist": Recipe(
        title="dynamically binarised MNIST, 20 latent dimensions, MLP 784-400-200 and its mirror, linear warm-up",
        source="a practical guide to training VAEs",
        published="none",
        data="mnist",
        settings={
            "data": {"binarize": "dynamic"},
            "model": {"latent": 20, "encoder": "mlp", "decoder": "mlp", "hidden": [400, 200], "activation": "relu"},
            "likelihood": {"name": "bernoulli"},
            "objective": {"beta": 1.0, "anneal": "linear", "warmup_steps": 4690},
            "train": {"epochs": 100, "batch_size": 128, "learning_rate": 1e-3},
        },
        ours="held-out loss 93.10 nats (results/mnist-guide.txt)",
    ),
    "beta-vae": Recipe(
        title="images with known factors, divergence times 4",
        source="Higgins et al., beta-VAE: Learning Basic Visual Concepts, 2017",
        published="none in nats; the paper's data are not these",
        data="shapes",
        settings={"model": {"latent": 10}, "objective": {"beta": 4.0}, "train": {"steps": 10_000}},
    ),
    "tcvae": Recipe(
        title="images with known factors, total correlation times 6",
        source="Chen, Li, Grosse and Duvenaud, Isolating Sources of Disentanglement in Variational Autoencoders, 2018",
        published="none in nats; the paper's data are not these",
        data="shapes",
        settings={"model": {"latent": 10}, "objective": {"name": "beta_tc"}, "train": {"steps": 10_000}},
    ),
    "factorvae": Recipe(
        title="images with known factors, total correlation by a discriminator",
        source="Kim and Mnih, Disentangling by Factorising, 2018",
        published="none in nats; the paper's data are not these",
        data="shapes",
        settings={"model": {"latent": 10}, "objective": {"name": "factor"}, "train": {"steps": 10_000}},
    ),
    "iwae": Recipe(
        title="MNIST, importance-weighted objective with 5 samples",
        source="Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016",
        published="-log p(x) <= 85.54 nats for 5 samples, 86.76 for one (784-200-200-50, IS 5000, 3280 epochs)",
        data="mnist",
        settings=on_digits(objective={"name": "iwae", "samples": 5}),
        ours="-log p(x) <= 87.55 and 87.75 nats, two seeds; the same network, plain: 89.36, 89.11 and 88.96 (K ="
        " 500, 64 epochs, results/families.txt)",
    ),
    "vampprior": Recipe(
        title="MNIST, mixture of the posteriors of 500 learned pseudo-inputs as prior",
        source="Tomczak and Welling, VAE with a VampPrior, 2018",
        published=f"-log p(x) <= 82.43 nats, and 84.45 with a standard normal ({MLP_TABLE})",
        data="mnist",
        settings=on_digits(prior={"name": "vamp", "components": 500}),
        ours="-log p(x) <= 85.77 and 85.86 nats, two seeds; the same network, plain: 89.36, 89.11 and 88.96 (K ="
        " 500, 64 epochs, results/families.txt)",
    ),
    "flow-prior": Recipe(
        title="MNIST, a normalising flow as prior (extra: flows)",
        source="Xu et al., On the Necessity and Effectiveness of Learning the Prior of Variational Auto-Encoder, 2019",
        published="-log p(x) <= 78.49 nats with a residual convolutional network; about 82 without the flow",
        data="mnist",
        settings=on_digits(prior={"name": "flow"}),
        ours="-log p(x) <= 85.68 nats; the same network, plain: 89.36, 89.11 and 88.96 (K ="
        " 500, 64 epochs, results/families.txt)",
    ),
    "flow-posterior": Recipe(
        title="MNIST, inverse autoregressive flow as posterior (extra: flows)",
        source="Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016",
        published="none that compares; the paper's networks are convolutional",
        data="mnist",
        settings=on_digits(model={"posterior": "iaf"}),
        ours="-log p(x) <= 88.55 nats; the same network, plain: 89.36, 89.11 and 88.96 (K ="
        " 500, 64 epochs, results/families.txt)",
    ),
    "two-stage": Recipe(
        title="MNIST, a second VAE over the codes replaces the prior after training",
        source="Dai and Wipf, Diagnosing and Enhancing VAE Models, 2019",
        published="none in nats",
        data="mnist",
        settings=on_digits(prior={"after": "two_stage"}),
    ),
    "hvae": Recipe(
        title="MNIST, two levels of 40 dimensions",
        source="Tomczak and Welling, VAE with a VampPrior, 2018, which describes the two-level model",
        published="-log p(x) <= 82.39 nats (two levels, IS 5000)",
        data="mnist",
        settings=on_digits(model={"latent": None, "groups": [40, 40], "ladder": False}),
        ours="-log p(x) <= 87.63 nats; the same network, plain: 89.36, 89.11 and 88.96 (K ="
        " 500, 64 epochs, results/families.txt)",
    ),
    "ladder": Recipe(
        title="MNIST, three levels of 20 dimensions along one deterministic path down",
        source="Sønderby et al., Ladder Variational Autoencoders, 2016",
        published="-log p(x) <= 81.74 nats (five levels, dynamically binarised)",
        data="mnist",
        settings=on_digits(model={"latent": None, "groups": [20, 20, 20]}),
        ours="-log p(x) <= 85.10 nats; the same network, plain: 89.36, 89.11 and 88.96 (K ="
        " 500, 64 epochs, results/families.txt)",
    ),
    "wae": Recipe(
        title="MNIST, deterministic codes whose distribution is matched to the prior; no bound",
        source="Tolstikhin, Bousquet, Gelly and Schölkopf, Wasserstein Auto-Encoders, 2018",
        published="none in nats",
        data="mnist",
        settings=on_digits(model={"latent": 8, "posterior": "delta"}, objective={"name": "wae"}),
    ),
    "cvae": Recipe(
        title="MNIST, encoder and decoder read the label",
        source="Sohn, Lee and Yan, Learning Structured Output Representation, 2015",
        published="none that compares",
        data="mnist",
        settings={
            "data": {"condition": "labels", "binarize": "dynamic"},
            "model": {"encoder": "mlp", "latent": 8, "hidden": [256, 256]},
            "train": {"steps": 15_000, "learning_rate": 3e-3},
        },
        ours="a classifier of real digits takes 98.1 % of generated means for the digit asked for, 96.9 % of "
        "draws (results/conditional.txt)",
    ),
    "ssvae": Recipe(
        title="MNIST with 100 labels, the others drawn by Gumbel-softmax",
        source="Kingma, Rezende, Mohamed and Welling, Semi-supervised Learning with Deep Generative Models, 2014",
        published="not quoted here",
        data="mnist",
        settings={
            "data": {"condition": "labels", "labelled": 100, "binarize": "dynamic"},
            "model": {"encoder": "mlp", "latent": 16, "hidden": [256, 256], "missing_labels": "gumbel"},
            "train": {"steps": 8000},
        },
        ours="86.7, 77.0 and 83.3 % of the test labels right, three seeds; the classifier alone on the same "
        "100 rows 77.8, 74.8 and 75.8 % (results/conditional.txt)",
    ),
    "vq-vae": Recipe(
        title="MNIST, codes out of a book, and an autoregressive prior over them",
        source="van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017",
        published="none that compares",
        data="mnist",
        settings=on_digits(model={"latent": None, "posterior": "vq"}, prior={"after": "autoregressive"}),
        ours="with layers of 256 and 2500 steps: negative ELBO 109.95 nats, perplexity 90 % of the book "
        "(results/codes.txt)",
    ),
    "pixel-vae": Recipe(
        title="MNIST, a small gated PixelCNN as decoder, with free bits; half a second of a core a step",
        source="Gulrajani et al., PixelVAE: A Latent Variable Model for Natural Images, 2017",
        published="none that compares",
        data="mnist",
        settings=on_digits(
            model={"latent": 32, "decoder": "pixel_cnn", "width": 16, "layers": 3},
            objective={"free_bits": 0.2},
            train={"steps": 3000, "batch_size": 64},
        ),
    ),
    "smiles-vae": Recipe(
        title="molecules as SMILES strings, a recurrent decoder that reads its own output",
        source="Gómez-Bombarelli et al., Automatic Chemical Design Using a Data-Driven Continuous Representation, 2018",
        published="none that compares",
        wants="a file of SMILES strings, one a line, or a table with data.text_column=NAME",
        settings={
            "model": {
                "encoder": "mlp",
                "hidden": [512],
                "decoder": "recurrent",
                "width": 256,
                "layers": 1,
                "embedding": 16,
                "latent": 32,
            },
            "likelihood": {"name": "tokens"},
            "objective": {"free_bits": 0.5},
            "train": {"steps": 6000, "learning_rate": 3e-3, "warmup_steps": 50, "clip_norm": 5.0},
        },
        ours="of 1000 strings 94.9 % balanced where each token is the likeliest, 78.7 % where drawn; 39.1 nats, "
        "0.82 a token (37,344 strings, results/smiles.txt)",
    ),
    "series": Recipe(
        title="windows of a time series, to be scored: the noise is that of a window and not of a point",
        source="Miller and Dunson, Robust Bayesian Inference via Coarsening, 2019, for the power of the likelihood",
        published="none that compares",
        wants="a table with a column of times, such as a CSV file",
        settings={
            "data": {"window": "auto", "held_out": 0.2},
            "model": {"latent": 8, "hidden": [128, 128]},
            # Neighbours in a series repeat each other. Unit noise would count one slow excursion once for every point
            # of the window and teach the code to follow it; a standard deviation of 8 counts about two.
            "likelihood": {"name": "gaussian", "noise": "fixed", "sigma": 8.0},
            "objective": {"free_bits": 0.02},
            "train": {"steps": 500},
        },
        ours="average precision 0.722, 0.546, 0.695 and 0.795 by time point on four NAB series, on which it was "
        "chosen; an isolation forest 0.531, 0.480, 0.697 and 0.513 (results/series.txt)",
    ),
    "imputation": Recipe(
        title="a table of numbers with missing entries, trained by the importance-weighted bound of what is known",
        source="Mattei and Frellsen, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets, 2019; "
        "its MIWAE is this, and objective=miwae another bound, of Rainforth et al.",
        published="mean squared error .280 (breast cancer), .446 (banknote), .501 (concrete), half of the entries gone",
        ours="0.287, 0.480 and 0.558 by five such models each, 3000 to 20,000 steps (results/imputation-numbers.txt)",
        wants="a table of numbers with missing entries, such as a CSV file; with words in it: imputation-mixed",
        settings={
            "model": {"latent": 10, "hidden": [128, 128], "activation": "relu"},
            "likelihood": {"name": "student_t", "noise": "feature", "floor": 0.1},
            "objective": {"name": "iwae", "samples": 10},
            # The rows to be filled are those trained on, and the last weights fill them better than those of the best
            # bound on rows held out: one evaluation leaves nothing to choose.
            "train": {"steps": 3000, "evaluate_every": 3000, "batch_size": 64, "learning_rate": 1e-3},
        },
    ),
    "imputation-mixed": Recipe(
        title="a table of mixed columns with missing entries, trained by the importance-weighted bound of the known",
        source="Mattei and Frellsen, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets, 2019",
        published="none that compares",
        wants="a table with missing entries and columns of words, such as a CSV file",
        settings={
            "model": {"latent": 10, "hidden": [128, 128]},
            "likelihood": {"name": "mixed"},
            "objective": {"name": "iwae", "samples": 5},
            "train": {"steps": 3000},
        },
    ),
    "cells": Recipe(
        title="counts of genes in cells: a negative binomial given each cell's total, one dispersion a gene",
        source="Lopez, Regier, Cole, Jordan and Yosef, Deep generative modeling for single-cell transcriptomics, 2018",
        published="none that compares",
        wants="counts of genes in cells, as an .h5ad file or a table",
        settings={
            "model": {"latent": 10, "encoder": "mlp", "decoder": "mlp", "hidden": [128]},
            "likelihood": {"name": "negative_binomial", "library": "observed", "dispersion": "column"},
            "train": {"epochs": 200, "batch_size": 128, "learning_rate": 1e-3},
        },
    ),
    "mixed-table": Recipe(
        title="a table with columns of different kinds, each with its own likelihood",
        source="Xu et al., Modeling Tabular Data using Conditional GAN, 2019, whose TVAE stands beside it",
        published="none that compares",
        wants="a table with columns of different kinds, such as a CSV file",
        settings={
            "model": {"latent": 16, "hidden": [256, 256]},
            "likelihood": {"name": "mixed"},
            "train": {"steps": 6000, "batch_size": 256, "learning_rate": 2e-3},
        },
        ours="adult: 15 of 15 columns cheaper given the others; trees trained on generated rows reach an AUC of 0.906 "
        "on real ones, 0.925 if trained on real ones, 0.880 on rows of TVAE (results/tables.txt)",
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        BadInput: with the nearest name there is.
    """
    return pick(RECIPES, name, "recipe")
