"""`processor reconcile` and `processor replay`."""

from __future__ import annotations

import math
import time
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from processor.commands.common import (
    LIMIT_MAX,
    LOOK_SECONDS,
    Impossible,
    NotInTime,
    accepted_words,
    actor_option,
    any_instance_option,
    echo_json,
    echo_table,
    instance_option,
    json_option,
    open_services,
    shown,
    the_instance,
    window_options,
)
from processor.domain.discrepancy import check_person

if TYPE_CHECKING:
    from processor.store.listings import AcceptedLine, CheckLine, Description
    from processor.store.reports import LinkReport
    from processor.wiring import Services

EXIT_NO = 1
WAIT_SECONDS = 600
UNREAD_LINES_MAX = 500  # deliveries that are listed one by one
NOBODY = "unnamed person"
"""Who works here without a login and without --as."""


@click.command("reconcile")
@click.option(
    "--link", "link_ids", type=click.UUID, multiple=True, help="This payment link; may be given often."
)
@instance_option
@window_options
@click.option("--here", is_flag=True, help="Work in this process instead of leaving it to a worker.")
@click.option("--no-wait", is_flag=True, help="Only ask for it.")
@click.option("--settle", is_flag=True, help="Wait until nothing is expected to change any more.")
@click.option(
    "--timeout",
    type=click.IntRange(1, 86_400),
    help="Seconds to wait; without it ten minutes, and with --settle the settling time more.",
)
@actor_option
@json_option
def reconcile(
    link_ids: tuple[UUID, ...],
    instance_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    here: bool,
    no_wait: bool,
    settle: bool,
    timeout: int | None,
    actor: str,
    as_json: bool,
) -> None:
    """Compare our books with what Wix says now.

    Of some links, of a whole app instance, or of what was created in a window.

    What a worker does is its own act; with --here it is that of the person named by --as.

    Without --link, payments that nobody told us of are looked for as well. Ends with 1 when a discrepancy
    is open.
    """
    services = open_services()
    owner = _owner(services, link_ids, instance_id)
    if timeout is None:
        timeout = WAIT_SECONDS + (_settling_seconds(services) if settle else 0)
    if here:
        actor = actor or NOBODY
        check_person(actor)
    waiting = _Waiting(services, owner, timeout, actor=actor if here else None, is_quiet=as_json)
    if link_ids and (since or until):
        raise Impossible("--since and --until choose payments and links by their creation: leave out --link")
    if not link_ids:
        _refuse_too_many(services, owner, since, until)
        asked_at = services.now()
        _ask_for_sweep(services, owner, since, until, asked_at)
        if not no_wait:
            waiting.until_swept(asked_at)
    else:
        _refuse_stranger(services, owner, ("installed", "unconfirmed"))
    # What the sweep found suspicious is due by now, links we never heard of among it.
    links = list(link_ids) or _known_links(services, owner, since, until)
    wanted = _ask_for_checks(services, owner, links)
    if no_wait:
        services.queue.wake_up()
        if as_json:
            echo_json({"instance_id": owner, "asked": links})
        else:
            click.echo(f"asked for a check of {len(links)} payment link{'' if len(links) == 1 else 's'}")
        return
    waiting.until_checked(wanted, settle=settle)
    _report(services, owner, links, as_json)


def _settling_seconds(services: Services) -> int:
    """How long what is found now may be settling: until the first look after it is old enough."""
    settling, gaps = services.settings.settling_seconds, services.settings.recheck_seconds
    looked = 0.0
    for gap in gaps:
        looked += gap
        if looked >= settling:
            break
    return math.ceil(max(settling, looked))


def _owner(services: Services, link_ids: tuple[UUID, ...], instance_id: UUID | None) -> UUID:
    from processor.store import listings

    if instance_id is None and link_ids:
        with services.database.begin() as connection:
            owners = {one for link in link_ids for one in listings.instance_of_link(connection, link)}
        if len(owners) == 1:
            return owners.pop()
    return the_instance(services, instance_id)


def _ask_for_sweep(
    services: Services, owner: UUID, since: datetime | None, until: datetime | None, now: datetime
) -> None:
    from processor.store import sweeps

    overlap = timedelta(seconds=services.settings.sweep_overlap_seconds)
    start, end = since or now - overlap, min(until or now, now)
    if start >= end:
        raise Impossible("the window is empty: --since must lie before --until, and before now")
    _refuse_stranger(services, owner)
    with services.database.begin() as connection:
        sweeps.request(connection, owner, start, end, now)


