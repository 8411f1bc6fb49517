"""The page of findings against the source: every code has one row, and what its row names is there, with that value."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import vaelab
from vaelab import cli
from vaelab.core.config import Config, build_config, flat, parse_overrides
from vaelab.core.finding import SEVERITIES
from vaelab.monitoring.causes import TIERS

SOURCE = Path(vaelab.__file__).parent
PAGE = (SOURCE.parent.parent / "docs" / "findings.md").read_text()
CODE = re.compile(r"[A-Z]{2}\d{3}")
ROW = re.compile(rf"\| {CODE.pattern} \|")
CELLS = ("code", "severity", "title", "measured", "limit", "cause", "advice")
CONSTANT = re.compile(r"`(?:(\w+)\.)?([A-Z][A-Z0-9_]*) = ([^`]+)`")
MENTIONS = {"monitoring/causes.py", "checks/run.py", "report/verdict.py"}  # they speak of codes that others give
SECTIONS = {
    "Before training: the data": {"DA"},
    "Before training: the model": {"CH"},
    "During training": {"TR"},
    "After training": {"TR", "DG"},
    "Evaluation": {"EV"},
    "Logs of others": {"LG"},
    "Compression": {"CM"},
    "Filling in": {"IM"},
    "Restoring": {"OB"},
}


def rows(text: str) -> list[dict[str, str]]:
    """The rows of tables whose first cell is a code."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if ROW.match(line)]
    return [dict(zip(CELLS, line, strict=True)) for line in lines]


ROWS = rows(PAGE)
SPANS = [span for line in PAGE.splitlines() for span in re.findall(r"`([^`]+)`", line)]


@cache
def trees() -> dict[Path, ast.Module]:
    """Every module that may give findings; the audit's codes have pages of their own."""
    paths = [path for path in sorted(SOURCE.rglob("*.py")) if "auditing" not in path.parts]
    return {path: ast.parse(path.read_text()) for path in paths}


def texts(tree: ast.AST) -> list[str]:
    """All literal texts, parts of f-strings included."""
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def filled(text: ast.JoinedStr) -> Iterator[str]:
    """An f-string with … for what is filled in, once for each branch of a choice between two texts."""
    pieces = []
    for part in text.values:
        value = part.value if isinstance(part, ast.FormattedValue) else part
        branches = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
        pieces.append([branch.value if isinstance(branch, ast.Constant) else "…" for branch in branches])
    return ("".join(map(str, chosen)) for chosen in product(*pieces))


@cache
def spoken(path: Path) -> str:
    """Everything that a module can say, a text a line."""
    tree = trees()[path]
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    return "\n".join([*texts(tree), *(line for text in strings for line in filled(text))])


@cache
def homes() -> dict[str, set[Path]]:
    """The modules that give each code: it stands there as a text of its own."""
    found: dict[str, set[Path]] = {}
    givers = {path: tree for path, tree in trees().items() if path.relative_to(SOURCE).as_posix() not in MENTIONS}
    for path, tree in givers.items():
        for code in filter(CODE.fullmatch, texts(tree)):
            found.setdefault(code, set()).add(path)
    return found


@cache
def severities() -> dict[str, list[tuple[set[str], bool]]]:
    """For each call of `Finding` with a code: the severities beside it, and whether the code can have them all."""
    found: dict[str, list[tuple[set[str], bool]]] = {}
    calls = (node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.Call))
    for call in calls:
        if getattr(call.func, "id", "") == "Finding" and len(call.args) > 1:
            codes = list(filter(CODE.fullmatch, texts(call.args[0])))
            words = set(texts(call.args[1])) & set(SEVERITIES)
            for code in codes:
                found.setdefault(code, []).append((words, len(codes) == 1 or len(words) == 1))
    return found


def module(path: Path) -> Any:
    return import_module(".".join(("vaelab", *path.relative_to(SOURCE).with_suffix("").parts)))


