"""The list of payments: narrowed down, in pages, added up and exported; and all that is known of one.

Payments are read in the order of an index, whatever else narrows them down, so that a page costs what it reads and no
more than LOOKED_MAX. Where a filter finds less than a page in so many, the page says how far it looked, and the next
one goes on there. See migrations 0020 and 0026 for the indexes.

By amount there is an index of all payments alone. So what is narrowed down to SORTED_MAX of them by an index of dates
is read and sorted; of what fits more payments than those, one finds some among those that the index of amounts reads.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from operator import attrgetter
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    Uuid,
    and_,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)

from processor.domain.access import Reach
from processor.domain.reconciliation import Recovery
from processor.store.screens import refunded
from processor.store.screens.common import keep_to_order, within
from processor.store.screens.keyset import PAGE, Position, at_other_side, beside
from processor.store.tables import AppInstance, PaymentLinkRow, PaymentRow, is_any_of

LOOKED_MAX = 2_500  # payments that one page reads to find those of a filter
SORTED_MAX = 5_000  # payments that are sorted by amount for one page; of more, the index of amounts is read
INSTANCES_MAX = 25  # a list over more of them, but not all, is read from the list of all
IDS_MAX = 50
LINKS_MAX = 10
TITLES_MAX = 500  # links of each instance whose titles are looked through, the newest
PREFIX_MIN = 6  # letters of an id: fewer are more likely a word
_HEX = re.compile(rf"[0-9a-f]{{{PREFIX_MIN},32}}", re.ASCII)
_INFINITY: Any = literal_column("timestamptz 'infinity'")
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)

UNCHECKED = "unchecked"  # as a state: not checked yet
ANY, NONE = "any", "none"  # as a recovery


class Order(StrEnum):
    """What comes first. By amount only payments of one currency whose creation date is known have an order."""

    NEWEST = "newest"
    OLDEST = "oldest"
    LARGEST = "largest"
    SMALLEST = "smallest"

    @property
    def is_by_amount(self) -> bool:
        """Not by creation."""
        return self in (Order.LARGEST, Order.SMALLEST)

    @property
    def goes_down(self) -> bool:
        """Whether what is compared gets less."""
        return self in (Order.NEWEST, Order.LARGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What the list is narrowed down to; None for what does not matter.

    since, until: created in [since, until). is_undated: those whose creation date Wix did not say, and no others; since
    and until do not matter then. state: a match_state, or UNCHECKED. recovery: one, ANY or NONE. refunded: a state
    of refunds, or ANY for all but NONE. text: see `seek`.
    """

    instance_id: UUID | None = None
    payment_link_id: UUID | None = None
    currency: str | None = None
    type: str | None = None
    method: str | None = None
    state: str | None = None
    recovery: str | None = None
    amount_from: Decimal | None = None
    amount_to: Decimal | None = None
    refunded: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    is_undated: bool = False
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A payment as booked; see `store.tables.PaymentRow`."""

    created_at: datetime | None
    instance_id: UUID
    payment_id: UUID
    payment_link_id: UUID
    revision: int
    amount: Decimal
    currency: str
    type: str | None
    method: str | None
    payment_method: str | None
    payment_provider: str | None
    transaction_at: datetime | None
    receipt_id: UUID | None
    ecom_order_id: str | None
    ecom_checkout_id: str | None
    first_origin: str
    match_state: str | None
    recovery: str | None
    stored_at: datetime


_LINE = tuple(Line.__dataclass_fields__)
_COLUMNS = [getattr(PaymentRow, name) for name in _LINE]
_UNDATED = ("instance_id", "payment_id")
_BY_DATE = ("created_at", *_UNDATED)
_BY_AMOUNT = ("amount", *_BY_DATE)


# -- What a text means -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """A payment link. instance_id, title: None when Wix has not described it."""

    instance_id: UUID | None
    payment_link_id: UUID
    title: str | None


@dataclass(frozen=True, slots=True)
class Sought:
    """What a text was found to mean: payments, else links, else neither.

    Then it is looked for as the id of a receipt, order or checkout among the payments that are read.
    """

    text: str
    payments: tuple[tuple[UUID, UUID], ...] = ()
    links: tuple[Link, ...] = ()


def seek(connection: Connection, by: Filter, reach: Reach) -> Sought | None:
    """Find what the text of a filter means, None without one.

    The first letters of a payment's or link's id, at least PREFIX_MIN; or part of the title of one of the newest
    TITLES_MAX links of each of INSTANCES_MAX instances.
    """
    if not by.text:
        return None
    keep_to_order(connection)
    hexadecimal = by.text.lower().replace("-", "")
    if _HEX.fullmatch(hexadecimal):
        first, last = (UUID(hexadecimal.ljust(32, letter)) for letter in "0f")
        payments = _by_id(connection, PaymentRow, PaymentRow.payment_id, first, last, by, reach, IDS_MAX)
        if payments:
            return Sought(by.text, payments=tuple((row[0], row[1]) for row in payments))
        key = PaymentLinkRow.payment_link_id
        links = _by_id(connection, PaymentLinkRow, key, first, last, by, reach, LINKS_MAX)
        if links:
            titles = titles_of(connection, [(row[0], row[1]) for row in links])
            found = tuple(Link(row[0], row[1], titles.get((row[0], row[1]))) for row in links)
            return Sought(by.text, links=found)
        if first == last and _has_payments(connection, first, reach):
            return Sought(by.text, links=(Link(None, first, None),))
    return Sought(by.text, links=tuple(_titled(connection, by, reach)))


def _has_payments(connection: Connection, link_id: UUID, reach: Reach) -> bool:
    row = PaymentRow
    # A link is of one instance. Were that asked for, too, its index would come into question.
    owners = connection.execute(
        select(row.instance_id).where(row.payment_link_id == link_id).limit(10)
    ).scalars()
    return any(reach.holds(owner) for owner in owners)


def _instances(by: Filter, reach: Reach) -> Select[Any]:
    row = AppInstance
    chosen = [] if by.instance_id is None else [row.instance_id == by.instance_id]
    return select(row.instance_id).where(*within(row.instance_id, reach), *chosen)


def _by_id(
    connection: Connection,
    table: Any,
    column: Any,
    first: UUID,
    last: UUID,
    by: Filter,
    reach: Reach,
    limit: int,
) -> list[Any]:
    """(instance, id) of what has an id within [first, last], by the key of each instance."""
    instances = _instances(by, reach).subquery("i")
    found = (
        select(column.label("id"))
        .where(table.instance_id == instances.c.instance_id, column.between(first, last))
        .order_by(column)
        .limit(limit)
        .lateral("f")
    )
    return list(
        connection.execute(
            select(instances.c.instance_id, found.c.id).join(found, true()).order_by(found.c.id).limit(limit)
        )
    )


def _titled(connection: Connection, by: Filter, reach: Reach) -> list[Link]:
    row = PaymentLinkRow
    instances = _instances(by, reach).order_by(AppInstance.instance_id).limit(INSTANCES_MAX).subquery("i")
    newest = (
        select(row.payment_link_id, row.title, row.created_at)
        .where(row.instance_id == instances.c.instance_id)
        .order_by(row.instance_id.desc(), row.created_at.desc())
        .limit(TITLES_MAX)
        .lateral("l")
    )
    found = connection.execute(
        select(instances.c.instance_id, newest.c.payment_link_id, newest.c.title)
        .join(newest, true())
        .where(newest.c.title.icontains(by.text, autoescape=True))
        .order_by(newest.c.created_at.desc().nulls_last(), newest.c.payment_link_id)
        .limit(LINKS_MAX)
    )
    return [Link(*line) for line in found]


def titles_of(
    connection: Connection, links: Collection[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], str | None]:
    """Titles by (instance, link), of those that Wix described."""
    row = PaymentLinkRow
    if not links:
        return {}
    found = connection.execute(
        select(row.instance_id, row.payment_link_id, row.title).where(
            is_any_of(row.instance_id, {instance_id for instance_id, _ in links}),
            is_any_of(row.payment_link_id, {link_id for _, link_id in links}),
        )
    )
    return {(line[0], line[1]): line[2] for line in found}


def instances(connection: Connection, reach: Reach, limit: int = 200) -> list[UUID]:
    """Ids of the instances that may be seen, by when they were first seen."""
    row = AppInstance
    return list(
        connection.execute(
            select(row.instance_id)
            .where(*within(row.instance_id, reach))
            .order_by(row.first_seen_at, row.instance_id)
            .limit(limit)
        ).scalars()
    )


def has_undated(connection: Connection, reach: Reach) -> bool:
    """Whether there is a payment without a creation date."""
    row = PaymentRow
    found = connection.execute(
        select(literal(1)).where(row.created_at.is_(None), *within(row.instance_id, reach)).limit(1)
    )
    return found.first() is not None


# -- Ways through the payments ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Way:
    """A way through payments that one index answers, and no other.

    lead: what its index begins with, None for that of all payments; value: what that is on this way. instance_id: the
    only one on the way, whose index has no other in it; else None. since, until: created in [since, until). The key of
    a payment is (created_at, instance_id, payment_id), without the first when is_undated, with the amount before it
    currency is said: then it goes by amount, of that currency alone, and least and most bound it, both included.
    is_partial: the index has only payments that have the lead.

    That the lead is `value` is said as a range, and its column is part of the order: were it said to be equal, the
    index of all payments would have that order as well, and PostgreSQL, which thinks that what fits lies spread evenly,
    might read it for years past a shop that closed.
    """

    lead: Any = None
    value: Any = None
    instance_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    is_undated: bool = False
    is_partial: bool = False
    currency: str | None = None
    least: Decimal | None = None
    most: Decimal | None = None

    @property
    def is_by_amount(self) -> bool:
        """Not by creation."""
        return self.currency is not None

    @property
    def order(self) -> tuple[str, ...]:
        """The names of the columns of the key, the instance left out where there is one alone."""
        if self.is_by_amount:
            return _BY_AMOUNT
        if self.is_undated:
            return _UNDATED
        if self.instance_id is not None:
            return ("created_at", "payment_id")
        return _BY_DATE

    @property
    def knows_links(self) -> bool:
        """Whether it leads to the payments of a link alone, where a link is asked for."""
        return not (self.is_undated or self.is_by_amount)

    def conditions(
        self, after: Position | None = None, *, goes_down: bool = True
    ) -> list[ColumnElement[bool]]:
        """Of which payments it is: of all, or of those behind the one of the key of `after`.

        Each side has one bound, the narrower. Of two an index may begin at the wider, and pass over all between.
        """
        created_at = PaymentRow.created_at
        if self.is_undated:
            return [
                created_at.is_(None),
                *([] if after is None else [self.behind(after, goes_down=goes_down)]),
            ]
        if self.is_by_amount:
            return self._of_amounts(after, goes_down=goes_down)
        since, until, found = self.since, self.until, []
        is_low = is_high = False
        if after is not None:
            is_high = goes_down and (until is None or after.key[0] < until)
            is_low = not goes_down and (since is None or after.key[0] >= since)
            if is_high or is_low:
                found.append(self.behind(after, goes_down=goes_down))
        if self.is_partial:
            found.append(self.lead.is_not(None))
        if self.lead is None:
            if not is_low and since is not None:
                found.append(created_at >= since)
            if not is_high:
                found.append(created_at.is_not(None) if until is None else created_at < until)
            return found
        here = func.row(self.lead, created_at)
        if not is_low:
            found.append(self.lead >= self.value if since is None else here >= func.row(self.value, since))
        if not is_high:
            # Infinity comes before NULL.
            end = here <= func.row(self.value, _INFINITY)
            found.append(end if until is None else here < func.row(self.value, until))
        return found

    def _of_amounts(self, after: Position | None, *, goes_down: bool) -> list[ColumnElement[bool]]:
        # The currency is not part of the order: of a row that begins with it PostgreSQL would think that next to none
        # comes after another, as next to none is of a lesser currency, and read another index.
        row = PaymentRow
        found: list[ColumnElement[bool]] = [row.currency == self.currency, row.created_at.is_not(None)]
        is_high = after is not None and goes_down and (self.most is None or after.key[0] <= self.most)
        is_low = after is not None and not goes_down and (self.least is None or after.key[0] >= self.least)
        if after is not None and (is_high or is_low):
            found.append(self.behind(after, goes_down=goes_down))
        if not is_low and self.least is not None:
            found.append(row.amount >= self.least)
        if not is_high and self.most is not None:
            found.append(row.amount <= self.most)
        return found

    def sorted(self, columns: Any, lead: Any, *, goes_down: bool) -> list[Any]:
        """What to sort by. columns: of payments; lead: the column that has it."""
        keys = [getattr(columns, name) for name in self.order]
        keys = keys if self.lead is None else [lead, *keys]
        return [key.desc() if goes_down else key.asc() for key in keys]

    def behind(self, after: Position, *, goes_down: bool) -> ColumnElement[bool]:
        """That a payment comes after the one of this key, which may be of another way, or is it where that counts."""
        key, includes = after.key, after.includes
        if self.instance_id is not None:
            # Of one moment, all those of a lower instance come after it when going down, and none of a higher.
            created_at, instance_id, payment_id = key
            if self.instance_id != instance_id:
                includes = (self.instance_id < instance_id) == goes_down
                payment_id = _LAST if includes == goes_down else _FIRST
            key = (created_at, payment_id)
        columns: list[Any] = [getattr(PaymentRow, name) for name in self.order]
        place = [literal(value, one.type) for value, one in zip(key, columns, strict=True)]
        if self.lead is not None:
            columns, place = [self.lead, *columns], [self.value, *place]
        return beside(func.row(*columns), func.row(*place), goes_down=goes_down, includes=includes)


def _ways(by: Filter, reach: Reach, sought: Sought | None) -> list[_Way]:
    """The ways that together lead to every payment of a filter, and no two to the same."""
    row = PaymentRow
    if by.is_undated:
        return [_Way(is_undated=True)]
    way = _Way(since=by.since, until=by.until)
    link_ids = []
    if by.payment_link_id is not None:
        link_ids = [by.payment_link_id]
    elif sought is not None:
        link_ids = sorted({link.payment_link_id for link in sought.links})
    if link_ids:
        return [replace(way, lead=row.payment_link_id, value=literal(one, Uuid())) for one in link_ids]
    if by.recovery not in (None, NONE):
        codes = Recovery if by.recovery == ANY else [by.recovery]
        return [
            replace(way, lead=row.recovery, value=literal(str(code), Text()), is_partial=True)
            for code in codes
        ]
    one = by.instance_id
    alone = [one] if one is not None else sorted(reach.instance_ids) if reach.instance_ids is not None else []
    if 0 < len(alone) <= INSTANCES_MAX:
        return [
            replace(
                way,
                lead=func.uuid_send(row.instance_id),
                value=func.uuid_send(literal(instance_id, Uuid())),
                instance_id=instance_id,
            )
            for instance_id in alone
        ]
    return [way]


def _by_amount(by: Filter) -> _Way:
    """The way through all payments of a currency, whatever else narrows them down."""
    return _Way(currency=by.currency, least=by.amount_from, most=by.amount_to)


def _are_few(connection: Connection, ways: Sequence[_Way]) -> bool:
    """Whether no more than SORTED_MAX payments are on these ways. Reads no more than that, of an index alone."""
    left = SORTED_MAX
    for way in ways:
        if way.lead is None and way.since is None and way.until is None:
            return False  # all that there are: their index has them sorted
        some = (
            select(literal(1))
            .where(*way.conditions())
            .order_by(*way.sorted(PaymentRow, way.lead, goes_down=True))
            .limit(left + 1)
            .subquery("some")
        )
        left -= connection.execute(select(func.count()).select_from(some)).scalar_one()
        if left < 0:
            return False
    return True


def _rest(columns: Any, by: Filter, reach: Reach, sought: Sought | None, way: _Way) -> list[Any]:
    """Conditions of a filter that its way does not answer. columns: of payments."""
    found: list[Any] = []
    if way.instance_id is None:
        found += within(columns.instance_id, reach)
        if by.instance_id is not None:
            found.append(columns.instance_id == by.instance_id)
    if by.payment_link_id is not None and not way.knows_links:
        found.append(columns.payment_link_id == by.payment_link_id)
    if way.is_by_amount:
        found += [columns.created_at >= by.since] if by.since is not None else []
        found += [columns.created_at < by.until] if by.until is not None else []
    for name in ("currency", "type", "method"):
        value = getattr(by, name)
        if value is not None and not (name == "currency" and way.is_by_amount):
            found.append(getattr(columns, name) == value)
    if by.state is not None:
        state = columns.match_state
        found.append(state.is_(None) if by.state == UNCHECKED else state == by.state)
    if way.is_partial:
        pass
    elif by.recovery == NONE:
        found.append(columns.recovery.is_(None))
    elif by.recovery == ANY:
        found.append(columns.recovery.is_not(None))
    elif by.recovery is not None:
        found.append(columns.recovery == by.recovery)
    if by.amount_from is not None and not way.is_by_amount:
        found.append(columns.amount >= by.amount_from)
    if by.amount_to is not None and not way.is_by_amount:
        found.append(columns.amount <= by.amount_to)
    if by.refunded is not None:
        state = refunded.state_of(columns)
        found.append(state != NONE if by.refunded == ANY else state == by.refunded)
    if sought is not None:
        found += _means(columns, sought, by, way)
    return found


def _means(columns: Any, sought: Sought, by: Filter, way: _Way) -> list[Any]:
    if sought.payments:
        return [tuple_(columns.instance_id, columns.payment_id).in_(sought.payments)]
    if sought.links:
        if by.payment_link_id is None and way.knows_links:
            return []
        return [is_any_of(columns.payment_link_id, {link.payment_link_id for link in sought.links})]
    among = [columns.ecom_order_id == sought.text, columns.ecom_checkout_id == sought.text]
    with contextlib.suppress(ValueError):
        among.append(columns.receipt_id == UUID(sought.text))
    return [or_(*among)]


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read on one way. stop: the key of the last payment that was looked at, None when not cut short."""

    lines: list[Line]
    stop: tuple[Any, ...] | None


