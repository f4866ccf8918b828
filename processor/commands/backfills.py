"""`processor backfills`: what is read of a span of time once, how far it is, and when it will be through."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from processor.commands.common import (
    LOOK_SECONDS,
    Impossible,
    NotInTime,
    actor_option,
    any_instance_option,
    echo_fields,
    echo_json,
    echo_table,
    instance_option,
    json_option,
    limit_option,
    open_services,
    the_instance,
    window_options,
)
from processor.domain.discrepancy import check_person

if TYPE_CHECKING:
    from processor.store.backfills import BackfillLine
    from processor.wiring import Services

WAIT_SECONDS = 3_600


@click.group("backfills")
def backfills() -> None:
    """Read what was created in a span of time, once.

    A new installation, and a time in which nothing was polled for longer than Wix resends, are read without being
    asked for. A backfill only asks for checks; these book and raise.
    """


@backfills.command("start")
@instance_option
@window_options
@actor_option
@click.option("--here", is_flag=True, help="Work in this process instead of leaving it to a worker.")
@click.option("--wait", "is_waiting", is_flag=True, help="Show how far it is until it is through.")
@click.option(
    "--timeout",
    type=click.IntRange(1, 604_800),
    default=WAIT_SECONDS,
    show_default=True,
    help="Seconds to wait.",
)
@json_option
def start(
    instance_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    actor: str,
    here: bool,
    is_waiting: bool,
    timeout: int,
    as_json: bool,
) -> None:
    """Read the payments created since a time, or between two."""
    from processor.store import backfills as store
    from processor.store import instances

    if since is None:
        raise click.UsageError("say from when on with --since, such as --since 2026-09-01")
    check_person(actor)
    services = open_services()
    owner = the_instance(services, instance_id)
    now = services.now()
    end = min(until or now, now)
    if since >= end:
        raise Impossible("the span is empty: --since must lie before --until, and before now")
    with services.database.begin() as connection:
        status = instances.status(connection, owner)
        if status != "installed":
            raise Impossible(
                f"the app instance is {status or 'unknown'}: Wix answers for installed ones only"
            )
        backfill_id = store.request(connection, owner, since, end, reason="requested", actor=actor, now=now)
    if here or is_waiting:
        _wait(services, backfill_id, timeout, is_here=here, is_quiet=as_json)
    elif not services.queue.enqueue_backfill(owner):
        click.echo("no queue answers; the clock asks for it as soon as one does", err=True)
    _show(services, _line(services, backfill_id), as_json)


@backfills.command("list")
@any_instance_option
@limit_option
@json_option
def list_(instance_id: UUID | None, limit: int, as_json: bool) -> None:
    """List backfills, the latest first, with how far they are."""
    from processor.store import backfills as store

    services = open_services()
    with services.database.begin() as connection:
        lines = store.latest(connection, instance_id, limit)
    if as_json:
        echo_json([_told(services, line) for line in lines])
        return
    echo_table(
        ("backfill", "from", "to", "why", "status", "read", "payments", "through at"),
        [
            (
                *(line.backfill_id, line.window_from, line.window_to, line.reason, line.status),
                _share(line),
                line.payment_count,
                line.finished_at or line.finishes_at(services.now()),
            )
            for line in lines
        ],
        nothing="nothing was backfilled",
        numbers=("read", "payments"),
    )


@backfills.command("show")
@click.argument("backfill_id", type=click.UUID)
@json_option
def show(backfill_id: UUID, as_json: bool) -> None:
    """Show one backfill."""
    services = open_services()
    _show(services, _line(services, backfill_id), as_json)


@backfills.command("cancel")
@click.argument("backfill_id", type=click.UUID)
@json_option
def cancel(backfill_id: UUID, as_json: bool) -> None:
    """End a backfill where it stands; what it found stays."""
    from processor.store import backfills as store

    services = open_services()
    line = _line(services, backfill_id)
    with services.database.begin() as connection:
        if not store.cancel(connection, backfill_id, services.now()):
            raise Impossible(f"the backfill is {line.status} already")
    _show(services, _line(services, backfill_id), as_json)


def _line(services: Services, backfill_id: UUID) -> BackfillLine:
    from processor.store import backfills as store

    with services.database.begin() as connection:
        line = store.find(connection, backfill_id)
    if line is None:
        raise Impossible(f"there is no backfill {backfill_id}: `processor backfills list` has them")
    return line


def _told(services: Services, line: BackfillLine) -> dict[str, Any]:
    return {
        **{name: getattr(line, name) for name in line.__dataclass_fields__},
        "share_done": round(line.share_done, 4),
        "finishes_at": line.finishes_at(services.now()),
    }


def _share(line: BackfillLine) -> str:
    return f"{line.share_done:.0%}"


def _show(services: Services, line: BackfillLine, as_json: bool) -> None:
    if as_json:
        echo_json(_told(services, line))
        return
    echo_fields(
        (
            ("backfill", line.backfill_id),
            ("app instance", line.instance_id),
            ("created from", line.window_from),
            ("created up to", line.window_to),
            ("why", line.reason),
            ("asked for by", line.actor),
            ("asked for at", line.requested_at),
            ("status", line.status),
            ("read", f"{_share(line)}, up to {line.position_at:%Y-%m-%dT%H:%M:%SZ}"),
            ("payments", line.payment_count),
            ("Wix could not be asked", f"{line.failures} times in a row" if line.failures else None),
            ("through at about", line.finishes_at(services.now())),
            ("finished", line.finished_at),
            ("cancelled", line.cancelled_at),
        )
    )


def _wait(services: Services, backfill_id: UUID, timeout: float, *, is_here: bool, is_quiet: bool) -> None:
    """Until it has ended, saying how far it is."""
    end = time.monotonic() + timeout
    said = ""
    line = _line(services, backfill_id)
    if not is_here:
        services.queue.enqueue_backfill(line.instance_id)
    while True:
        if is_here:
            from processor import jobs

            jobs.run_backfill(services, line.instance_id, actor=line.actor)
        line = _line(services, backfill_id)
        through_at = line.finishes_at(services.now())
        left = f", {_duration(through_at - services.now())} left" if through_at else ""
        words = f"{_share(line)} read, {line.payment_count} payments{left}"
        if line.failures:
            words += "; Wix could not be asked, see `processor runs list`"
        if words != said and not is_quiet:
            click.echo(words, err=True)
            said = words
        if line.status in ("finished", "cancelled"):
            return
        if time.monotonic() >= end:
            whom = "Wix may be away" if is_here else "is a worker running? --here works in this process"
            raise NotInTime(f"not finished in time ({words}); it goes on: {whom}")
        threading.Event().wait(LOOK_SECONDS)


def _duration(left: timedelta) -> str:
    seconds = max(0, round(left.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds // 3_600} h"
