"""What the webhook's answer time owes to Redis: up, stopped, hung and flushed, in turns at one rate.

    .venv/bin/python -m benchmarks --only redis

Every point has a web server of its own, which has seen Redis up while it warmed up; then Redis is hurt, and stays so
for the whole point. Compared are the medians of one round.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import tokens
from benchmarks.designs import DESIGNS
from benchmarks.intake import OPEN_CONNECTIONS, TOKENS_PER_SECOND, Load, Point, _redis, opened, spread
from processor import embedded

UP = "up"
FLUSH_EVERY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """rate: events a second, well below what the machine takes, so that the answer time is not that of a queue."""

    rate: float = 200.0
    rounds: int = 5
    seconds: float = 4.0
    warm_up: float = 1.0
    seed: int = 1


@contextmanager
def _up(_servers: embedded.Servers) -> Iterator[None]:
    yield


@contextmanager
def _stopped(servers: embedded.Servers) -> Iterator[None]:
    servers.valkey.stop()
    try:
        yield
    finally:
        servers.valkey.start()


@contextmanager
def _hung(servers: embedded.Servers) -> Iterator[None]:
    pid = servers.valkey.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _flushed(servers: embedded.Servers) -> Iterator[None]:
    done = threading.Event()

    def flush() -> None:
        with _redis(servers) as client:
            while not done.wait(FLUSH_EVERY_SECONDS):
                client.flushall()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


STATES = {UP: _up, "stopped": _stopped, "hung": _hung, "flushed": _flushed}


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Every state, round by round; tells what came of it, and returns it for a file. Raises Mismatch."""
    count = int(max(options.rate * options.seconds * 2, TOKENS_PER_SECOND * options.warm_up))
    print(
        f"\nRedis: {options.rate:.0f} events/s, open loop, {options.rounds} rounds of {options.seconds:g} s."
    )
    print(f"Signing {count:,} events (seed {options.seed}).", flush=True)
    made = tokens.make(folder / "bodies", count, seed=options.seed, duplicates=0)
    [ours] = [design for design in DESIGNS if design.name == "ours"]
    load = Load(OPEN_CONNECTIONS, options.rate)
    points: dict[str, list[Point]] = {state: [] for state in STATES}
    with opened(folder, made, seconds=options.seconds, warm_up=options.warm_up) as bench:
        states = list(STATES)
        for number in range(options.rounds):
            turn = number % len(states)
            for state in states[turn:] + states[:turn]:
                point = bench.measure(ours, load, number + 1, around=partial(STATES[state], bench.servers))
                points[state].append(point)
                print(
                    f"  round {point.round}  Redis {state:<8} {point.per_second:>6,.0f}/s  p50"
                    f" {point.client['p50_ms']:>7.2f} ms  p99 {point.client['p99_ms']:>8.1f} ms"
                    f"  {point.stored:>6,} stored; {point.refused} not 200",
                    flush=True,
                )
    lines = summarise(points)
    print(f"\n{table(lines)}")
    return {
        "settings": asdict(options),
        "summary": lines,
        "points": {state: [asdict(point) for point in of] for state, of in points.items()},
    }


def summarise(points: dict[str, list[Point]]) -> list[dict[str, Any]]:
    """One line for each state; ratios against Redis up, round by round."""
    up = {point.round: point.client for point in points[UP]}

    def against_up(of: Sequence[Point], name: str) -> dict[str, float] | None:
        return spread(
            point.client[name] / up[point.round][name]
            for point in of
            if point.round in up and up[point.round][name] > 0
        )

    return [
        {
            "redis": state,
            **{
                name: spread(point.client[name] for point in of)
                for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")
            },
            "p50_ratio": against_up(of, "p50_ms"),
            "p99_ratio": against_up(of, "p99_ms"),
            "late": sum(point.client["late"] for point in of),
            "refused": sum(point.refused for point in of),
            "stored": sum(point.stored or 0 for point in of),
        }
        for state, of in points.items()
        if of
    ]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The lines, for people."""
    title = (
        f"{'Redis':<8} {'p50 ms':>8} {'p99':>8} {'p99.9':>8} {'max':>8} {'p50 x up':>18} {'p99 x up':>18}"
        f" {'not 200':>8} {'stored':>8}"
    )
    told = [title]
    for line in lines:
        times = [line[name]["median"] for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")]
        ratios = [
            f"{found['median']:.2f} ({found['least']:.2f}-{found['most']:.2f})" if found else "-"
            for found in (line["p50_ratio"], line["p99_ratio"])
        ]
        told.append(
            f"{line['redis']:<8} {times[0]:>8.2f} {times[1]:>8.1f} {times[2]:>8.1f} {times[3]:>8.1f}"
            f" {ratios[0]:>18} {ratios[1]:>18} {line['refused']:>8,} {line['stored']:>8,}"
        )
    return "\n".join(told)