def _key_of(by: Filter, order: Order) -> Callable[[Line], tuple[Any, ...]]:
    """The key of a line in an order. Raises ValueError where there is none: see Order."""
    if order.is_by_amount and (by.currency is None or by.is_undated):
        raise ValueError("only payments of one currency, with a date, have an order by amount")
    names = _BY_AMOUNT if order.is_by_amount else _UNDATED if by.is_undated else _BY_DATE
    return attrgetter(*names)


def _read(
    connection: Connection,
    way: _Way,
    by: Filter,
    reach: Reach,
    sought: Sought | None,
    *,
    after: Position | None,
    goes_down: bool,
    limit: int,
    looked_max: int | None,
) -> _Read:
    """Up to `limit` payments on a way. looked_max: at most so many are looked at, None for all there are."""
    row = PaymentRow
    conditions = way.conditions(after, goes_down=goes_down)
    rest = _rest(row, by, reach, sought, way)
    if way.is_by_amount and rest and looked_max is None:
        walked = _walked(way, conditions, goes_down=goes_down, most=None)
        keys = way.sorted(walked, walked.lead, goes_down=goes_down)
        some = select(*(walked[name] for name in _LINE)).where(*_rest(walked, by, reach, sought, way))
        return _Read([Line(*line) for line in connection.execute(some.order_by(*keys).limit(limit))], None)
    if not rest or looked_max is None:
        statement = select(*_COLUMNS).where(*conditions, *rest)
        statement = statement.order_by(*way.sorted(row, way.lead, goes_down=goes_down)).limit(limit)
        return _Read([Line(*line) for line in connection.execute(statement)], None)
    walked = _walked(way, conditions, goes_down=goes_down, most=looked_max)
    keys = way.sorted(walked, walked.lead, goes_down=goes_down)
    counted = select(
        *walked,
        and_(true(), *_rest(walked, by, reach, sought, way)).is_(True).label("fits"),
        func.row_number().over(order_by=keys).label("looked"),
    ).subquery("counted")
    found = connection.execute(
        select(counted)
        .where(or_(counted.c.fits, counted.c.looked == looked_max))
        .order_by(*way.sorted(counted.c, counted.c.lead, goes_down=goes_down))
        .limit(limit)
    ).all()
    lines = [Line(*line[: len(_LINE)]) for line in found if line.fits]
    stop = None
    if found and found[-1].looked == looked_max and len(lines) < limit:
        last = Line(*found[-1][: len(_LINE)])
        # With the instance, whatever way it is: where all of them stop is compared.
        key = _BY_AMOUNT if way.is_by_amount else _UNDATED if way.is_undated else _BY_DATE
        stop = attrgetter(*key)(last)
    return _Read(lines, stop)


