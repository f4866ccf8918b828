"""What the documents name exists, and what exists is named."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from processor import logs, wiring
from processor.cli import cli
from processor.config import Settings, declared_settings
from processor.config import database_url as sqlalchemy_url
from processor.sandbox import scenarios
from processor.sandbox.core import Rules
from processor.sandbox.faults import FAULTS
from processor.store import dictionary
from processor.store.meanings import EVERYWHERE, TABLES, meaning
from processor.store.report_views import REPORTS
from processor.store.tables import Base

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
            r"\b(?:WIX|SWEEP|WEB|DATABASE|REDIS|METRICS|LOG|SETTLING|LEASE|REPORT|ALERT)_[A-Z_]+\b",
            document.read_text(),
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


def reports_told() -> str:
    return (ROOT / "docs" / "operations.md").read_text().partition("## Reports\n")[2].partition("\n## ")[0]


def test_the_reports_can_be_asked_as_told(database_url: str) -> None:
    statements = re.findall(r"^    ((?:SELECT|SET) .*?;)$", reports_told(), re.DOTALL | re.MULTILINE)
    engine = create_engine(sqlalchemy_url(database_url))

    assert len(statements) == 12
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
        zone = connection.execute(text("SELECT current_setting('processor.report_time_zone')")).scalar_one()
    assert zone == "Europe/Berlin"
    engine.dispose()


def test_the_commands_of_the_reports_can_be_run_as_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = re.findall(r"^    processor (reports? .*)$", reports_told(), re.MULTILINE)
    services = wiring.build(Settings.read({"DATABASE_URL": database_url}), role="cli")
    monkeypatch.setattr(wiring, "from_environ", lambda *_: services)
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)

    assert len(commands) == 10
    for command in commands:
        words = shlex.split(command.replace("INSTANCE_ID", str(uuid4())).partition(">")[0], comments=True)
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, (command, result.output)
    for view in REPORTS:
        assert f"| `report.{view}` | `processor report {view.replace('_', '-')}` |" in reports_told()


def test_the_data_dictionary_is_that_of_this_release(database_url: str) -> None:
    engine = create_engine(sqlalchemy_url(database_url))
    with engine.connect() as connection:
        expected = dictionary.written(connection)
    engine.dispose()

    assert (ROOT / "docs" / "data-dictionary.md").read_text() == expected, (
        "run `processor reports dictionary > docs/data-dictionary.md`"
    )


def test_every_column_of_every_table_has_a_meaning_and_no_meaning_is_of_none() -> None:
    columns = {
        (table.name, column.name) for table in Base.metadata.tables.values() for column in table.columns
    }

    assert {f"{table}.{column}" for table, column in columns if not meaning(table, column)} == set()
    told = {(table, column) for table, meanings in TABLES.items() for column in meanings}
    assert told - columns == set()
    assert set(EVERYWHERE) - {column for _, column in columns} == set()
