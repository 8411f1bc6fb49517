"""Molecules as strings: what a recurrent decoder writes from the prior, and how many held-out strings come back.

    python benchmarks/smiles.py path/to/smiles.csv.gz [RUN]

One core, half an hour; with a run folder that is there, that run is measured and none is trained. A string is
balanced where its brackets and parentheses close in order, every ring bond is opened and closed, and it can be cut into
tokens of SMILES. Where RDKit can be imported, such as by `PYTHONPATH=folder python ...` after
`pip install --target folder rdkit`, the share of strings that it reads as molecules is given too.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from table import write_table

import vaelab
from vaelab.data.source import load
from vaelab.data.text import SMILES
from vaelab.recipes import RECIPES
from vaelab.training.job import held_out_of

DRAWN, BACK, SAMPLES = 1000, 1000, 50
SETTINGS: dict[str, Any] = {**RECIPES["smiles-vae"].settings, "report": {"html": False}}
SETTINGS["train"] = SETTINGS["train"] | {"evaluate_every": 250}


def is_balanced(string: str) -> bool:
    """Whether a string can be cut into tokens of SMILES, brackets close in order, and ring bonds come in pairs.

    Example:
        >>> is_balanced("C1CC(C)C1"), is_balanced("C1CC(C)C"), is_balanced("CC)C"), is_balanced("[NHC")
        (True, False, False, False)
    """
    if not SMILES.fullmatch(string):
        return False
    outside = re.sub(r"\[[^\]]*\]", "", string)
    depth = np.cumsum([(mark == "(") - (mark == ")") for mark in outside])
    rings = Counter(re.findall(r"%\d\d|\d", outside))
    return bool((depth >= 0).all() and depth[-1:].sum() == 0 and all(count % 2 == 0 for count in rings.values()))


def reader() -> Callable[[str], str | None] | None:
    """From a string to the molecule's canonical string, None where it is none; None without RDKit."""
    if importlib.util.find_spec("rdkit") is None:
        return None
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")

    def canonical(string: str) -> str | None:
        molecule = Chem.MolFromSmiles(string)
        return Chem.MolToSmiles(molecule) if molecule is not None and string else None

    return canonical


def made(name: str, strings: Sequence[str], training: set[str], canonical: Any) -> list[str]:
    """Lines about generated strings."""
    lines = [
        f"{name}, {len(strings)} strings",
        f"  balanced and tokenisable       {np.mean([is_balanced(string) for string in strings]):.1%}",
        f"  different from each other      {len(set(strings)) / len(strings):.1%}",
        f"  no training string             {np.mean([string not in training for string in strings]):.1%}",
    ]
    if canonical is not None:
        read = [found for string in strings if (found := canonical(string)) is not None]
        lines += [f"  molecules (RDKit)              {len(read) / len(strings):.1%}",
                  f"  of these, different molecules  {len(set(read)) / max(len(read), 1):.1%}"]  # fmt: skip
    return lines


def main(path: str, folder: str = "runs/smiles") -> None:
    """Trains, or loads, and writes the table."""
    run = vaelab.load(folder) if Path(folder).exists() else vaelab.train(path, config=SETTINGS, out=folder)
    source = load(path)
    strings, (_, index, _) = source.train, held_out_of(source, run.config)
    assert index is not None
    training = set(strings[index].tolist())
    found = vaelab.evaluate(run, rows=BACK, samples=SAMPLES, metrics="reconstruction")
    canonical = reader()
    numbers = ["bound.elbo", "bound.log_likelihood", "bound.nats_per_token", "reconstruction.exact",
               "reconstruction.token_accuracy", "reconstruction.token_accuracy_given_the_rest"]  # fmt: skip
    sizes = f"{len(run.spec.vocabulary)} tokens, rows of {run.spec.shape[0]}"
    lines = [f"{len(strings)} strings, {len(index)} of them trained on; {sizes}"]
    lines += [f"all held-out: KL {run.metrics['kl']:.2f}, reconstruction {run.metrics['reconstruction']:.2f} nats", ""]
    lines += [
        f"{name:<47} {found[name].value:>9.3f} ± {found[name].interval:.3f} {found[name].unit}" for name in numbers
    ]
    for name, noisy in (("drawn from p(x|z)", True), ("likeliest token at each step", False)):
        lines += ["", *made(name, run.sample(DRAWN, noisy=noisy).tolist(), training, canonical)]
    if canonical is None:
        lines += ["", "RDKit is not here: no share of molecules"]
    write_table("smiles", f"SMILES strings by a recurrent decoder, {run.config.train.steps} steps", lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
