"""The audit never passes by silence."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CLEAN = {"name": "flask", "version": "3.1.3", "vulns": []}
VULNERABLE = {"name": "flask", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.0"]}]}
SKIPPED = {"name": "rq", "skip_reason": "not found"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    file = Path(__file__).resolve().parents[2] / ".ci" / "audit.py"
    spec = importlib.util.spec_from_file_location("audit", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([CLEAN], 0, "1 of 1 packages, 0 vulnerable"),
        ([CLEAN, VULNERABLE], 1, "flask 1.0: PYSEC-1, fixed in 2.0"),
        ([CLEAN, SKIPPED], 1, "rq was not looked up: not found"),
        ([SKIPPED], 0, "NOT RUN"),
        (None, 0, "NOT RUN: no route to host"),
    ],
)
def test_what_was_not_looked_up_is_said(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    packages: list[dict[str, Any]] | None,
    status: int,
    said: str,
) -> None:
    answer = json.dumps({"dependencies": packages}) if packages is not None else ""
    done = subprocess.CompletedProcess([], 1, stdout=answer, stderr="Traceback\nno route to host\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)

    assert audit.main() == status
    assert said in capsys.readouterr().out


def test_where_the_audit_is_required_not_run_is_a_failure(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT", "required")

    assert audit.not_run("no network") == 1