def _read_few(
    connection: Connection,
    ways: Sequence[_Way],
    by: Filter,
    reach: Reach,
    sought: Sought | None,
    *,
    after: Position | None,
    goes_down: bool,
    limit: int,
) -> list[_Read]:
    """Up to `limit` payments on each way by amount, of all on them, which are few: see `_are_few`."""
    reads = []
    for way in ways:
        walked = _walked(way, way.conditions(), goes_down=True, most=SORTED_MAX)
        keys = [walked[name] for name in _BY_AMOUNT]
        conditions = _rest(walked, by, reach, sought, way)
        if after is not None:
            there = func.row(*(literal(value, key.type) for value, key in zip(after.key, keys, strict=True)))
            conditions.append(beside(func.row(*keys), there, goes_down=goes_down, includes=after.includes))
        found = connection.execute(
            select(*(walked[name] for name in _LINE))
            .where(*conditions)
            .order_by(*(key.desc() if goes_down else key.asc() for key in keys))
            .limit(limit)
        )
        reads.append(_Read([Line(*line) for line in found], None))
    return reads


def _walked(way: _Way, conditions: Sequence[Any], *, goes_down: bool, most: int | None) -> Any:
    """Columns of the first `most` payments of a way, and its lead. most: None for all, yet read in their order."""
    lead = literal(0) if way.lead is None else way.lead
    walked = (
        select(*_COLUMNS, lead.label("lead"))
        .where(*conditions)
        .order_by(*way.sorted(PaymentRow, lead, goes_down=goes_down))
    )
    # An OFFSET keeps what narrows them down out of it, as a LIMIT does, and so another index from being chosen.
    return (walked.offset(0) if most is None else walked.limit(most)).subquery("walked").c


