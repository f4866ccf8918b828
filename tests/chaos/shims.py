"""Libraries that are preloaded into processes to spoil their clock or their disk, compiled when they are needed."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from processor import embedded

HERE = Path(__file__).resolve().parent
NO_SPACE, READ_ONLY = 28, 30


def missing() -> str | None:
    """Why nothing can be preloaded here; None when it can."""
    if sys.platform != "linux":
        return f"preloading a library is done for Linux only, and this is {sys.platform}"
    if _compiler() is None:
        return "no C compiler (cc, gcc or clang) was found"
    return None


def _compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def _compiled(name: str, folder: Path) -> Path:
    library = folder / f"{name}.so"
    compiler = _compiler()
    assert compiler is not None, "ask missing() first"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", library, HERE / f"{name}.c", "-ldl"],
        check=True,
        capture_output=True,
    )
    library.chmod(0o755)
    return library


class Disk:
    """PostgreSQL's disk. folder: where its user may read."""

    def __init__(self, folder: Path) -> None:
        self._flag = folder / "disk-refuses"
        library = _compiled("disk", folder)
        # As `embedded` itself looks for the programs.
        postgres = embedded._find_postgres(os.environ)
        programs = folder / "programs"
        programs.mkdir()
        for name, preload in (
            ("postgres", f"LD_PRELOAD='{library}' CHAOS_DISK='{self._flag}' "),
            ("initdb", ""),
        ):
            script = programs / name
            script.write_text(f"#!/bin/sh\n{preload}exec '{postgres.with_name(name)}' \"$@\"\n")
            script.chmod(0o755)
        self.environ = {**os.environ, embedded.POSTGRES_VARIABLE: str(programs)}

    def refuse(self, error: int, part: str) -> None:
        """From now on writing to files whose path holds `part` fails with `error`."""
        made = self._flag.with_suffix(".part")
        made.write_text(f"{error} {part}\n")
        made.chmod(0o644)
        made.rename(self._flag)

    def heal(self) -> None:
        """Take everything again."""
        self._flag.unlink(missing_ok=True)


class Clocks:
    """The wall clocks of our processes, each with an offset of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = _compiled("clock", folder)

    def environ(self, process: str) -> dict[str, str]:
        """What lets a process live by the clock of that name."""
        file = self._folder / f"clock-{process}"
        if not file.exists():
            file.write_bytes(struct.pack("d", 0.0))
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(file)}

    def step(self, process: str, seconds: float) -> None:
        """Set the clock so many seconds off the truth."""
        with (self._folder / f"clock-{process}").open("r+b") as file:
            file.write(struct.pack("d", seconds))
