"""What was to be reached, beside what was measured. Pure: sections' results in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.intake import OPEN_CONNECTIONS, Load

Found = Mapping[str, Any]
DELAYS = (0, 3, 10)  # ms added to each fsync
NAIVE_TIMES = 2.0  # of the naive design's capacity
MOST_MS = 250
TIMES_NAIVE, OF_NULL, TIMES_LEAN, TIMES_LEAN_ALONE = 12.0, 0.6, 2.5, 0.95
TIMES_NULL_ALONE = 4.0
WITHIN = 0.10
GROWTH_MOST = 0.05
OF_EMPTY = 0.85
TIMES_JOBS = 50.0
TIMES_BARE, LINEAR_MOST, TIMES_FLOOR = 3.5, 1.25, 1.1
TIMES_EMPTY_PAGE = 5.0
GROWTH_MB_MOST = 10.0
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure. is_met: None when it was not measured."""

    figure: str
    goal: str
    measured: str
    is_met: bool | None


def judge(found: Mapping[str, Found]) -> list[Goal]:
    """Every goal, by the results of the sections that ran; one that failed has `failed`, saying why."""
    goals: list[Goal] = []
    for section, lines in SECTIONS.items():
        result = found.get(section, {})
        for figure, goal, told in lines(result):
            if "failed" in result:
                goals.append(Goal(figure, goal, f"FAILED: {result['failed']}", False))
            elif told is None:
                goals.append(Goal(figure, goal, NOT_MEASURED, None))
            else:
                goals.append(Goal(figure, goal, *told))
    return goals


_Told = tuple[str, bool] | None
_Lines = Iterator[tuple[str, str, _Told]]


def _line(result: Found, load: Load, design: str = "ours", delay: float = 0) -> Found | None:
    for one in result.get("summary", ()):
        if (one["design"], one["load"], one["delay_ms"]) == (design, str(load), delay):
            return one  # type: ignore[no-any-return]  # of JSON's kind
    return None


def _spread(found: Mapping[str, float], unit: str = "", digits: int = 2) -> str:
    median, least, most = (f"{found[name]:,.{digits}f}" for name in ("median", "least", "most"))
    return f"{median}{unit}" if least == most else f"{median}{unit} ({least}-{most})"


def _ratio(line: Found | None, kind: str, family: str, holds: Callable[[float], bool]) -> _Told:
    found = line[kind].get(family) if line else None
    return (_spread(found, " x"), holds(found["median"])) if found else None


def _tail(line: Found | None) -> _Told:
    if line is None:
        return None
    wrong = line["refused"] + line["unanswered"]
    told = _spread(line["p999_ms"], " ms", 0) + (f", {wrong:,} not answered 200" if wrong else "")
    return told, line["p999_ms"]["median"] < MOST_MS and not wrong


def _intake(result: Found) -> _Lines:
    at_64 = _line(result, Load(64, None))
    alone = _line(result, Load(1, None))
    yield (
        "events/s vs naive, 64 connections",
        f">= {TIMES_NAIVE:g} x",
        _ratio(at_64, "ratios", "naive", lambda times: times >= TIMES_NAIVE),
    )
    yield (
        "events/s vs an empty Flask route, same server, 64 connections",
        f">= {OF_NULL:g} x",
        _ratio(at_64, "ratios", "null", lambda times: times >= OF_NULL),
    )
    yield "p99.9 at 256 connections", f"< {MOST_MS} ms", _tail(_line(result, Load(256, None)))
    capacity = (result.get("naive_capacity_per_second") or {}).get("0")
    doubled = _line(result, Load(OPEN_CONNECTIONS, round(capacity * NAIVE_TIMES, 1))) if capacity else None
    yield "p99.9 at twice the naive design's capacity", f"< {MOST_MS} ms", _tail(doubled)
    yield (
        "a lone event's median vs an empty Flask route",
        f"<= {TIMES_NULL_ALONE:g} x",
        _ratio(alone, "latency_ratios", "null", lambda times: times <= TIMES_NULL_ALONE),
    )
    yield from _lean(result, 0)


def _slowed(result: Found) -> _Lines:
    for delay in DELAYS[1:]:
        yield from _lean(result, delay)


def _lean(result: Found, delay: float) -> _Lines:
    slower = f", fsync + {delay:g} ms" if delay else ""
    yield (
        f"events/s vs one commit per request written well, 64 connections{slower}",
        f">= {TIMES_LEAN:g} x",
        _ratio(
            _line(result, Load(64, None), delay=delay), "ratios", "lean", lambda times: times >= TIMES_LEAN
        ),
    )
    yield (
        f"the same at one connection{slower}",
        f">= {TIMES_LEAN_ALONE:g} x",
        _ratio(
            *(_line(result, Load(1, None), delay=delay), "ratios", "lean"),
            lambda times: times >= TIMES_LEAN_ALONE,
        ),
    )


