"""Which server, and how many processes and threads: this application under each, in turns.

    .venv/bin/python -m benchmarks.servers [options]

As `benchmarks.intake`: real processes over a durable PostgreSQL, distinct signed events, and what was answered 200
compared with what is stored. Only the ratios of one round say something; the first server is what the others are
compared with. `never`: requests without an answer within 5 s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, tokens
from benchmarks.designs import OURS, ROOT, Design
from benchmarks.intake import (
    HERE,
    LATE_MS,
    TOKENS_PER_SECOND,
    WARM_UP_CONNECTIONS,
    Bench,
    Load,
    Mismatch,
    Point,
    _answers,
    _less,
    make_databases,
)
from processor.cli import CONNECTIONS_MAX
from processor.config import declared_settings
from processor.processes import free_port, wait_until
from processor.system import LOCALHOST


@dataclass(frozen=True, slots=True)
class Served(Design):
    """Ours under one server. connections_max: of each worker, what Granian calls backpressure."""

    connections_max: int = CONNECTIONS_MAX

    def command(self, port: int, backpressure: int | None = None) -> list[str]:
        """How it is served on `port`."""
        program = str(Path(sys.executable).parent / self.server)
        if self.server == "gunicorn":
            return [
                *(program, "--bind", f"{LOCALHOST}:{port}", "--workers", str(self.workers)),
                *("--worker-class", "gthread", "--threads", str(self.threads), "--keep-alive", "60"),
                *("--worker-connections", str(self.connections_max), "--backlog", "2048"),
                *("--log-level", "error", "--chdir", str(ROOT), self.app),
            ]
        return [  # as `processor serve` does
            *(program, "--interface", "wsgi", "--host", LOCALHOST, "--port", str(port)),
            *("--workers", str(self.workers), "--blocking-threads", str(self.threads)),
            *("--backpressure", str(backpressure or self.connections_max), "--backlog", "2048"),
            *("--http", "1", "--http1-header-read-timeout", "60000", "--workers-kill-timeout", "10"),
            *("--no-ws", "--log-level", "error", "--working-dir", str(ROOT), self.app),
        ]


def served(text: str) -> Served:
    """`granian-2x64`, or `granian-2x64-128` for at most 128 connections of each worker. Raises ValueError."""
    server, _, shape = text.partition("-")
    if server not in ("granian", "gunicorn"):
        raise ValueError(text)
    shape, _, most = shape.partition("-")
    workers, _, threads = shape.partition("x")
    return Served(
        *(text, text, "wsgi:app", OURS),
        server=server,
        workers=int(workers),
        threads=int(threads),
        environ={"WEB_THREADS": threads},
        connections_max=int(most or CONNECTIONS_MAX),
    )


USUAL = (
    *("granian-2x64", "granian-2x64-128"),
    *("granian-1x64", "granian-2x16", "granian-2x32", "granian-2x128", "granian-3x64"),
    *("gunicorn-1x64", "gunicorn-2x16", "gunicorn-2x64", "gunicorn-3x64"),
)


class Turns(Bench):
    """Measures every load over one start of a server, since starting takes longer than a point."""

    def measure_all(self, design: Design, loads: Sequence[Load], number: int) -> list[Point]:
        """One point for each of `loads`, on emptied tables. Raises Mismatch."""
        assert design.books is not None
        port = free_port()
        child = self._child(design, port)
        found: list[Point] = []
        ledger = self.folder / "ledger"
        child.start()
        try:
            wait_until(lambda: _answers(port), what=design.name, seconds=120, children=[child])
            self._run(port, Load(WARM_UP_CONNECTIONS, None), self.warm_up, wraps=True)
            for load in loads:
                self._empty(design.books)
                before = self._cpu(child)
                client = self._run(port, load, self.seconds, wraps=False, ledger=ledger)
                used = {name: _less(after, before[name]) for name, after in self._cpu(child).items()}
                stored, in_doubt = self._check(design, ledger)
                cpu = {
                    name: round(seconds / client["answered"] * 1e6, 1)
                    if client["answered"] and seconds is not None
                    else None
                    for name, seconds in used.items()
                }
                found.append(Point(0, number, design.name, str(load), None, client, stored, in_doubt, cpu))
        finally:
            child.stop()
        return found


def table(points: Sequence[Point], names: Sequence[str]) -> str:
    """One line for each server, of points that share a load. Medians, and the least and most ratio."""
    first = {point.round: point.per_second for point in points if point.design == names[0]}
    title = (
        f"{'server':<18} {'events/s':>9} {'x first':>17} {'p50 ms':>7} {'p99':>7} {'p99.9':>7} {'max':>7}"
        f" {f'>{LATE_MS}':>6} {'not 200':>7} {'never':>6} {'CPU us':>7}"
    )
    lines = [title]
    for name in names:
        one = [point for point in points if point.design == name]
        ratios = [point.per_second / first[point.round] for point in one if first.get(point.round)]
        latencies = [
            statistics.median(point.client[key] for point in one)
            for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms")
        ]
        never = sum(point.client["unanswered"] + point.client["unsent"] for point in one)
        cpu = [used for point in one if (used := point.cpu_us["app"]) is not None]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"
        lines.append(
            f"{name:<18} {statistics.median(point.per_second for point in one):>9,.0f} {ratio:>17}"
            f" {latencies[0]:>7,.1f} {latencies[1]:>7,.1f} {latencies[2]:>7,.1f} {latencies[3]:>7,.0f}"
            f" {sum(point.client['late'] for point in one):>6} {sum(point.refused for point in one):>7}"
            f" {never:>6} {statistics.median(cpu) if cpu else 0:>7,.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.servers", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one point (2)")
    parser.add_argument("--connections", default="16,64,256")
    parser.add_argument(
        "servers", nargs="*", type=served, help=f"SERVER-WORKERSxTHREADS[-CONNECTIONS]; {' '.join(USUAL)}"
    )
    options = parser.parse_args()
    chosen: list[Served] = options.servers or [served(text) for text in USUAL]

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    folder = Path(tempfile.mkdtemp(prefix="processor-bench-"))
    folder.chmod(0o755)
    try:
        run(chosen, options, folder)
    except Mismatch as why:
        raise SystemExit(f"The benchmark FAILED: {why}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(chosen: Sequence[Served], options: argparse.Namespace, folder: Path) -> None:
    """Every round, every server, every load."""
    program = folder / "load"
    machine.compile_c(HERE / "load.c", program)
    made = tokens.make(folder / "bodies", int(TOKENS_PER_SECOND * options.seconds), seed=1, duplicates=0.02)
    ours = {declared.variable for declared in declared_settings().values()}
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    loads = [Load(int(number), None) for number in options.connections.split(",")]
    points: list[Point] = []
    with machine.start_servers(folder / "servers") as servers:
        make_databases(servers)
        bench = Turns(folder, program, made, servers, options.seconds, 0.7, environ)
        for number in range(options.rounds):
            for design in (chosen, chosen[::-1])[number % 2]:
                found = bench.measure_all(design, loads, number + 1)
                points += found
                told = ", ".join(f"{point.per_second:,.0f}/s" for point in found)
                print(f"  round {number + 1}  {design.name:<18} {told}", flush=True)
    for load in loads:
        of_load = [point for point in points if point.load == str(load)]
        print(f"\n{load}:\n{table(of_load, [design.name for design in chosen])}")


if __name__ == "__main__":
    main()
