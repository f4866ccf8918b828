"""How the parts of this installation are that can be looked at quickly and from within: for `doctor` and the pages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from redis.exceptions import RedisError
from rq import Queue, Worker
from sqlalchemy.exc import ProgrammingError

from processor.channels import configured
from processor.errors import StoreUnavailable
from processor.queue import QUEUE
from processor.store import alerts, migrations, operations, silences
from processor.store.database import SERVER_VERSION_MIN, current_migration, server_version
from processor.wiring import Services

CLOCK_LATE_SECONDS = 60.0
ALERT_LATE_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. remedy: what to do, None when nothing need be done.

    is_ok: None when it could not be tried, so that nobody knows.
    """

    name: str
    is_ok: bool | None
    detail: str
    remedy: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def database(services: Services) -> list[Finding]:
    """The database, its migrations, and what it says of the clock, the backlog and the webhooks."""
    try:
        with services.database.begin() as connection:
            version = server_version(connection)
            current = current_migration(connection)
    except StoreUnavailable as why:
        return [Finding("database", False, str(why), "start PostgreSQL, or correct DATABASE_URL")]
    found = [
        Finding("database", True, f"PostgreSQL {version // 10_000}.{version % 10_000}")
        if version >= SERVER_VERSION_MIN
        else Finding(
            "database", False, f"PostgreSQL {version // 10_000}", "upgrade to PostgreSQL 15 or later"
        )
    ]
    if current != migrations.head():
        found.append(
            Finding(
                "migrations",
                False,
                f"at {current or 'nothing'}, this code wants {migrations.head()}",
                "run `processor migrate`",
            )
        )
        return found
    found.append(Finding("migrations", True, f"at {current}"))
    with services.database.begin() as connection:
        beat = operations.last_beat(connection, operations.CLOCK)
        backlog = operations.backlog(connection, services.now())
        silent = silences.silent_now(connection)
    age = (services.now() - beat).total_seconds() if beat else None
    if age is None or age > CLOCK_LATE_SECONDS:
        said = "never ticked" if age is None else f"last ticked {age:.0f} s ago"
        found.append(
            Finding("clock", False, said, "start `processor clock`; without it nothing is reconciled")
        )
    else:
        found.append(Finding("clock", True, f"ticked {max(age, 0):.0f} s ago"))
    if backlog.oldest_seconds > services.settings.lease_seconds * 2:
        found.append(
            Finding(
                "backlog",
                False,
                f"{backlog.due_links} links due, the longest for {backlog.oldest_seconds:.0f} s",
                "start `processor worker`, or more of them",
            )
        )
    else:
        found.append(Finding("backlog", True, f"{backlog.due_links} links due"))
    if silent.since is not None:
        found.append(
            Finding(
                "webhooks",
                False,
                f"{silent.number} instances are silent though Wix lists payments; {silent.longest_id} since"
                f" {silent.since.isoformat(timespec='minutes')}",
                "see that Wix reaches `web`, and that the app's webhooks of payments are switched on in its dashboard;"
                " `processor report silences` lists them",
            )
        )
    else:
        found.append(Finding("webhooks", True, "no instance is silent though Wix lists payments"))
    return found


def redis(services: Services) -> Finding:
    """Whether Redis answers."""
    if services.settings.redis_url is None:
        return Finding(
            "redis", False, "REDIS_URL is not set", "set it; worker and clock need a Redis or Valkey"
        )
    if services.queue.is_reachable():
        return Finding("redis", True, "answers")
    return Finding(
        "redis", False, "does not answer", "start it or correct REDIS_URL; webhooks are stored meanwhile"
    )


def worker(services: Services, redis: Finding) -> Finding:
    """Whether a worker serves the queue, as Redis has it: a killed one counts until RQ's mark of it expires (8 min)."""
    if not redis.is_ok or services.queue.redis is None:
        return Finding("worker", None, "not tried: Redis knows the workers", "mend Redis first")
    try:
        keys = Worker.all_keys(queue=Queue(QUEUE, connection=services.queue.redis))
        number = int(services.queue.redis.exists(*keys)) if keys else 0
    except RedisError as why:
        return Finding("worker", None, f"not tried: {type(why).__name__}", "mend Redis first")
    if number == 0:
        return Finding(
            "worker", False, "none is running", "start `processor worker`; without one nothing is checked"
        )
    return Finding("worker", True, f"{number} running")


def alert_channels(services: Services) -> Finding:
    """Whether what persons are told reaches them. That no channel is set is well: the log has every alert."""
    channels = configured(services.settings)
    try:
        with services.database.begin() as connection:
            states = alerts.channel_states(connection, services.now())
    except (StoreUnavailable, ProgrammingError) as why:  # no table yet, for one; said above
        return Finding("alerts", None, f"not tried: {type(why).__name__}", "mend the database first")
    for state in states:
        if state.channel not in channels and state.waiting:
            return Finding(
                "alerts",
                False,
                f"{state.waiting} messages wait for the channel {state.channel}, which is not configured any more",
                "set its variables again; `processor settings` explains them",
            )
        why_not = f": {state.last_error}" if state.last_error else ""
        if state.given_up:
            return Finding(
                "alerts",
                False,
                f"{state.given_up} messages by {state.channel} were given up within {alerts.GIVEN_UP_TOLD.days} days"
                f"{why_not}",
                "mend the receiver, see `processor alerts test`, then run `processor alerts retry --all`",
            )
        if state.oldest_seconds > ALERT_LATE_SECONDS:
            return Finding(
                "alerts",
                False,
                f"{state.waiting} messages wait for {state.channel}, the oldest for {state.oldest_seconds:.0f} s"
                f"{why_not}",
                "see what `processor alerts test` says, and that a worker runs",
            )
    if not channels:
        where = "the log alone" if services.settings.alert_log else "nobody"
        return Finding("alerts", True, f"told to {where}: no ALERT_WEBHOOK_URL and no ALERT_SMTP_URL is set")
    return Finding("alerts", True, f"told by {' and '.join(channels)}")
