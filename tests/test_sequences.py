"""Strings: cut into tokens and put together again, their mass, the decoders that write them, and runs of them."""

from __future__ import annotations

import gzip
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vaelab
from vaelab.core.config import build_config
from vaelab.core.errors import BadInput
from vaelab.core.facts import Facts
from vaelab.core.files import read_text
from vaelab.core.tokens import BEGIN, END, PADDING, SPECIALS, UNKNOWN, in_form, lengths, over, shifted
from vaelab.data.source import load
from vaelab.data.text import Vocabulary, tokenised
from vaelab.distributions.sequence import SequenceDecoder, Tokens
from vaelab.evaluation.run import evaluate
from vaelab.measure.strings import agreement
from vaelab.models.build import build_model, resolve
from vaelab.models.fits import refuse_misfits
from vaelab.nets.recurrent import RecurrentDecoder, RecurrentEncoder, by_length
from vaelab.nets.transformer import TransformerDecoder, TransformerEncoder
from vaelab.training.checkpoint import Checkpoints
from vaelab.use.files import save_rows

SMILES = Path(__file__).parents[2] / "shared" / "data" / "molecules" / "smiles.csv.gz"
DOUBLE = torch.float64
STEPS, VOCABULARY, LATENT = 4, 6, 3
ALL = [string for size in range(STEPS) for string in itertools.product((UNKNOWN, 4, 5), repeat=size)]
FACTS = Facts((STEPS,), vocabulary=VOCABULARY, rows=20)


def rows_of(strings: list[tuple[int, ...]], steps: int = STEPS) -> Tensor:
    """Rows of tokens [n, steps], put together by hand."""
    rows = [[*string, END, *[PADDING] * (steps - 1 - len(string))] for string in strings]
    return torch.tensor(rows, dtype=DOUBLE)


def model_of(decoder: str, encoder: str = "mlp", seed: int = 0, **model: Any) -> Any:
    """A small model of strings in float64."""
    sizes = {"latent": LATENT, "width": 8, "embedding": 5, "hidden": [7], "layers": 2}
    settings = {"model": {"encoder": encoder, "decoder": decoder, **sizes, **model}, "likelihood": "tokens"}
    config = resolve(build_config(settings, {"seed": seed}), FACTS, "sequence")
    refuse_misfits(config, FACTS, frozenset())
    return build_model(config, FACTS).double()


# Rows of tokens -------------------------------------------------------------------------------------------------------


def test_the_form_of_a_row() -> None:
    fine = rows_of(ALL)
    assert in_form(fine).all()
    assert lengths(fine).tolist() == [len(string) + 1 for string in ALL]
    assert over(fine).sum(1).tolist() == [STEPS - len(string) for string in ALL]
    every = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=STEPS)), dtype=DOUBLE)
    rows = {tuple(row) for row in every[in_form(every).all(1)].int().tolist()}
    assert rows == {tuple(row) for row in fine.int().tolist()}, "all rows but these are malformed"


@pytest.mark.skipif(not SMILES.exists(), reason="the SMILES are not here")
def test_every_real_smiles_comes_back_from_its_tokens() -> None:
    strings = read_text(SMILES).split()[1:]
    source = load(str(SMILES))
    assert source.layout == "text" and source.train.tolist() == strings
    assert source.text is not None
    kept = source.text.kept
    assert 0.98 < kept.mean() < 1, "one in a hundred is left out, and a finding says so"
    assert [finding.code for finding in source.text.findings] == ["DA115", "DA116"]
    vocabulary = Vocabulary(source.vocabulary)
    assert (vocabulary.strings(source.text.rows) == np.where(kept, source.train, "")).all()
    assert {"Cl", "Br", "[nH]", "C", "c", "("} < set(source.vocabulary)
    assert not {"l", "r", "[", "]"} & set(source.vocabulary)


@pytest.mark.parametrize(
    ("string", "pieces"),
    [
        ("ClCCBr", ["Cl", "C", "C", "Br"]),
        ("C[C@@H](N)C(=O)O", ["C", "[C@@H]", "(", "N", ")", "C", "(", "=", "O", ")", "O"]),
        ("C%12CC%12", ["C", "%12", "C", "C", "%12"]),
        ("[O-][N+]", ["[O-]", "[N+]"]),
        ("c1ccccc1", ["c", "1", "c", "c", "c", "c", "c", "1"]),
    ],
)
def test_smiles_are_cut_as_a_chemist_reads_them(string: str, pieces: list[str]) -> None:
    text = tokenised(np.array([string] * 3 + ["CC(C)C"]), "here")
    assert [text.vocabulary[token] for token in text.rows[0] if token > END] == pieces