def constants(home: str, name: str, code: str) -> set[Any]:
    """The values of a constant in the file named, or in those that give the code."""
    paths = [path for path in trees() if path.stem == home] if home else homes()[code]
    return {vars(found)[name] for found in map(module, paths) if name in vars(found)}


def test_every_code_of_the_source_has_one_row_and_every_row_a_code() -> None:
    assert Counter(row["code"] for row in ROWS) == dict.fromkeys(homes(), 1)


def test_a_code_named_anywhere_on_the_page_exists() -> None:
    assert set(CODE.findall(PAGE)) <= set(homes())


@pytest.mark.parametrize("section", SECTIONS)
def test_codes_stand_in_their_section(section: str) -> None:
    found = rows(PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0])
    assert {row["code"][:2] for row in found} == SECTIONS[section]
    for part in SECTIONS[section]:
        codes = [row["code"] for row in found if row["code"].startswith(part)]
        assert codes == sorted(codes)


def test_all_rows_stand_in_a_section() -> None:
    assert len(rows(PAGE.partition("\n## Before training: the data\n")[2])) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["code"])
def test_a_row_is_filled_and_its_severity_is_the_source_s(row: dict[str, str]) -> None:
    assert all(cell.strip() for cell in row.values())
    words, calls = set(row["severity"].split(" or ")), severities().get(row["code"], [])
    assert words <= set(SEVERITIES)
    for named, can_have_all in calls:
        assert named <= words or not can_have_all
    if len(calls) == sum(texts(trees()[path]).count(row["code"]) for path in homes()[row["code"]]):
        assert words <= set().union(*(named for named, _ in calls))  # the code stands in no table besides


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["code"])
def test_a_title_has_the_words_of_the_source(row: dict[str, str]) -> None:
    """Between what is filled in, marked by …, the title stands in a module that gives the code."""
    known = "\n".join(map(spoken, homes()[row["code"]]))
    for part in re.split(r"…|:| / ", row["title"]):
        assert part.strip(" ,;()") in known


@pytest.mark.parametrize("row", [row for row in ROWS if CONSTANT.search(row["limit"])], ids=lambda row: row["code"])
def test_constants_have_the_value_of_the_source(row: dict[str, str]) -> None:
    for home, name, value in CONSTANT.findall(" ".join(row.values())):
        assert constants(home, name, row["code"]) == {float(value)}, name


def test_constants_outside_the_rows_have_the_value_of_the_source() -> None:
    prose = "\n".join(line for line in PAGE.splitlines() if not ROW.match(line))
    for home, name, value in CONSTANT.findall(prose):
        assert constants(home, name, "") == {float(value)}, name


def test_settings_exist_and_take_the_values_named() -> None:
    known = flat(Config().model_dump())
    sections = {key.partition(".")[0] for key in known if "." in key}
    settings = [span for span in SPANS if re.match(rf"({'|'.join(sections)})(\.[a-z_]+)?(=|$)", span)]
    assert len(settings) > 50
    for span in settings:
        items = span.split()
        assert {item.partition("=")[0] for item in items} <= set(known) | sections
        build_config(parse_overrides([item for item in items if "=" in item]))


def test_the_order_of_causes_is_that_of_the_source() -> None:
    listed = re.findall(rf"^\d+\. [^:\n]+:((?:\s+{CODE.pattern},?)+)$", PAGE, re.MULTILINE)
    assert [tuple(CODE.findall(codes)) for codes in listed] == list(TIERS)


def test_calls_and_commands_exist() -> None:
    assert set(re.findall(r"\bvaelab\.(\w+)", PAGE)) <= set(vaelab.__all__)
    commands = set(re.findall(r"(?:^|`)vaelab ([\w-]+)", PAGE, re.MULTILINE))
    assert {"check", "train", "diagnose", "report"} <= commands
    assert all(command in cli.app for command in commands)
