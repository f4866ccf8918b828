"""How `make` builds .venv, on a copy of .bootstrap whose lock asks for nothing but the pip that is kept there.

So no package index is asked, and what is shown holds for a machine with nothing but Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What .bootstrap/environment may use. There is no uv among them.
TOOLS = ("sh", "cat", "cksum", "dirname")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a folder with a space, whose lock holds one package."""
    made = tmp_path / "a checkout"
    shutil.copytree(ROOT / ".bootstrap", made / ".bootstrap")
    (made / ".locks").mkdir()
    (made / ".locks" / "development.txt").write_text(pip_of_the_lock())
    (made / "processor").mkdir()
    (made / "processor" / "__init__.py").touch()
    (made / "processor" / "__main__.py").write_text("import sys\nprint('processor', *sys.argv[1:])\n")
    return made


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A nearly empty environment: the tools, no home, no index."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    (tools / "python3").symlink_to(sys.executable)
    return {
        "PATH": str(tools),
        "HOME": str(tmp_path / "empty"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": (ROOT / ".bootstrap").as_uri(),  # a path with spaces would be several
    }


def pip_of_the_lock() -> str:
    lock = (ROOT / ".locks" / "development.txt").read_text()
    begin = lock.index("\npip==") + 1
    end = begin
    while lock[:end].endswith("\\\n") or end == begin:
        end = lock.index("\n", end) + 1
    return lock[begin:end]


def build(checkout: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", checkout / ".bootstrap" / "environment"], env=environ, cwd="/", capture_output=True, text=True
    )


def output(*command: str | Path) -> str:
    return subprocess.run(command, cwd="/", check=True, capture_output=True, text=True).stdout


def made_at(checkout: Path) -> int:
    return (checkout / ".venv" / "made-from").stat().st_mtime_ns


def test_it_builds_with_nothing_but_python(checkout: Path, environ: dict[str, str]) -> None:
    done = build(checkout, environ)

    assert done.returncode == 0, done.stderr
    python = checkout / ".venv" / "bin" / "python"
    assert "pip 26" in output(python, "-m", "pip", "--version")
    assert str(checkout) in output(python, "-c", "import processor; print(processor.__file__)")
    assert output(checkout / ".venv" / "bin" / "processor", "a b", "c") == "processor a b c\n"


def test_it_builds_without_ensurepip(checkout: Path, environ: dict[str, str]) -> None:
    without = (
        "import runpy, sys; sys.modules['ensurepip'] = None; runpy.run_path(sys.argv[2], run_name='__main__')"
    )

    # run_path leaves sys.argv alone, so the script's first argument is the text of the stamp.
    done = subprocess.run(
        [sys.executable, "-I", "-c", without, "stamp", checkout / ".bootstrap" / "build.py"],
        env=environ,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert (checkout / ".venv" / "made-from").read_text() == "stamp"


def test_the_users_own_pip_settings_do_not_send_packages_elsewhere(
    checkout: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nrequire-virtualenv = true\nno-binary = :all:\nfind-links = /nowhere\n[install]\nuser = true\n"
    )
    hostile = {
        "PIP_CONFIG_FILE": str(settings),
        "PIP_TARGET": str(tmp_path / "target"),
        "PYTHONPATH": "/nowhere",
    }

    done = build(checkout, environ | hostile)

    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "target").exists()


def test_it_is_rebuilt_only_when_what_it_is_made_from_changes(
    checkout: Path, environ: dict[str, str]
) -> None:
    build(checkout, environ)
    first = made_at(checkout)

    build(checkout, environ)
    assert made_at(checkout) == first

    with (checkout / ".locks" / "development.txt").open("a") as lock:
        lock.write("# changed\n")
    build(checkout, environ)
    second = made_at(checkout)
    assert second > first

    moved = checkout.with_name("moved")
    checkout.rename(moved)
    build(moved, environ)
    assert made_at(moved) > second

    (moved / ".venv" / "bin" / "python").unlink()
    assert build(moved, environ).returncode == 0
    assert output(moved / ".venv" / "bin" / "processor") == "processor\n"


def test_a_build_broken_off_is_begun_again(checkout: Path, environ: dict[str, str]) -> None:
    process = subprocess.Popen(
        ["sh", checkout / ".bootstrap" / "environment"], env=environ, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not (checkout / ".venv" / "bin").exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # between two looks at another process's work
    process.kill()
    process.wait()

    done = build(checkout, environ)

    assert done.returncode == 0, done.stderr
    assert output(checkout / ".venv" / "bin" / "processor") == "processor\n"


def test_two_at_once_build_it_once(checkout: Path, environ: dict[str, str]) -> None:
    both = [
        subprocess.Popen(
            ["sh", checkout / ".bootstrap" / "environment"], env=environ, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]

    said = "".join(process.communicate()[1] for process in both)

    assert [process.returncode for process in both] == [0, 0]
    assert said.count("Built .venv") == 1
    assert output(checkout / ".venv" / "bin" / "processor") == "processor\n"


def test_a_pip_that_is_not_the_locks_is_refused(checkout: Path, environ: dict[str, str]) -> None:
    (wheel,) = (checkout / ".bootstrap").glob("pip-*.whl")
    with wheel.open("ab") as file:
        file.write(b"tampered")

    done = build(checkout, environ)

    assert done.returncode == 1
    assert "is not the pip of .locks/development.txt" in done.stderr
    assert not (checkout / ".venv" / "made-from").exists()


def test_a_package_without_the_locked_hash_is_refused(checkout: Path, environ: dict[str, str]) -> None:
    lock = checkout / ".locks" / "development.txt"
    # The script is content with the wheel, while the package asked for has another hash.
    text = lock.read_text()
    kept = "\n".join(f"# {line}" for line in text.splitlines())
    wrong = "".join(line for line in text.splitlines(keepends=True) if "--hash" not in line).rstrip(" \\\n")
    lock.write_text(f"{kept}\n{wrong} --hash=sha256:{'0' * 64}\n".replace("# " + " " * 4, "# "))

    done = build(checkout, environ)

    assert done.returncode == 1
    assert "DO NOT MATCH" in done.stderr
    assert "pip could not install the locked packages" in done.stderr


@pytest.mark.parametrize("named", [True, False])
def test_a_missing_python_is_said_with_what_to_install(
    checkout: Path, environ: dict[str, str], named: bool
) -> None:
    os.unlink(Path(environ["PATH"]) / "python3")

    done = build(checkout, environ | ({"PYTHON": "/nowhere/python3"} if named else {}))

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert ("PYTHON is /nowhere/python3" if named else "apt install python3") in done.stderr