def test_words_are_cut_by_the_character() -> None:
    assert set(tokenised(np.array(["Clara", "Bob", "Nina"]), "here").vocabulary[4:]) == set("ClaraBobNina")


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0\N{REPLACEMENT CHARACTER}"), max_size=12), min_size=2))
def test_any_text_comes_back_from_its_tokens(strings: list[str]) -> None:
    if not any(strings):
        return
    text = tokenised(np.array(strings), "here")
    assert Vocabulary(text.vocabulary).strings(text.rows[text.kept]).tolist() == np.array(strings)[text.kept].tolist()
    assert in_form(torch.from_numpy(text.rows[text.kept].astype(int))).all()


# The mass of strings --------------------------------------------------------------------------------------------------

DECODERS = ("recurrent", "transformer", "mlp", "linear")


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_mass_of_all_strings_is_one(decoder: str) -> None:
    model = model_of(decoder).eval()
    mass = model.decode(torch.randn(2, 1, LATENT, dtype=DOUBLE)).log_prob(rows_of(ALL)).exp()
    torch.testing.assert_close(mass.sum(1), torch.ones(2, dtype=DOUBLE))
    assert mass.std() > 0


@pytest.mark.parametrize("decoder", ["recurrent", "transformer"])
def test_one_pass_is_the_product_of_single_steps(decoder: str) -> None:
    model = model_of(decoder).eval()
    x, z = rows_of(ALL), torch.randn(1, len(ALL), LATENT, dtype=DOUBLE)
    net, state, nats = model.decoder.net, model.decoder.net.begin(z[0]), torch.zeros(len(ALL), dtype=DOUBLE)
    token = torch.full((len(ALL),), BEGIN)
    for place in range(STEPS - 1):
        logits, state = net.step(token, state)
        written = x[:, place].long()
        found = logits.log_softmax(-1).gather(1, (written - END).clamp(min=0)[:, None])[:, 0]
        nats += torch.where(written == PADDING, 0.0, found)
        token = written
    torch.testing.assert_close(model.decode(z).log_prob(x)[0], nats)


@pytest.mark.parametrize("decoder", DECODERS)
def test_strings_are_drawn_as_often_as_their_mass_says(decoder: str) -> None:
    model, count = model_of(decoder).eval(), 20_000
    z = torch.randn(1, 1, LATENT, dtype=DOUBLE)
    drawn = model.decode(z.expand(1, count, -1)).sample(torch.Generator().manual_seed(0))[0]
    assert in_form(drawn).all()
    found = Counter(tuple(row) for row in drawn.int().tolist())
    mass = model.decode(z).log_prob(rows_of(ALL))[0].exp()
    share = torch.tensor([found[tuple(row)] / count for row in rows_of(ALL).int().tolist()])
    assert ((share - mass).abs() < 5 * (mass * (1 - mass) / count).sqrt() + 1e-4).all()


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_mean_is_the_likeliest_token_at_every_step(decoder: str) -> None:
    model = model_of(decoder).eval()
    decoded = model.decode(torch.randn(1, 30, LATENT, dtype=DOUBLE))
    greedy = decoded.mean
    assert in_form(greedy).all() and len(torch.unique(greedy[0], dim=0)) > 1
    free = torch.arange(STEPS) < STEPS - 1  # the last entry is no choice
    assert torch.equal(decoded.guesses(greedy[0])[..., free], greedy[..., free].long())


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_malformed_row_is_impossible(decoder: str) -> None:
    model = model_of(decoder).eval()
    x = torch.tensor([[4, 5, 4, 5], [4, PADDING, END, PADDING], [END, END, 0, 0], [BEGIN, END, 0, 0]], dtype=DOUBLE)
    log_mass = model.decode(torch.zeros(1, 4, LATENT, dtype=DOUBLE)).log_prob(x)
    assert (log_mass == -math.inf).all()
    assert not model.decoder.likelihood.holds(x).all(1).any()
    assert model.decoder.likelihood.holds(rows_of(ALL)).all()
    assert not model.decoder.likelihood.holds(rows_of([(VOCABULARY,), ()])).all(1)[0], "a token beyond the vocabulary"