# -- Pages, sums, exports --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the list. before, after: where the pages around it begin, None when there is none.

    is_cut: there may be more of a page where it went on, but so many had been looked at; looked_to: the creation of the
    last of those, None when it has none; its amount where that is the order.
    """

    lines: list[Line]
    before: Position | None
    after: Position | None
    is_cut: bool = False
    looked_to: datetime | Decimal | None = None


def page(
    connection: Connection,
    by: Filter,
    reach: Reach,
    sought: Sought | None,
    *,
    at: Position | None,
    limit: int = PAGE,
    order: Order = Order.NEWEST,
) -> Page:
    """A page of the payments of a filter. sought: what its text means. Raises ValueError for no order: see Order."""
    key = _key_of(by, order)
    if sought is not None and sought.payments:
        return Page(_named(connection, by, reach, sought, order), None, None)
    is_back = at is not None and at.is_back
    goes_down = order.goes_down != is_back
    keep_to_order(connection)
    lines, stop = _merged(
        connection,
        by,
        reach,
        sought,
        order,
        after=at,
        goes_down=goes_down,
        limit=limit + 1,
        looked_max=LOOKED_MAX,
    )
    has_more = len(lines) > limit
    lines = lines[:limit]
    ahead = key(lines[-1]) if has_more else stop
    further = None if ahead is None else Position(ahead, is_back=is_back)
    back = at_other_side(at)
    if lines and at is not None:
        back = Position(key(lines[0]), is_back=not is_back)
    if is_back:
        lines.reverse()
    is_cut = stop is not None and not has_more
    looked_to = stop[0] if is_cut and stop is not None and not by.is_undated else None
    before, after = (further, back) if is_back else (back, further)
    return Page(lines, before, after, is_cut, looked_to)


def _named(
    connection: Connection, by: Filter, reach: Reach, sought: Sought, order: Order = Order.NEWEST
) -> list[Line]:
    """The payments whose ids were found, as far as the filter leaves them, with a creation date or without."""
    row = PaymentRow
    conditions: list[Any] = _rest(row, by, reach, sought, _Way(is_undated=True))
    if by.is_undated:
        conditions.append(row.created_at.is_(None))
    elif by.since is not None or by.until is not None:
        conditions.append(row.created_at >= by.since if by.since is not None else true())
        conditions.append(row.created_at < by.until if by.until is not None else true())
    keys: list[Any] = [row.amount] if order.is_by_amount else []
    keys = [*keys, row.created_at, row.instance_id, row.payment_id]
    found = connection.execute(
        select(*_COLUMNS)
        .where(*conditions)
        .order_by(*((key.desc() if order.goes_down else key.asc()).nulls_last() for key in keys))
        .limit(IDS_MAX)
    )
    return [Line(*line) for line in found]


def _merged(
    connection: Connection,
    by: Filter,
    reach: Reach,
    sought: Sought | None,
    order: Order,
    *,
    after: Position | None,
    goes_down: bool,
    limit: int,
    looked_max: int | None,
) -> tuple[list[Line], tuple[Any, ...] | None]:
    """Up to `limit` payments of all ways of a filter in their order, and the key at which looking ended."""
    ways, key = _ways(by, reach, sought), _key_of(by, order)
    if order.is_by_amount and _are_few(connection, ways):
        reads = _read_few(connection, ways, by, reach, sought, after=after, goes_down=goes_down, limit=limit)
    else:
        ways = [_by_amount(by)] if order.is_by_amount else ways
        reads = [
            _read(
                connection,
                way,
                by,
                reach,
                sought,
                after=after,
                goes_down=goes_down,
                limit=limit,
                looked_max=None if looked_max is None else max(500, looked_max // len(ways)),
            )
            for way in ways
        ]
    lines = [line for read in reads for line in read.lines]
    if len(reads) > 1:
        lines.sort(key=key, reverse=goes_down)
    stops = [read.stop for read in reads if read.stop is not None]
    if not stops:
        return lines[:limit], None
    # What lies behind the nearest of them may not be all there is.
    stop = max(stops) if goes_down else min(stops)
    lines = [line for line in lines if (key(line) >= stop if goes_down else key(line) <= stop)]
    return lines[:limit], stop


@dataclass(frozen=True, slots=True)
class Sum:
    """Payments of one currency. refunded: given back of them, as told; None when no refund of any was told of.

    unclear: payments of which a refund succeeded whose amount cannot be booked: it is not in `refunded`.
    """

    currency: str
    number: int = 0
    amount: Decimal = Decimal(0)
    refunded: Decimal | None = None
    unclear: int = 0

    @property
    def net(self) -> Decimal | None:
        """The amount less what was refunded; None when that is unclear. Fees are not told of, and not in it."""
        return refunded.net(self.amount, self.refunded, is_unclear=self.unclear > 0)

    def plus(self, number: int, amount: Decimal | None, back: Decimal | None, unclear: int) -> Sum:
        """With further payments of the same currency."""
        return Sum(
            self.currency,
            self.number + number,
            self.amount + (amount or 0),
            back if self.refunded is None else self.refunded + (back or 0),
            self.unclear + unclear,
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of the payments of a filter, by currency. is_whole: all of them were added up.

    Else only the newest: those created at or after back_to, which is None for those without a date.
    """

    lines: list[Sum]
    is_whole: bool
    back_to: datetime | None = None