def _refuse_stranger(services: Services, owner: UUID, allowed: tuple[str, ...] = ("installed",)) -> None:
    from processor.store import instances

    with services.database.begin() as connection:
        status = instances.status(connection, owner)
    if status not in allowed:
        raise Impossible(f"the app instance is {status or 'unknown'}: Wix answers for installed ones only")


def _known_links(
    services: Services, owner: UUID, since: datetime | None, until: datetime | None
) -> list[UUID]:
    from processor.store import checks, listings

    by = listings.Narrowing(instance_id=owner, since=since, until=until)
    with services.database.begin() as connection:
        found = listings.links_paid(connection, by, LIMIT_MAX)
        while checks.drain(connection, services.now()) == checks.DRAIN_MAX:
            pass
        due = listings.links_due(connection, owner, LIMIT_MAX)
    return sorted({link_id for _, link_id in found} | set(due))


def _refuse_too_many(services: Services, owner: UUID, since: datetime | None, until: datetime | None) -> None:
    from processor.store import listings

    by = listings.Narrowing(instance_id=owner, since=since, until=until)
    with services.database.begin() as connection:
        found = listings.links_paid(connection, by, LIMIT_MAX + 1)
    if len(found) > LIMIT_MAX:
        raise Impossible(f"more than {LIMIT_MAX} payment links: narrow the window with --since and --until")


def _ask_for_checks(services: Services, owner: UUID, links: list[UUID]) -> dict[UUID, int]:
    """Ask for checks. Returns the generation that answers it, by link."""
    from processor.store import checks, listings

    if not links:
        return {}
    with services.database.begin() as connection:
        checks.request(connection, owner, links, services.now())
    with services.database.begin() as connection:
        while checks.drain(connection, services.now()) == checks.DRAIN_MAX:
            pass
        return {one.payment_link_id: one.wanted for one in listings.link_checks(connection, owner, links)}


class _Waiting:
    """Waits for a sweep and for checks, showing how far they are. actor: who does them here, None for a worker."""

    def __init__(
        self, services: Services, owner: UUID, timeout: float, *, actor: str | None, is_quiet: bool
    ) -> None:
        self._services = services
        self._owner = owner
        self._end = time.monotonic() + timeout
        self._actor = actor
        self._is_quiet = is_quiet
        self._said = ""
        self._is_settling = False  # everything was checked, and time has to pass

    def until_swept(self, since: datetime) -> None:
        """Until the sweep asked for at `since` has ended."""
        from processor import jobs
        from processor.store import sweeps

        if self._actor is None:
            self._services.queue.enqueue_sweep(self._owner)
        while True:
            if self._actor is not None:
                while jobs.run_sweep(self._services, self._owner, actor=self._actor):
                    pass
            with self._services.database.begin() as connection:
                if not sweeps.is_under_way(connection, self._owner, since):
                    return
            self._say("looking for payments nobody told us of")
            self._pause()

    def until_checked(self, wanted: dict[UUID, int], *, settle: bool) -> None:
        """Until the checks of these generations have ended."""
        if self._actor is None:
            self._services.queue.enqueue_check(self._owner)
        while True:
            if self._actor is not None:
                from processor import jobs

                jobs.run_check(self._services, self._owner, actor=self._actor)
            found = self._checks(list(wanted))
            done = [one for one in found if one.checked >= wanted[one.payment_link_id]]
            open_ends = [one for one in done if settle and not one.is_settled]
            self._is_settling = len(done) >= len(wanted)
            self._say(
                f"{len(done)} of {len(wanted)} payment links checked"
                + (f", {len(open_ends)} still settling" if open_ends else "")
            )
            if len(done) >= len(wanted) and not open_ends:
                return
            self._pause()

    def _checks(self, links: list[UUID]) -> list[CheckLine]:
        from processor.store import listings

        with self._services.database.begin() as connection:
            return listings.link_checks(connection, self._owner, links)

    def _pause(self) -> None:
        import threading

        left = self._end - time.monotonic()
        if left <= 0:
            if self._is_settling:
                seconds = _settling_seconds(self._services)
                raise NotInTime(
                    f"not finished in time ({self._said}): a difference is given up to {seconds} s to pass;"
                    " --timeout waits longer"
                )
            whom = (
                "Wix may be away, or the links wait for their time"
                if self._actor is not None
                else "is a worker running? --here works in this process"
            )
            raise NotInTime(
                f"not finished in time ({self._said}): {whom}; `processor doctor` looks at everything"
            )
        threading.Event().wait(min(LOOK_SECONDS, left))

    def _say(self, words: str) -> None:
        if words != self._said and not self._is_quiet:
            click.echo(words, err=True)
        self._said = words