@pytest.mark.parametrize("decoder", ["recurrent", "transformer"])
def test_rows_do_not_see_each_other_nor_the_order_they_come_in(decoder: str) -> None:
    model = model_of(decoder, encoder=decoder).eval()
    x, z = rows_of(ALL), torch.randn(2, len(ALL), LATENT, dtype=DOUBLE)
    order = torch.randperm(len(ALL))
    together = model.decode(z).log_prob(x)
    torch.testing.assert_close(model.decode(z[:, order]).log_prob(x[order]), together[:, order])
    torch.testing.assert_close(model.decode(z[:, 5:6]).log_prob(x[5:6]), together[:, 5:6])
    torch.testing.assert_close(model.encode(x[order]).mean, model.encode(x).mean[order])
    with torch.no_grad():
        torch.testing.assert_close(model.decode(z).log_prob(x), together)


@pytest.mark.parametrize("net", [RecurrentEncoder(VOCABULARY, 5, 8, 2), TransformerEncoder(9, VOCABULARY, 8, 2)])
def test_an_encoder_does_not_read_padding(net: torch.nn.Module) -> None:
    strings = [(4, 5), (5,), (), (4, 4, 5)]
    net.eval()
    short, long = rows_of(strings, 4), rows_of(strings, 9)
    torch.testing.assert_close(net(short), net(long))
    assert (net(short)[0] - net(rows_of([(5, 4)], 4))[0]).abs().max() > 1e-3, "the order of tokens counts"


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_a_decoder_sees_no_token_to_come(kind: str) -> None:
    nets = {
        "recurrent": RecurrentDecoder(2, VOCABULARY, 4, 5, 8, 2),
        "transformer": TransformerDecoder(2, 7, VOCABULARY, 4, 8, 2),
    }
    net, codes, counts = nets[kind].eval(), torch.randn(1, 2), torch.tensor([7])
    tokens = torch.tensor([[BEGIN, 4, 5, 4, 3, 5, 4]])
    base = net(codes, tokens, counts)
    for place in range(7):
        other = tokens.clone()
        other[0, place] = 3 if tokens[0, place] != 3 else 5
        apart = (net(codes, other, counts) - base).abs().max(1).values
        assert (apart[:place] == 0).all() and (apart[place:] > 0).all()
    assert (net(codes + 1, tokens, counts) - base).abs().max(1).values.min() > 0, "the code is read at every step"


def test_groups_of_like_length_hold_every_row_once() -> None:
    counts = torch.randint(1, 50, (130,))
    groups = list(by_length(counts))
    assert len(groups) > 1
    assert torch.cat([rows for rows, _ in groups]).sort().values.tolist() == list(range(130))
    assert all(steps == int(counts[rows].max()) for rows, steps in groups)


# Word dropout ---------------------------------------------------------------------------------------------------------


