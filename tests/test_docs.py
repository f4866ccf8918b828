"""What the documents name exists, and what exists is named."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from processor.config import database_url as sqlalchemy_url
from processor.config import declared_settings
from processor.sandbox import scenarios
from processor.sandbox.core import Rules
from processor.sandbox.faults import FAULTS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def source(*parts: str) -> str:
    return "\n".join(path.read_text() for path in ROOT.joinpath("processor", *parts).rglob("*.py"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    known = {declared.variable for declared in declared_settings().values()}
    named = set(
        re.findall(
            r"\b(?:WIX|SWEEP|WEB|DATABASE|REDIS|METRICS|LOG|SETTLING|LEASE)_[A-Z_]+\b", document.read_text()
        )
    )

    assert named <= known


def test_every_log_action_and_metric_is_explained() -> None:
    told = (ROOT / "docs" / "operations.md").read_text()
    actions = set(re.findall(r'log\.(?:info|warning|error)\(\s*"([a-z_]+)"', source()))

    assert len(actions) > 20
    assert {action for action in actions if f"`{action}`" not in told} == set()
    metrics = set(re.findall(r'"(processor_[a-z_]+)"', (ROOT / "processor" / "metrics.py").read_text()))
    assert {metric for metric in metrics if metric not in told} == set()


def test_every_fault_of_the_sandbox_is_explained() -> None:
    told = (ROOT / "docs" / "sandbox.md").read_text()

    assert {kind for kind in FAULTS if f"`{kind}`" not in told} == set()


def test_every_assumption_and_scenario_of_the_sandbox_is_explained() -> None:
    told = (ROOT / "docs" / "sandbox.md").read_text()
    assumptions = {field.name.replace("_", "-") for field in fields(Rules)}

    assert {name for name in (*assumptions, *scenarios.names()) if f"`{name}`" not in told} == set()


def test_every_path_of_the_control_api_is_explained() -> None:
    told = (ROOT / "docs" / "sandbox.md").read_text().partition("## The control API")[2]
    code = (ROOT / "processor" / "sandbox" / "control.py").read_text()
    # A path is told of by its last fixed part.
    words = {
        [part for part in path.split("/") if "<" not in part][-1]
        for path in re.findall(r'@routes\.\w+\("(/[^"]+)"\)', code)
    }

    assert len(words) > 20
    assert {word for word in words if word not in told} == set()


def test_the_questions_to_the_tables_can_be_asked(database_url: str) -> None:
    told = (ROOT / "docs" / "operations.md").read_text().partition("## Questions to the tables")[2]
    statements = re.findall(r"^    ((?:SELECT|select).*?;)$", told, re.DOTALL | re.MULTILINE)
    engine = create_engine(sqlalchemy_url(database_url))

    assert len(statements) == 7
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement.replace("'…'", "NULL")))
    engine.dispose()
