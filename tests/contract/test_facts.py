"""docs/wix.md is the measure: each fact that is confirmed has a test that names it, and no test names another."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from processor.config import declared_settings
from processor.sandbox.core import Rules

ROOT = Path(__file__).resolve().parents[2]
SHOWN = ("confirmed", "third-party")
MARKS = (*SHOWN, "inferred")
ID = re.compile(r"[A-Z][0-9]+")


@cache
def rows() -> dict[str, list[list[str]]]:
    """The cells of every table row that begins with an id, by the heading it stands under."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (ROOT / "docs" / "wix.md").read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and ID.fullmatch(cells[0]):
            found.setdefault(heading, []).append(cells)
    return found


def exempt() -> dict[str, str]:
    """Why no test can show a fact, by its id."""
    return {cells[0]: cells[1] for cells in rows()["What no test can show"]}


def unknown() -> dict[str, list[str]]:
    """What is unknown, by its id."""
    return {cells[0]: cells[1:] for cells in rows()["What is unknown"]}


def facts() -> list[list[str]]:
    """Id, fact, mark and behaviour of every fact."""
    special = ("What no test can show", "What is unknown")
    return [cells for heading, held in rows().items() if heading not in special for cells in held]


def to_be_shown() -> set[str]:
    """Ids of the facts that a test must name."""
    return {id_ for id_, _, mark, *_ in facts() if mark.startswith(SHOWN)} - exempt().keys()


def _marks_in(node: ast.AST) -> Iterator[ast.Call]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and ast.unparse(inner.func) == "pytest.mark.fact":
            yield inner


@cache
def named() -> dict[str, set[str]]:
    """Which tests name a fact, by its id."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "pytest.mark.fact(" not in path.read_text():
            continue
        tree = ast.parse(path.read_text())
        marks = list(_marks_in(tree))
        for test in ast.walk(tree):
            if not (isinstance(test, ast.FunctionDef) and test.name.startswith("test_")):
                continue
            for mark in (mark for decorator in test.decorator_list for mark in _marks_in(decorator)):
                marks.remove(mark)
                assert mark.args, f"{path.name}: {test.name} has a mark without a fact"
                for argument in mark.args:
                    found.setdefault(ast.literal_eval(argument), set()).add(f"{path.name}::{test.name}")
        assert not marks, f"{path.name}: a fact is named by what is no test"
    return found


def test_every_fact_has_an_id_of_its_own_and_a_known_mark() -> None:
    ids = [cells[0] for cells in facts()] + [*unknown()]

    assert len(ids) > 200
    assert [id_ for id_, count in Counter(ids).items() if count > 1] == []
    for cells in facts():
        assert len(cells) == 4, f"{cells[0]}: a row has id, fact, mark and what the code does"
        assert cells[2].startswith(MARKS), f"{cells[0]}: {cells[2]}"
        assert cells[3], f"{cells[0]}: what does the code do?"


def test_every_fact_that_is_confirmed_has_a_test_that_names_it() -> None:
    assert sorted(to_be_shown() - named().keys()) == []


def test_no_test_names_a_fact_that_there_is_not() -> None:
    known = {cells[0] for cells in facts()} | unknown().keys()

    assert named().keys() <= known


def test_what_no_test_can_show_is_a_fact_has_a_reason_and_really_has_no_test() -> None:
    ids = {id_ for id_, _, mark, *_ in facts() if mark.startswith(SHOWN)}

    assert exempt().keys() <= ids
    assert all(exempt().values())
    assert exempt().keys() & named().keys() == set()
    assert len(exempt()) <= 8, "this list is for what cannot be shown, not for what is hard to show"


def test_every_unknown_says_what_decides_it_on_both_sides() -> None:
    for id_, cells in unknown().items():
        assert len(cells) == 3, id_
        assert all(cells), id_


def test_every_assumption_of_the_sandbox_decides_an_unknown() -> None:
    told = " ".join(cells[2] for cells in unknown().values())
    assumptions = {name.replace("_", "-") for name in Rules.__dataclass_fields__}

    assert {name for name in assumptions if f"`{name}`" not in told} == set()


def test_the_settings_for_what_is_unknown_are_named_with_it() -> None:
    told = " ".join(cells[1] for cells in unknown().values())
    declared = {one.variable for one in declared_settings().values()}
    settings = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", told)) & declared

    assert {"WIX_LINK_FQDN", "WIX_IN_MAX", "EXPIRY_GRACE_SECONDS", "SETTLING_SECONDS"} <= settings


def test_every_reference_to_a_fact_leads_to_one() -> None:
    text = (ROOT / "docs" / "wix.md").read_text()
    known = {cells[0] for cells in facts()} | unknown().keys()
    mentioned = set(re.findall(r"(?<![\w`-])([A-Z][0-9]{1,2})(?![\w.`-])", text))

    assert mentioned - known == set()