class Recorder(torch.nn.Module):
    """A network that writes down what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Tensor] = []

    def forward(self, codes: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
        self.read.append(tokens)
        return torch.zeros(int(counts.sum()), VOCABULARY - END)


@pytest.mark.parametrize(("share", "training"), [(0.0, True), (0.4, True), (1.0, True), (0.4, False)])
def test_word_dropout_hides_what_is_read_and_never_what_is_written(share: float, training: bool) -> None:
    net, x = Recorder(), rows_of(ALL).repeat(200, 1)
    decoder = SequenceDecoder(net, Tokens(VOCABULARY), STEPS, share).train(training)
    log_mass = decoder(torch.zeros(1, len(x), LATENT)).log_prob(x)
    (read,) = net.read
    true = shifted(x.long())
    assert (read[:, 0] == BEGIN).all()
    hidden = (read != true)[:, 1:]
    assert (read[:, 1:][hidden] == UNKNOWN).all()
    seen = true[:, 1:] != UNKNOWN
    assert hidden[seen].double().mean().item() == pytest.approx(share if training else 0.0, abs=0.03)
    cost = torch.tensor([min(len(string) + 1, STEPS - 1) * math.log(VOCABULARY - END) for string in ALL])
    torch.testing.assert_close(log_mass[0], -cost.repeat(200), check_dtype=False)


# What does not go together --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "facts", "message"),
    [
        ({"model": {"encoder": "recurrent", "decoder": "mlp"}}, Facts((5,)), "model.encoder: got recurrent; it reads"),
        ({"model": {"decoder": "transformer"}}, Facts((5,)), "model.decoder: got transformer; it writes"),
        ({"likelihood": "tokens"}, Facts((5,)), "likelihood.name: got tokens; it is over strings"),
        ({"likelihood": "gaussian"}, FACTS, "likelihood.name: got gaussian; these rows are strings"),
    ],
)
def test_what_does_not_go_with_strings_is_refused(settings: dict[str, Any], facts: Facts, message: str) -> None:
    layout = "sequence" if facts.vocabulary else "table"
    config = resolve(build_config({"likelihood": "gaussian"}, settings), facts, layout)
    with pytest.raises(BadInput) as caught:
        refuse_misfits(config, facts, frozenset())
    assert str(caught.value).startswith(message)


# Strings as data ------------------------------------------------------------------------------------------------------

WORDS = ["one fish", "two, fish", "red fish;", "blue fish"]


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.txt", "one fish\ntwo, fish\nred fish;\nblue fish\n"),
        ("lines.txt.gz", "one fish\ntwo, fish\n\nred fish;\nblue fish"),
        ("column.csv", 'said\none fish\n"two, fish"\nred fish;\nblue fish\n'),
        ("column.csv.gz", 'said\none fish\n"two, fish"\nred fish;\nblue fish\n'),
    ],
)
def test_files_of_strings_are_read(tmp_path: Path, name: str, text: str) -> None:
    source = load(written(tmp_path, name, text))
    assert source.layout == "text" and source.train.tolist() == WORDS


def test_a_smi_holds_strings_and_names(tmp_path: Path) -> None:
    source = load(written(tmp_path, "few.smi", "CCO ethanol\nClC chloromethane\nC[nH]C nothing\n"))
    assert source.train.tolist() == ["CCO", "ClC", "C[nH]C"] and "Cl" in source.vocabulary


@pytest.mark.parametrize("text_column", ["said", None])
def test_a_named_column_of_a_table_is_read(tmp_path: Path, text_column: str | None) -> None:
    path = written(tmp_path, "table.csv", "age,said\n1,one fish\n2,two fish\n3,\n4,no fish\n")
    frame = pd.read_csv(path)
    for data in (path, frame):
        if text_column is None:
            assert load(frame[["said"]]).train.tolist() == ["one fish", "two fish", "no fish"]
            continue
        source = load(data, text_column="said")
        assert source.train.tolist() == ["one fish", "two fish", "no fish"]
        assert {finding.code for finding in source.findings} == {"DA117", "DA118"}


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, lambda x: np.array(x, dtype=object)])
def test_strings_in_memory_are_read(kind: Any) -> None:
    source = load(kind([*WORDS, "five"]))
    assert source.train.tolist() == [*WORDS, "five"] and source.layout == "text"


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    for name, text in (
        ("a.txt", "1 2\n3 4\n"),
        ("b.csv", "x\n1\n2\n"),
        ("c.txt", "0.5\n1.5\n"),
        ("d.csv", "1,2\n3,4\n"),
    ):
        assert load(written(tmp_path, name, text)).layout == "table"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda folder: load(written(folder, "a.csv", "said\n")), "a header and no rows"),
        (lambda folder: load(written(folder, "a.txt", "")), "an empty file"),
        (lambda folder: load(written(folder, "a.csv", "said\nfish\n")), "one row"),
        (lambda folder: load(["a", None]), "a list"),
        (lambda folder: load(["", ""]), "no text"),
        (lambda folder: load(["a" * 5000, "b"]), "5000 characters in row 0"),
        (lambda folder: load([chr(1000 + i) for i in range(5000)]), "a vocabulary may have 4096"),
        (lambda folder: load(written(folder, "a.csv", "x,said\n1,b\n"), text_column="sad"), "did you mean said"),
        (lambda folder: load(written(folder, "a.csv", "x\n1\n2\nfish\n")), "'fish' in row 3 (line 4), column x"),
    ],
)
def test_what_holds_no_strings_is_refused(tmp_path: Path, read: Any, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_few_long_strings_are_left_out_of_both_parts() -> None:
    strings = ["ab" * (1 + i % 5) for i in range(300)] + ["ab" * 40, "abc" * 50]
    source = load(strings)
    assert source.text is not None
    assert (~source.text.kept).sum() == 2 and source.text.rows.shape == (302, 11)
    assert "c" not in source.vocabulary
    few = load(["ab", "abab" * 2, "a"])
    assert few.text is not None and few.text.kept.all(), "one in three is not one in a hundred"


# Runs -----------------------------------------------------------------------------------------------------------------

TINY = {
    "model": {"decoder": "recurrent", "latent": 2, "width": 12, "embedding": 6, "layers": 1},
    "train": {"steps": 30, "batch_size": 16, "checkpoint_every": 10, "evaluate_every": 15},
    "report": {"html": True},
}


def strings_like() -> list[str]:
    random = np.random.default_rng(0)
    return ["".join(random.choice(["C", "Cl", "(C)", "N", "<b>"], random.integers(1, 7))) for _ in range(120)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("strings")
    (folder / "strings.txt").write_text("\n".join(strings_like()))
    return vaelab.train(str(folder / "strings.txt"), config=build_config(TINY), out=folder / "run", progress=False)


def test_a_run_gives_strings_for_strings(run: Any) -> None:
    seen = list(run.preview)
    assert set(seen) <= set(strings_like())
    codes = run.embed(seen[:5])
    assert codes.shape == (5, 2)
    assert run.reconstruct(seen[:5]).shape == (5,) == run.decode(codes).shape
    made = run.sample(7, seed=1, noisy=True)
    assert made.dtype.kind == "U" and made.shape == (7,) and (made == run.sample(7, seed=1, noisy=True)).all()
    assert (made == run.sample(7, seed=1)).all()  # draws are the default, the likeliest string is another question
    path = run.interpolate(seen[0], seen[1], 4)
    assert path[0] == run.reconstruct(seen[:1])[0] and path.shape == (4,)
    assert run.traverse(seen[0], [1, 2], steps=3).shape == (2, 3)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (["CxC"], "'x' in row 0 (counting from 0), 'CxC'; no string that the model was trained on has it"),
        (["C", "C" * 500], "500 tokens in row 1 (counting from 0)"),
        ("CC", "the model takes a list of strings"),
        ([], "the model takes a list of strings"),
        (np.zeros((3, 4)), "every row must be a string"),
    ],
)
def test_strings_that_the_model_cannot_read_are_refused(run: Any, x: Any, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        run.embed(x)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_page_shows_strings_and_nothing_in_them_runs(run: Any) -> None:
    page = (run.folder / "report.html").read_text()
    assert "come back exactly" in page and "&lt;b&gt;" in page and "<b>" not in page


def test_strings_are_written_one_a_line(run: Any, tmp_path: Path) -> None:
    made = run.sample(6, noisy=True)
    assert save_rows(run, made, tmp_path / "a.txt").read_text().split("\n")[:-1] == made.tolist()
    assert (
        pd.read_csv(save_rows(run, made, tmp_path / "a.csv"), keep_default_na=False)["string"].tolist() == made.tolist()
    )
    assert np.load(save_rows(run, made, tmp_path / "a.npy")).tolist() == made.tolist()
    with pytest.raises(BadInput, match=r"end it in \.txt, \.csv, \.npy, \.npz"):
        save_rows(run, made, tmp_path / "a.png")


def test_an_evaluation_counts_strings_and_tokens(run: Any) -> None:
    found = evaluate(run, samples=4, metrics="reconstruction,samples")
    held = found.facts["rows"]
    assert held.startswith("12 of 12 held-out rows of")
    back = run.reconstruct(run.preview)
    assert found["reconstruction.exact"].value == pytest.approx(np.mean(back == run.preview))
    x, again = (run.spec.to_model(rows).numpy() for rows in (run.preview, back))
    assert found["reconstruction.token_accuracy"].value == pytest.approx(agreement(x, again).mean())
    total = -found["bound.log_likelihood"].value * len(x)
    assert found["bound.nats_per_token"].value == pytest.approx(total / (x != PADDING).sum(), rel=1e-6)
    assert "bits_per_dimension" not in found.numbers["bound"]
    assert 0 < found["samples.unique"].value <= 1


def test_a_run_resumes_to_the_same_bits(run: Any, tmp_path: Path) -> None:
    config = build_config(TINY, {"report": {"html": False}, "train": {"schedule": "constant"}})
    short = config.updated(train={"steps": 10})
    vaelab.train(strings_like(), out=tmp_path / "half", config=short, progress=False)
    vaelab.train(resume=tmp_path / "half", x=strings_like(), config={"train": {"steps": 30}}, progress=False)
    vaelab.train(strings_like(), out=tmp_path / "whole", config=config, progress=False)
    kept = [Checkpoints(tmp_path / name / "checkpoints").load_last()[1] for name in ("half", "whole")]
    assert kept[0].keys() == kept[1].keys()
    for part in kept[0]:
        assert all(torch.equal(value, kept[1][part][name]) for name, value in kept[0][part].items())
    assert vaelab.load(tmp_path / "half").spec.vocabulary[:4] == SPECIALS
