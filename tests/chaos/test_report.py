"""The table of docs/chaos.md names what there is."""

from __future__ import annotations

from pathlib import Path

from tests.chaos import report
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
