"""One story, or many: played, proved, and told of. `python -m tests.simulation --help`."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import redis

from benchmarks import machine
from tests.conftest import a_database, migrated_template, start_servers, stop_servers
from tests.simulation.oracle import expected_open, prove
from tests.simulation.story import STEPS, Story
from tests.simulation.world import START, WentWrong, a_world

ROOT = Path(__file__).resolve().parents[2]
HEADING = "## The last long run\n"
TEMPLATE = "simulation_template"


@dataclass(slots=True)
class Played:
    """A story that was played. wrong: what was not as it must be, None when all was well.

    digest: of the books. open: by type, how many discrepancies had to be open in the end.
    """

    seed: int
    seconds: float
    days: float
    trace: list[str]
    digest: str
    wrong: str | None
    counts: Counter[str]
    faults: Counter[str]
    planted: Counter[str]
    open: Counter[str]


def play(seed: int, database_url: str, redis_url: str, *, steps: int = STEPS, **settings: str) -> Played:
    """Play one seed on an empty, migrated database and an empty Redis.

    steps: how many there are before the last fault clears. settings: of the service, instead of those of the world.
    """
    began = time.perf_counter()
    wrong = None
    with a_world(seed, database_url, redis_url, **settings) as world:
        story = Story(world, steps)
        try:
            story.play()
            prove(story)
        except WentWrong as why:
            wrong = str(why)
            world.say(f"WRONG: {why}")
        [counted] = world.rows("""
            SELECT (SELECT count(*) FROM payments) AS payments, (SELECT count(*) FROM webhook_events) AS events,
                (SELECT count(*) FROM payments WHERE first_origin = 'poll') AS recovered,
                (SELECT count(*) FROM reconciliation_runs) AS runs,
                (SELECT count(*) FROM reconciliation_runs WHERE status <> 'succeeded') AS failed_runs,
                (SELECT count(*) FROM discrepancies) AS discrepancies,
                (SELECT count(*) FROM discrepancies WHERE closed_at IS NOT NULL) AS resolved""")
        counts = Counter(counted._asdict())
        counts["instances"] = len(story.instances)
        counts["deliveries"] = world.sandbox.documents.count("delivery")
        counts["calls"] = world.services.wix_responses.total()
        return Played(
            seed,
            time.perf_counter() - began,
            (world.moment - START).total_seconds() / 86_400,
            world.trace,
            world.digest(),
            wrong,
            counts,
            story.faults,
            story.planted,
            Counter(one.type for one in expected_open(story)),
        )


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """A PostgreSQL with a migrated template, and a Redis, of this run alone: their URLs."""
    started = start_servers(durable=False)
    try:
        admin_url = started.postgres.url_of("postgres")
        migrated_template(admin_url, TEMPLATE)
        yield admin_url, started.redis_url
    finally:
        stop_servers(started)


def play_alone(seed: int, admin_url: str, redis_url: str, *, steps: int = STEPS) -> Played:
    """Play one seed in a database of its own."""
    with redis.Redis.from_url(redis_url) as store:
        store.flushdb()
    with a_database(admin_url, f"simulation_{seed}_{time.time_ns()}", template=TEMPLATE) as database_url:
        return play(seed, database_url, redis_url, steps=steps)


@click.command()
@click.option("--seed", type=int, help="Replay this seed alone, and tell its story.")
@click.option("--seeds", type=click.IntRange(1), default=200, show_default=True, help="How many to play.")
@click.option("--start", type=int, default=1, show_default=True, help="The first of them.")
@click.option(
    "--steps",
    type=click.IntRange(0),
    default=STEPS,
    show_default=True,
    help="Cut each story after so many steps: a shorter one that still fails is easier to read.",
)
@click.option("--minutes", type=float, help="Begin no further story after so long.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, writable=True),
    help=f"Write the result below {HEADING.strip()!r} of this file.",
)
def main(
    seed: int | None, seeds: int, start: int, steps: int, minutes: float | None, report: Path | None
) -> None:
    """Play stories of a shop at Wix in which everything goes wrong, and prove that the books are right in the end."""
    wanted = [seed] if seed is not None else list(range(start, start + seeds))
    played: list[Played] = []
    began = time.perf_counter()
    with servers() as (admin_url, redis_url):
        for number in wanted:
            if minutes is not None and time.perf_counter() - began > minutes * 60:
                break
            one = play_alone(number, admin_url, redis_url, steps=steps)
            played.append(one)
            if seed is not None or one.wrong:
                click.echo("\n".join(one.trace))
            click.echo(
                f"seed {number}: {one.wrong or 'ok'} ({one.seconds:.1f} s, {one.counts['payments']} payments,"
                f" {one.counts['recovered']} recovered, {sum(one.open.values())} open as they must be)"
            )
            if one.wrong:
                click.echo(f"replay it: python -m tests.simulation --seed {number} --steps {steps}")
    if report is not None:
        text = report.read_text()
        head, found, _ = text.partition(HEADING)
        if not found:
            raise click.ClickException(f"{report} has no heading {HEADING.strip()!r}")
        report.write_text(head + HEADING + told(played, time.perf_counter() - began))
    sys.exit(any(one.wrong for one in played))


def told(played: Sequence[Played], seconds: float) -> str:
    """The result as Markdown."""
    counts: Counter[str] = sum((one.counts for one in played), Counter())
    faults: Counter[str] = sum((one.faults for one in played), Counter())
    planted: Counter[str] = sum((one.planted for one in played), Counter())
    open_: Counter[str] = sum((one.open for one in played), Counter())
    failed = [one for one in played if one.wrong]
    each = [one.seconds for one in played]
    summary = (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {machine.commit(ROOT)}: seeds {played[0].seed} to {played[-1].seed},"
        f" {len(played)} stories, {len(played) - len(failed)} as they must be, in {seconds / 60:.0f} min"
        f" ({statistics.median(each):.1f} s for one, the median)."
    )
    lines = [
        "",
        summary,
        "",
        *(f"- seed {one.seed} failed: {one.wrong}" for one in failed),
        *([""] if failed else []),
        "| what | how many |",
        "|---|---|",
        f"| days that passed | {sum(one.days for one in played):.0f} |",
        f"| app instances | {counts['instances']} |",
        f"| payments, of which no webhook told in time of | {counts['payments']}, {counts['recovered']} |",
        f"| events stored, after deliveries | {counts['events']}, {counts['deliveries']} |",
        f"| checks and sweeps, of which failed or died | {counts['runs']}, {counts['failed_runs']} |",
        f"| calls to Wix | {counts['calls']} |",
        f"| discrepancies, of which resolved by themselves | {counts['discrepancies']}, {counts['resolved']} |",
        f"| discrepancies that had to be open in the end, and were | {sum(open_.values())} |",
        "",
        "Faults that cleared: " + _list(faults) + ".",
        "",
        "True differences planted: " + _list(planted) + ".",
        "",
        "Open in the end, by type: " + _list(open_) + ".",
        "",
    ]
    return "\n".join(lines)


def _list(counted: Counter[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in sorted(counted.items()))
