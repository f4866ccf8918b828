"""The table of docs/chaos.md names what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import deploy, report
from tests.chaos.deploy import Before, code_before
from tests.chaos.faults import faults

TESTS = Path(__file__).resolve().parents[1]
MUST = (*range(1, 15), 20, 21, 22)


def test_every_test_the_report_names_exists() -> None:
    for named in (report.CHAOS, *(test for covered in report.CLASSES.values() for test in covered.tests)):
        file, _, function = named.partition("::")
        assert f"def {function}(" in (TESTS / file).read_text(), named


def test_every_class_is_covered_by_a_fault_or_a_test() -> None:
    struck = {number for fault in faults() for number in fault.classes}
    if not isinstance(code_before(), Before):
        struck.add(22)

    assert set(MUST) <= report.CLASSES.keys()
    assert {number for number in MUST if number not in struck and not report.CLASSES[number].tests} == set()
    assert struck <= report.CLASSES.keys()


def test_the_code_before_is_one_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one in which two migrations had one number, as while a branch is made to fit."""
    listed = {
        "adding": "",
        "renumbered": "v/0001_a.py v/0002_b.py v/0002_newest.py",
        "ran": "v/0001_a.py v/0002_b.py v/__init__.py",
    }

    def git(command: str, *arguments: str) -> str:
        if command == "log":
            return "adding"
        return "renumbered\nran" if command == "rev-list" else listed[arguments[1]].replace(" ", "\n")

    monkeypatch.setattr(deploy, "_git", git)

    assert code_before() == Before("ran", "0002")


def test_a_history_that_ends_too_early_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "_git", lambda *_: "")

    assert "does not reach back" in str(code_before())
