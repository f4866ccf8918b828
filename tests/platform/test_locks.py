"""The lock files hold what pyproject.toml asks for, with hashes, and name no index."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "requirements.txt"
DEVELOPMENT = ROOT / ".locks" / "development.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
both = pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT], ids=["runtime", "development"])


def entries(lock: Path) -> list[str]:
    """One logical line each: requirement, marker and hashes."""
    return lock.read_text().replace("\\\n", " ").splitlines()


def versions(lock: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries(lock):
        requirement = Requirement(entry.split("--hash")[0])
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        found[canonicalize_name(requirement.name)] = pin.version
    return found


@both
def test_a_lock_holds_nothing_but_pins_with_hashes(lock: Path) -> None:
    pin = re.compile(r"[a-z0-9-]+==[0-9a-z.]+( ; [^:/]+?)?( +--hash=sha256:[0-9a-f]{64})+")

    assert [entry for entry in entries(lock) if not pin.fullmatch(entry)] == []


@both
def test_a_lock_names_no_host(lock: Path) -> None:
    assert not re.search(r"://|index-url|find-links|trusted-host|@", lock.read_text())


def test_the_runtime_lock_has_what_the_project_needs() -> None:
    assert unmet(PROJECT["project"]["dependencies"], versions(RUNTIME)) == []


def test_the_development_lock_has_all_extras_and_groups() -> None:
    project = PROJECT["project"]
    asked = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
        # A group may include another, which is here by itself.
        *(line for group in PROJECT["dependency-groups"].values() for line in group if isinstance(line, str)),
    ]

    assert unmet(asked, versions(DEVELOPMENT)) == []


def unmet(asked: list[str], locked: dict[str, str]) -> list[str]:
    missing = []
    for line in asked:
        requirement = Requirement(line)
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or version not in requirement.specifier:
            missing.append(line)
    return missing


def test_tests_run_on_the_versions_of_production() -> None:
    assert versions(RUNTIME).items() <= versions(DEVELOPMENT).items()


def test_the_kept_pip_is_the_locks() -> None:
    (wheel,) = (ROOT / ".bootstrap").glob("pip-*.whl")

    assert wheel.name.split("-")[1] == versions(DEVELOPMENT)["pip"]
    assert f"--hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}" in DEVELOPMENT.read_text()
