"""Every figure this project promises, measured on this machine in one run, beside its goal.

    make bench [ARGS='--quick']        or        .venv/bin/python -m benchmarks [options]

Sections, each with servers of its own: `intake` (the webhook beside other designs), `slowed` (the same on slower
disks), `redis` (its faults), `burst`, `scale` (with a year of events stored), `checks` (the worker beside one job for
each event), `sweeps` (what Wix lists staged and matched, and a whole sweep), `pages` (each page of a million payments
beside an empty one). Only ratios of one run are goals, since numbers of different machines or minutes say little.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from benchmarks import burst, checks, goals, intake, machine, pages, scale, sweeps, without_redis
from benchmarks.designs import ROOT
from processor.errors import ProcessorError

HERE = Path(__file__).parent
ROWS_FULL = 10_000_000
Result = dict[str, Any]
# What a run found to be wrong, told as it is; what else may go wrong is told by its kind, since it may hold paths.
WRONG = (intake.Mismatch, checks.Mismatch, scale.NoRoom, sweeps.Mismatch, pages.Mismatch)
BROKEN = (ProcessorError, subprocess.SubprocessError, psycopg.Error, OSError)


def _intake(options: argparse.Namespace, folder: Path) -> Result:
    return intake.run(intake.parse(_points(options) + _designs(options)), folder)


def _designs(options: argparse.Namespace) -> list[str]:
    if not options.quick:
        return ["--connections", "1,16,64,256", "--rates", "150,2x"]
    return ["--designs", "naive_granian,lean,ours,null", "--connections", "1,64,256", "--rates", "2x"]


def _slowed(options: argparse.Namespace, folder: Path) -> Result:
    if sys.platform != "linux":
        print("\nOnly Linux can slow the disk down.")
        return {}
    delays = [10] if options.quick else [delay for delay in goals.DELAYS if delay]
    chosen = [
        *("--slowed-only", "--fsync-delay-ms", ",".join(map(str, delays)), "--designs", "lean,lean_32,ours"),
        *("--connections", "1,64" if options.quick else "1,16,64", "--rates", ""),
    ]
    return intake.run(intake.parse(_points(options) + chosen), folder)


def _points(options: argparse.Namespace) -> list[str]:
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (1.0 if options.quick else 2.0)
    warm_up = 0.4 if options.quick else 0.7
    return [
        *("--rounds", str(rounds), "--seconds", str(seconds), "--warm-up", str(warm_up)),
        *("--seed", str(options.seed)),
    ]


def _redis(options: argparse.Namespace, folder: Path) -> Result:
    chosen = without_redis.Options(seed=options.seed)
    if options.quick:
        chosen = replace(chosen, rounds=1, seconds=1.5, warm_up=0.5)
    return without_redis.run(_overridden(chosen, options), folder)


def _burst(options: argparse.Namespace, folder: Path) -> Result:
    chosen = burst.Options(seed=options.seed)
    return burst.run(replace(chosen, events=5_000) if options.quick else chosen, folder)


def _scale(options: argparse.Namespace, folder: Path) -> Result:
    chosen = scale.Options(seed=options.seed)
    if options.quick:
        chosen = replace(chosen, rows=20_000, rounds=1, seconds=1.5, warm_up=0.4)
    if options.full:
        chosen = replace(chosen, rows=ROWS_FULL)
    if options.rows is not None:
        chosen = replace(chosen, rows=options.rows)
    return scale.run(_overridden(chosen, options), folder)


_Chosen = TypeVar("_Chosen", without_redis.Options, scale.Options)


def _overridden(chosen: _Chosen, options: argparse.Namespace) -> _Chosen:
    if options.rounds is not None:
        chosen = replace(chosen, rounds=options.rounds)
    if options.seconds is not None:
        chosen = replace(chosen, seconds=options.seconds)
    return chosen


def _checks(options: argparse.Namespace, folder: Path) -> Result:
    print("\nChecks: links for each second of the worker's CPU.", flush=True)
    file = folder / "checks.json"
    names = [case.name for case in checks.CASES]
    chosen = argparse.Namespace(
        rounds=options.rounds or (1 if options.quick else 3),
        links=120 if options.quick else 600,
        cases=["event, fork, preloaded", names[-1]] if options.quick else names,
        seed=options.seed,
        json=file,
        quick=options.quick,
    )
    checks.run(chosen, folder)
    found: Result = json.loads(file.read_text())
    return found


def _sweeps(options: argparse.Namespace, folder: Path) -> Result:
    chosen = sweeps.Options(seed=options.seed)
    if options.quick:
        chosen = replace(chosen, sizes=(2_000, 10_000), rounds=1, swept=2_000)
    return sweeps.run(replace(chosen, rounds=options.rounds or chosen.rounds), folder)


def _pages(options: argparse.Namespace, folder: Path) -> Result:
    chosen = pages.Options()
    if options.quick:
        chosen = replace(chosen, payments=20_000, rounds=3)
    return pages.run(replace(chosen, rounds=options.rounds or chosen.rounds), folder)


SECTIONS: Mapping[str, Callable[[argparse.Namespace, Path], Result]] = {
    "intake": _intake,
    "slowed": _slowed,
    "redis": _redis,
    "burst": _burst,
    "scale": _scale,
    "checks": _checks,
    "sweeps": _sweeps,
    "pages": _pages,
}


def main() -> None:
    """Measure what was asked for; ends with 1 when something was lost, counted wrongly or could not be measured."""
    options = _options()

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    # Whatever ends us, what we started is stopped on the way out.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    folder = Path(tempfile.mkdtemp(prefix="processor-bench-"))
    folder.chmod(0o755)
    try:
        report = run(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if any("failed" in found for found in report["sections"].values()):
        raise SystemExit(1)


def run(options: argparse.Namespace, folder: Path) -> Result:
    """Every section asked for; tells each, and the goals; returns everything, which is in the file as well."""
    began = datetime.now(UTC)
    shape = machine.shape() | {
        "file_system": machine.file_system(folder),
        "fdatasync_ms": machine.fdatasync_ms(folder),
    }
    server = ", ".join(f"{name} {value}" for name, value in machine.postgres_settings().items())
    print(
        f"{shape['cores']} cores ({shape['cpu'] or 'unknown'}), {shape['memory_gb']} GB, {shape['system']}"
        f" {shape['kernel']}, Python {shape['python']}; fdatasync takes {shape['fdatasync_ms']} ms; load"
        f" {shape['load_at_start']}. PostgreSQL with {server}."
        f" Sections: {', '.join(options.only)}; seed {options.seed}.",
        flush=True,
    )
    if "scale" in options.only:
        _need_room(options, folder)
    sections: dict[str, Result] = {}
    report: Result = {
        "began_at": began.isoformat(timespec="seconds"),
        "seconds_taken": 0.0,
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "machine": shape,
        "versions": machine.packages(),
        "commit": machine.commit(ROOT),
        "goals": [],
        "sections": sections,
    }
    for name in options.only:
        place = folder / name
        place.mkdir()
        place.chmod(0o755)  # the servers' user must pass
        sections[name] = _measured(SECTIONS[name], options, place)
        shutil.rmtree(place, ignore_errors=True)
        judged = goals.judge(sections)
        report["goals"] = [asdict(goal) for goal in judged]
        report["seconds_taken"] = round((datetime.now(UTC) - began).total_seconds(), 1)
        _write(options.json, report)  # as far as it has come, should the rest be ended
    print(f"\n{goals.table(goals.judge(sections))}")
    print(
        f"\nRatios of one run, medians over its rounds; in brackets least and most. {report['seconds_taken']:.0f} s."
        f" Everything is in {options.json.name}."
    )
    if options.quick:
        print(
            "A quick run has one short round of each: it shows that everything works, and no figure to quote."
        )
    return report


def _measured(
    section: Callable[[argparse.Namespace, Path], Result], options: argparse.Namespace, folder: Path
) -> Result:
    try:
        return section(options, folder)
    except WRONG as why:
        print(f"FAILED: {why}", flush=True)
        return {"failed": str(why)}
    except BROKEN as why:
        traceback.print_exc()
        return {"failed": type(why).__name__}


def _need_room(options: argparse.Namespace, folder: Path) -> None:
    if options.quick and options.rows is None:
        return
    rows = options.rows or (ROWS_FULL if options.full else scale.Options().rows)
    try:
        scale.need_room(folder, rows)
    except scale.NoRoom as why:
        raise SystemExit(f"The benchmark refuses: {why}") from None


def _write(file: Path, report: Result) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1, default=str) + "\n")
    part.replace(file)


def _options() -> argparse.Namespace:
    def only(text: str) -> list[str]:
        found = [part.strip() for part in text.split(",") if part.strip()]
        if not found or any(name not in SECTIONS for name in found):
            raise argparse.ArgumentTypeError(f"{text}: there are {', '.join(SECTIONS)}")
        return [name for name in SECTIONS if name in found]

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog="Everything stays on this machine, and is stopped and removed at the end.",
    )
    parser.add_argument(
        "--only", type=only, default=list(SECTIONS), help=f"some of {','.join(SECTIONS)} (all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round of everything, in some three minutes"
    )
    parser.add_argument("--full", action="store_true", help=f"{ROWS_FULL:,} events stored at scale")
    parser.add_argument("--rows", type=int, help=f"events stored at scale ({scale.Options().rows:,})")
    parser.add_argument("--rounds", type=int, help="of every section that has some (3 to 5)")
    parser.add_argument("--seconds", type=float, help="length of one point of intake, redis and scale")
    parser.add_argument("--seed", type=int, default=1, help="of the events (1)")
    parser.add_argument("--json", type=Path, help="file for everything (benchmarks/results/DATE.json)")
    options = parser.parse_args()
    if options.json is None:
        # A part of it, or a quick look, must not replace the day's figures.
        kind = ["quick"] if options.quick else []
        kind += options.only if options.only != list(SECTIONS) else []
        name = "-".join([f"{datetime.now(UTC):%Y-%m-%d}", *kind])
        options.json = HERE / "results" / f"{name}.json"
    if (options.rounds or 1) < 1 or (options.seconds or 1) < 0.5 or (options.rows or 1_000) < 1_000:
        parser.error("--rounds, --seconds and --rows must make sense: at least 1, 0.5 and 1,000")
    return options


if __name__ == "__main__":
    main()