def _redis(result: Found) -> _Lines:
    lines = {one["redis"]: one for one in result.get("summary", ())}
    for state in ("stopped", "hung", "flushed"):
        found = lines[state]["p50_ratio"] if state in lines else None
        told: _Told = None
        if found:
            wrong = lines[state]["refused"]
            refused = f", {wrong:,} not answered 200" if wrong else ""
            told = _spread(found, " x") + refused, found["median"] <= 1 + WITHIN and not wrong
        yield f"median answer time, Redis {state} vs up", f"within {WITHIN * 100:g} %", told


def _burst(result: Found) -> _Lines:
    told: _Told = None
    size, share = "a burst of 100,000", ", 20 % duplicates"
    if settings := result.get("settings"):
        size, share = f"a burst of {settings['events']:,}", f", {settings['duplicates'] * 100:g} % duplicates"
        told = (
            f"{result['events_answered']:,} ids equal; {result['refused'] + result['unanswered']:,} sent again",
            True,  # else it had failed
        )
    yield f"{size} events{share}, shuffled", "all 200 in the end, id sets equal", told
    grown = result.get("memory_growth")
    told = None if grown is None else (f"{grown:+.1%}", grown <= GROWTH_MOST)
    yield "memory of the web processes from 20 % to 100 % of it", f"flat: <= {GROWTH_MOST * 100:+g} %", told


def _scale(result: Found) -> _Lines:
    told: _Told = None
    stored = "10 million events"
    if found := result.get("ratio"):
        stored = f"{result['filled']['rows']:,} events"
        cold = result.get("ratio_cold")
        beside = f"; {cold['median']:.2f} x with indexes not in memory yet" if cold else ""
        told = f"{_spread(found, ' x')}{beside}", found["median"] >= OF_EMPTY
    yield f"events/s with {stored} stored vs empty, 64 connections", f">= {OF_EMPTY:g} x", told
    told = None
    if "unused_indexes" in result:
        unused: Sequence[str] = result["unused_indexes"]
        told = ", ".join(unused) or "each is used", not unused
    yield "indexes of the hot tables that nothing uses", "none", told


def _checks(result: Found) -> _Lines:
    told: _Told = None
    for line in result.get("summary", ()):
        if line["case"] == "batch, ours":
            # A worker that does not fork is no job queue as it comes; it is told beside.
            usual = {name: one for name, one in line["ratios"].items() if name != "event, no fork"}
            if usual:
                name, found = min(usual.items(), key=lambda item: item[1]["median"])
                told = f"{_spread(found, ' x', 0)}, {name}", found["median"] >= TIMES_JOBS
    yield "links checked per second of worker CPU vs one job per event", f">= {TIMES_JOBS:g} x", told


def _sweeps(result: Found) -> _Lines:
    lines: Sequence[Found] = result.get("matching", ())
    for line in lines or ({},):
        size = f"{line['payments']:,} payments" if line else "payments"
        told: _Told = None
        if line:
            told = _spread(line["ratio"], " x"), line["ratio"]["median"] <= TIMES_BARE
        yield f"{size} staged and matched vs the bare full outer join", f"<= {TIMES_BARE:g} x", told
    told = None
    if (linear := result.get("linear")) is not None:
        told = f"{linear:.2f} x", linear <= LINEAR_MOST
    yield "cost of a payment, of the most vs of the fewest", f"<= {LINEAR_MOST:g} x", told
    told = None
    if (growth := result.get("memory_growth_mb")) is not None:
        told = f"{growth:+.0f} MB", growth <= GROWTH_MB_MOST
    yield "memory with the most vs with the fewest", f"<= +{GROWTH_MB_MOST:g} MB", told
    told = None
    if swept := result.get("sweep"):
        times = swept["calls"] / swept["floor"]
        own = swept["cpu_seconds"] / swept["payments"] * 1e6
        told = f"{times:.3f} x; {own:.0f} ms of own CPU per 1,000", times <= TIMES_FLOOR
    yield "calls to Wix of a sweep vs as few as pages hold it", f"<= {TIMES_FLOOR:g} x", told


def _pages(result: Found) -> _Lines:
    told: _Told = None
    if slowest := result.get("slowest"):
        words = f"{slowest['times']:.1f} x ({slowest['screen']}: {slowest['what']})"
        words += f"; {result['kept']} of {result['judged']} within it"
        told = words, slowest["times"] <= TIMES_EMPTY_PAGE
    yield "the slowest page of large books vs the same of empty ones", f"<= {TIMES_EMPTY_PAGE:g} x", told


SECTIONS: dict[str, Callable[[Found], _Lines]] = {
    "intake": _intake,
    "slowed": _slowed,
    "redis": _redis,
    "burst": _burst,
    "scale": _scale,
    "checks": _checks,
    "sweeps": _sweeps,
    "pages": _pages,
}


def table(goals: Sequence[Goal]) -> str:
    """The goals, for people."""
    verdicts = {True: "met", False: "NOT MET", None: "-"}
    cells = [
        ("figure", "goal", "measured", ""),
        *((one.figure, one.goal, one.measured, verdicts[one.is_met]) for one in goals),
    ]
    widths = [max(len(row[place]) for row in cells) for place in range(3)]
    return "\n".join(
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])).rstrip()
        for row in cells
    )
