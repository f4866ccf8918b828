"""Build .venv from .locks/development.txt, with nothing but a Python and its standard library.

Called by .bootstrap/environment, which says in one argument what the environment is made from; that text is
written into it last, so that a build broken off half-way is begun again.

`uv` is used when it is there. Otherwise pip, from the wheel kept beside this file: Debian's Python has no
ensurepip unless python3-venv is installed, and its pip is barred from installing (PEP 668).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "made-from"
LOCKED = ROOT / ".locks" / "development.txt"
# Settings of the user that would send the packages elsewhere or ask for other ones. Those that say where
# packages come from (a company's mirror, a proxy, a certificate) are kept; the hashes guard what comes.
PIP_SETTINGS = {
    "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
PIP_DROPPED = (
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_NO_DEPS", "PIP_REPORT"),
    *("PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_EDITABLE", "PIP_NO_BINARY", "PIP_PYTHON"),
    *("PIP_PLATFORM", "PIP_PYTHON_VERSION", "PIP_IMPLEMENTATION", "PIP_ABI"),
)


class CannotBuild(Exception):
    """The message is one sentence for the person who typed `make`."""


def main(wanted: str) -> None:
    """Build, unless another make has just done it."""
    with open(ROOT / ".bootstrap" / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another make is building .venv; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if STAMP.is_file() and STAMP.read_text() == wanted:
                return
        began = time.monotonic()
        uv = shutil.which("uv")
        say(
            f"Building .venv with {'uv' if uv else 'pip'}; this is done once and takes up to a minute or two."
        )
        if not (uv and build_with_uv(uv)):
            build_with_pip()
        add_ourselves()
        STAMP.write_text(wanted)
        say(f"Built .venv in {time.monotonic() - began:.0f} s.")


def build_with_uv(uv: str) -> bool:
    """False when uv cannot; it does not read pip's settings, so pip may still be able to."""
    remove()
    commands = (
        [uv, "venv", "--quiet", "--python", sys.executable, str(VENV)],
        [
            *(uv, "pip", "install", "--quiet", "--python", str(python())),
            *("--require-hashes", "--only-binary", ":all:", "-r", str(LOCKED)),
        ],
    )
    for command in commands:
        if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode != 0:
            say("uv could not build it; trying pip.")
            return False
    return True


def build_with_pip() -> None:
    """Raises CannotBuild."""
    remove()
    pip = kept_pip()
    venv.create(VENV, symlinks=True, with_pip=False)
    kept = {name: value for name, value in os.environ.items() if name not in PIP_DROPPED}
    done = subprocess.run(
        [
            *(sys.executable, "-I", f"{pip}/pip", "--python", str(python()), "install", "--quiet"),
            # Compiling 70 packages takes longer than loading the few that are used.
            *("--require-hashes", "--only-binary", ":all:", "--no-compile", "-r", str(LOCKED)),
        ],
        cwd=ROOT,
        env={**kept, **PIP_SETTINGS},
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise CannotBuild(
            "pip could not install the locked packages (its words are above): is the package index within reach,"
            " and is this Linux with glibc 2.28 or later, or macOS 11 or later?"
        )


def kept_pip() -> Path:
    """The wheel of pip beside this file, proven by the hash the lock has for it. Raises CannotBuild."""
    wheels = list((ROOT / ".bootstrap").glob("pip-*.whl"))
    if len(wheels) != 1:
        raise CannotBuild(
            f"there should be one wheel of pip in .bootstrap, not {len(wheels)}: run git checkout"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if f"--hash=sha256:{digest}" not in LOCKED.read_text():
        raise CannotBuild(
            f".bootstrap/{wheels[0].name} is not the pip of .locks/development.txt: run git checkout"
        )
    return wheels[0]


def add_ourselves() -> None:
    """Let the environment find the package in the checkout, and give it the command `processor`."""
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    where = subprocess.run([python(), "-I", "-c", asked], check=True, capture_output=True, text=True)
    (Path(where.stdout.strip()) / "payment-link-processor.pth").write_text(f"{ROOT}\n")
    launcher = VENV / "bin" / "processor"
    launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python()))} -m processor "$@"\n')
    launcher.chmod(0o755)


def remove() -> None:
    """Remove what there is of an older or unfinished environment."""
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)


def python() -> Path:
    """The environment's interpreter."""
    return VENV / "bin" / "python"


def say(sentence: str) -> None:
    """Tell the person who typed `make`."""
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except CannotBuild as why:
        sys.exit(f".venv was not built: {why}")
    except OSError as why:
        sys.exit(f".venv was not built: {why}")
    except KeyboardInterrupt:
        sys.exit(130)