def totals(
    connection: Connection,
    by: Filter,
    reach: Reach,
    sought: Sought | None,
    *,
    looked_max: int | None,
    is_bounded: bool = False,
    stage: Callable[[], None] = lambda: None,
) -> Totals:
    """Add up what `page` lists, per currency. looked_max: payments looked at, None for all there are.

    is_bounded: those are known not to be many. stage: called before each statement that may take long.
    """
    added: dict[str, Sum] = {}

    def add(currency: str, number: int, amount: Decimal | None, back: Decimal | None, unclear: int) -> None:
        added[currency] = added.get(currency, Sum(currency)).plus(number, amount, back, unclear)

    if sought is not None and sought.payments:
        named = _named(connection, by, reach, sought)
        given = refunds_of(connection, named)
        for line in named:
            back = given.get((line.instance_id, line.payment_id))
            is_unclear = back is not None and back.amount is None
            add(line.currency, 1, line.amount, None if back is None else back.amount, int(is_unclear))
        return Totals([added[currency] for currency in sorted(added)], True)
    ways = _ways(by, reach, sought)
    if looked_max is not None or by.refunded is not None:
        keep_to_order(connection)
    ends: list[datetime | None] = []
    for way in ways:
        most = None if looked_max is None else max(1, looked_max // len(ways))
        stage()
        found = connection.execute(
            _summing(way, by, reach, sought, most, is_bounded=is_bounded or most is not None)
        ).all()
        for one in found:
            add(one.currency, one.number, one.amount, one.refunded, one.unclear)
        if most is not None and sum(one.looked for one in found) >= most:
            ends.append(min((one.looked_to for one in found if one.looked_to is not None), default=None))
    back_to = max((one for one in ends if one is not None), default=None)
    if back_to is not None and len(ways) > 1:
        # Of some ways more was added up than of others: now of all as far as of that which ended first.
        rest = replace(by, since=back_to)
        whole = totals(connection, rest, reach, sought, looked_max=None, is_bounded=True)
        return replace(whole, is_whole=False, back_to=back_to)
    lines = [added[currency] for currency in sorted(added) if added[currency].number]
    return Totals(lines, is_whole=not ends, back_to=back_to)


def refunds_of(connection: Connection, lines: Collection[Line]) -> dict[tuple[UUID, UUID], refunded.Refunded]:
    """What was refunded of payments that were listed, by (instance, payment), of those of which a refund was told."""
    return refunded.of_payments(
        connection, [(line.instance_id, line.payment_id, line.amount, line.currency) for line in lines]
    )


def _summing(
    way: _Way, by: Filter, reach: Reach, sought: Sought | None, most: int | None, *, is_bounded: bool
) -> Select[Any]:
    """Per currency of a way: number, amount, refunded, unclear, looked and looked_to.

    most: looked at, None for all, which is not told. is_bounded: refunds are looked up for each payment; else all of
    them are added up at once, which takes less for many payments and is too much for few.
    """
    row = PaymentRow
    if most is None:
        back = refunded.of_each(row) if is_bounded else refunded.of_all()
        on = true() if is_bounded else and_(*refunded.is_of(row, back.c))
        whole = (
            select(
                row.currency,
                func.count().label("number"),
                func.sum(row.amount).label("amount"),
                func.sum(refunded.given_back(row, back.c)).label("refunded"),
                func.count().filter(refunded.is_unclear(row, back.c)).label("unclear"),
            )
            .select_from(row)
            .outerjoin(back, on)
            .where(*way.conditions(), *_rest(row, by, reach, sought, way))
            .group_by(row.currency)
        )
        return cast("Select[Any]", whole)
    walked = _walked(way, way.conditions(), goes_down=True, most=most)
    fits = and_(true(), *_rest(walked, by, reach, sought, way))
    back = refunded.of_each(walked)
    given_back, is_unclear = refunded.given_back(walked, back.c), refunded.is_unclear(walked, back.c)
    return (
        select(
            walked.currency,
            func.count().filter(fits).label("number"),
            func.sum(walked.amount).filter(fits).label("amount"),
            func.sum(given_back).filter(fits).label("refunded"),
            func.count().filter(and_(fits, is_unclear)).label("unclear"),
            func.count().label("looked"),
            func.min(walked.created_at).label("looked_to"),
        )
        .select_from(walked.instance_id.table.outerjoin(back, true()))
        .group_by(walked.currency)
    )


def everything(
    connection: Connection,
    by: Filter,
    reach: Reach,
    sought: Sought | None,
    *,
    limit: int,
    order: Order = Order.NEWEST,
    at_once: int = 2_000,
) -> Iterator[Line]:
    """The payments of a filter as `page` lists them, without looked_max, read by and by. Ends after `limit`."""
    key = _key_of(by, order)
    if sought is not None and sought.payments:
        yield from _named(connection, by, reach, sought, order)[:limit]
        return
    keep_to_order(connection)  # each part goes on where the one before ended, and reads nothing again
    after: Position | None = None
    while limit > 0:
        lines, _ = _merged(
            connection,
            by,
            reach,
            sought,
            order,
            after=after,
            goes_down=order.goes_down,
            limit=min(limit, at_once),
            looked_max=None,
        )
        yield from lines
        limit -= len(lines)
        if len(lines) < at_once:
            return
        after = Position(key(lines[-1]))


def count(connection: Connection, by: Filter, reach: Reach, sought: Sought | None, *, most: int) -> int:
    """How many payments `everything` would list; `most` for so many or more."""
    row = PaymentRow
    if sought is not None and sought.payments:
        return len(_named(connection, by, reach, sought))
    number = 0
    for way in _ways(by, reach, sought):
        some = select(literal(1)).where(*way.conditions(), *_rest(row, by, reach, sought, way))
        bounded = some.limit(most - number).subquery("some")
        number += connection.execute(select(func.count()).select_from(bounded)).scalar_one()
        if number >= most:
            break
    return number