def _report(services: Services, owner: UUID, links: list[UUID], as_json: bool) -> None:
    from processor.store import listings, reports

    with services.database.begin() as connection:
        books = reports.links(connection, owner, LIMIT_MAX, link_ids=links)
        described = listings.descriptions(connection, owner, links)
        checks = {one.payment_link_id: one for one in listings.link_checks(connection, owner, links)}
        by = listings.Narrowing(instance_id=owner)
        found = listings.open_discrepancies(connection, by, LIMIT_MAX, link_ids=links)
        accepted = listings.accepted(connection, owner, links, LIMIT_MAX)
    settling = [link_id for link_id, one in checks.items() if not one.is_settled]
    strangers = sorted(set(links) - described.keys() - {one.payment_link_id for one in books})
    if as_json:
        echo_json(
            {
                "instance_id": owner,
                "links": books,
                "settling": settling,
                "unknown": strangers,
                "open_discrepancies": found,
                "accepted": accepted,
            }
        )
    else:
        _show_links(links, books, described, checks, accepted)
        _say_discrepancies(found, accepted, settling, strangers, services.settings.settling_seconds)
    if strangers:
        raise Impossible(
            f"Wix does not know payment link {', '.join(map(str, strangers))}, and nothing is booked under it"
        )
    if found:
        raise click.exceptions.Exit(EXIT_NO)


def _show_links(
    links: list[UUID],
    books: list[LinkReport],
    described: dict[UUID, Description],
    checks: dict[UUID, CheckLine],
    accepted: list[AcceptedLine],
) -> None:
    """Both sides of every link, and how it stands."""
    by_link: dict[UUID, list[AcceptedLine]] = {}
    for line in accepted:
        by_link.setdefault(line.payment_link_id, []).append(line)
    booked: dict[UUID, list[LinkReport]] = {}
    for one in books:
        booked.setdefault(one.payment_link_id, []).append(one)
    rows = []
    for link_id in sorted({*booked, *(link_id for link_id in links if link_id in described)}):
        told, check = described.get(link_id), checks.get(link_id)
        ours = booked.get(link_id, [])
        differences = sorted({type_ for one in ours for type_ in one.discrepancies})
        if differences:
            state = ", ".join(differences)
        elif check is not None and not check.is_settled:
            state = f"settling, looked at again {shown(check.due_at)}" if check.due_at else "settling"
        else:
            state = accepted_words(by_link.get(link_id, [])) or "matched"
        rows.append(
            (
                link_id,
                told.title if told else None,
                "; ".join(filter(None, (_money(one.payments, one.amount, one.currency) for one in ours))),
                None
                if told is None or told.missing_since
                else _money(told.payment_count, told.total_amount, told.currency),
                state,
            )
        )
    echo_table(
        ("payment link", "title", "booked", "Wix", "state"), rows, nothing="no payment links were checked"
    )


def _money(payments: int | None, amount: Decimal | None, currency: str | None) -> str | None:
    """ "60.00 USD in 1", None where nothing is known."""
    from processor.domain.money import shown as with_decimals

    if amount is None or currency is None:
        return None
    return f"{with_decimals(amount, currency)} {currency} in {payments or 0}"


def _say_discrepancies(
    found: list[Any],
    accepted: list[AcceptedLine],
    settling: list[UUID],
    strangers: list[UUID],
    settling_seconds: float,
) -> None:
    from processor.domain.discrepancy import EXPLANATIONS, DiscrepancyType

    for type_, number in sorted(Counter(one.type for one in found).items()):
        click.echo(f"{number} {type_}: {EXPLANATIONS[DiscrepancyType(type_)]}")
    if settling:
        click.echo(
            f"{len(settling)} payment link{' is' if len(settling) == 1 else 's are'} still settling: a difference"
            f" younger than {settling_seconds:g} s is expected to pass; --settle waits for it"
        )
    elif not found and not strangers:
        words = accepted_words(accepted)
        click.echo(
            f"nothing is open; accepted: {words}"
            if words
            else "nothing is open: the books equal what Wix says"
        )


# -- Replay ----------------------------------------------------------------------------------------


@click.command("replay")
@click.option("--event", "event_id", type=click.UUID, help="One event.")
@any_instance_option
@click.option("--payment", "payment_id", type=click.UUID, help="Events about this payment.")
@click.option("--link", "payment_link_id", type=click.UUID, help="Events about this payment link.")
@click.option(
    "--status", type=click.Choice(("recorded", "ignored", "unreadable")), help="Events that stand so."
)
@window_options
@click.option("--all", "is_all", is_flag=True, help="Every event there is.")
@click.option(
    "--unread", "is_unread", is_flag=True, help="Deliveries of which not even the app instance could be read."
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Only say what would change.")
@json_option
def replay(
    event_id: UUID | None, is_all: bool, is_unread: bool, is_dry: bool, as_json: bool, **narrowing: Any
) -> None:
    """Read stored events anew and book what is news.

    Over good data nothing changes.
    """
    from processor.replay import one, replay_one
    from processor.replay import replay as replay_all
    from processor.store.listings import Narrowing

    services = open_services()
    if is_unread:
        if event_id is not None or is_all or any(value is not None for value in narrowing.values()):
            raise Impossible("--unread stands alone: nothing more is known of what could not be read")
        _read_again(services, is_dry=is_dry, as_json=as_json)
        return
    if event_id is not None:
        found = one(services, event_id, narrowing["instance_id"])
        if not found:
            raise Impossible("no such event: `processor events list` shows what there is")
        told = iter([replay_one(services, event, is_dry=is_dry) for event in found])
    elif is_all or any(value is not None for value in narrowing.values()):
        told = replay_all(services, Narrowing(**narrowing), is_dry=is_dry)
    else:
        raise Impossible("say which: --event, a window, another option, --all, or --unread")
    counts: Counter[str] = Counter()
    news: list[Any] = []
    for step in told:
        counts[step.left.value if step.left else "applied"] += 1
        if step.left is None:
            news.append(step)
    if not is_dry and news:
        services.queue.wake_up()
    if as_json:
        lines = [
            {"event_id": s.event.event_id, "instance_id": s.event.instance_id, "verdict": s.verdict}
            for s in news
        ]
        echo_json({"is_dry_run": is_dry, "counts": dict(counts), "news": lines})
        return
    echo_table(
        ("event", "type", "payment or link", "verdict", "was"),
        [
            (
                step.event.event_id,
                step.event.event_type.rsplit(".", 1)[-1],
                step.event.entity_id,
                step.verdict,
                step.event.status,
            )
            for step in news
        ],
        nothing="no news: nothing " + ("would change" if is_dry else "was changed"),
    )
    done = "would be applied" if is_dry else "applied"
    words = {"applied": done, "not_news": "known already", "no_payment": "about no payment"}
    click.echo(
        ", ".join(f"{number} {words.get(name, name)}" for name, number in sorted(counts.items()))
        or "no event"
    )


def _read_again(services: Services, *, is_dry: bool, as_json: bool) -> None:
    """All of them: what is left says why, and is found again the next time."""
    from processor import replay

    lines = list(replay.read_all_again(services, is_dry=is_dry))
    if not is_dry and any(one.left is None for one in lines):
        services.queue.wake_up()
    if as_json:
        echo_json(
            {
                "is_dry_run": is_dry,
                "deliveries": [
                    {
                        "token_digest": one.token_digest.hex(),
                        "instance_id": one.instance_id,
                        "event_id": one.event_id,
                        "outcome": one.outcome,
                        "left": one.left,
                    }
                    for one in lines
                ],
            }
        )
        return
    echo_table(
        ("delivery", "event", "instance", "what became of it"),
        [
            (
                one.token_digest.hex()[:16],
                one.event_id,
                one.instance_id,
                f"left: {one.left.replace('_', ' ')}" if one.left else one.outcome or "would be read",
            )
            for one in lines[:UNREAD_LINES_MAX]
        ],
        nothing="no delivery is unread",
    )
    if lines:
        left = Counter(one.left for one in lines if one.left)
        whys = ", ".join(f"{number} {why.replace('_', ' ')}" for why, number in sorted(left.items()))
        read = len(lines) - left.total()
        click.echo(
            f"{read} {'would be read' if is_dry else 'read'}, {left.total()} left"
            + (f": {whys}" if whys else "")
        )
    if len(lines) > UNREAD_LINES_MAX:
        click.echo(f"only the oldest {UNREAD_LINES_MAX} are listed; --json shows all")
