"""Payments as they are booked: the list, and each with all that is known of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from threading import BoundedSemaphore
from typing import Any
from uuid import UUID

import structlog
from flask import Blueprint, abort, g, redirect, render_template, request, url_for
from sqlalchemy import Connection
from werkzeug.wrappers import Response

from processor import prepared
from processor.domain import money
from processor.domain.access import Permission
from processor.domain.reconciliation import RECOVERIES, Outcome, Recovery
from processor.errors import ConfigurationError, WixError
from processor.prepared import SumsQuestion, TakesTooLong
from processor.store.screens import payment as story
from processor.store.screens import payments
from processor.store.screens.payments import ANY, NONE, UNCHECKED, Filter, Order
from processor.store.screens.refunded import RefundState, net_of
from processor.web.pages import exports, paging
from processor.web.pages.access import account, check_instance, needs, reach
from processor.web.pages.answers import LATE, Pending, Unanswered, answer
from processor.web.pages.exports import Kind
from processor.web.pages.formats import Clock, words
from processor.web.pages.masking import masked_but_ids
from processor.web.pages.screens import payment as one
from processor.web.pages.site import CROWDED, Busy, Site, address, busy, in_words, is_part, refused

log = structlog.get_logger(__name__)

ADDED_MAX = 10_000  # payments that a page adds up without being asked to; all of them on request
TEXT_MAX = 200
DAY_MIN, DAY_MAX = date(2000, 1, 1), date(2199, 12, 31)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
# Those that are known of; another that was booked can be written into the address.
TYPES = ("REGULAR", "GIFT_CARD")
METHODS = ("CREDIT_CARD", "OFFLINE")
STATES = (Outcome.MATCHED.value, Outcome.EXPECTED.value, Outcome.DISCREPANT.value, UNCHECKED)
NAMES = (
    *("since", "until", "undated", "instance", "link", "currency", "type", "method", "state", "recovery"),
    *("amount_from", "amount_to", "refunded", "text", "order"),
)
"""The filters as they are named in addresses."""
KEPT = tuple(name for name in NAMES if name != "text")  # which may be anything that somebody types


EXPORTS_AT_ONCE = 2  # of a process: writing one takes a connection, and time that others want
SUMS_AT_ONCE = 2  # of a process, of all payments of a filter
COLUMNS = (
    exports.Column("created_at", "Created", Kind.MOMENT, 20),
    exports.Column("payment_id", "Payment", Kind.ID, 38),
    exports.Column("amount", "Gross amount", Kind.AMOUNT, 14),
    exports.Column("currency", "Currency", Kind.TEXT, 9),
    exports.Column("refunded", "Refunded", Kind.AMOUNT, 14),
    exports.Column("net_of_refunds", "Net of refunds", Kind.AMOUNT, 14),
    exports.Column("refund_state", "Refund state", Kind.TEXT, 12),
    exports.Column("type", "Type", Kind.TEXT, 12),
    exports.Column("method", "Method", Kind.TEXT, 14),
    exports.Column("payment_method", "Payment method", Kind.TEXT, 16),
    exports.Column("payment_provider", "Payment provider", Kind.TEXT, 20),
    exports.Column("match_state", "Match state", Kind.TEXT, 12),
    exports.Column("recovery", "Recovery", Kind.TEXT, 18),
    exports.Column("payment_link_id", "Payment link", Kind.ID, 38),
    exports.Column("link_title", "Link title", Kind.TEXT, 24),
    exports.Column("receipt_id", "Receipt", Kind.ID, 38),
    exports.Column("ecom_order_id", "Order", Kind.TEXT, 38),
    exports.Column("ecom_checkout_id", "Checkout", Kind.TEXT, 38),
    exports.Column("transaction_at", "Transaction", Kind.MOMENT, 20),
    exports.Column("stored_at", "Stored", Kind.MOMENT, 20),
    exports.Column("first_origin", "First told by", Kind.TEXT, 13),
    exports.Column("revision", "Revision", Kind.WHOLE, 9),
    exports.Column("instance_id", "App instance", Kind.ID, 38),
)
_ORDERS = {
    Order.NEWEST: "Newest first",
    Order.OLDEST: "Oldest first",
    Order.LARGEST: "Largest first",
    Order.SMALLEST: "Smallest first",
}
_Answer = Response | tuple[str, int, dict[str, str]]
_EXPORTED = tuple(column.name for column in COLUMNS)


@dataclass(frozen=True, slots=True)
class Asked:
    """A filter as it was asked for. given: the text of each that says something; wrong: words for what cannot be read.

    Nothing is looked for while something is wrong: a list of more than was asked for would be taken for the answer.
    unsorted: words for why what is asked for does not come in the order that is, but in that of dates.
    """

    by: Filter
    order: Order = Order.NEWEST
    given: Mapping[str, str] = field(default_factory=dict)
    wrong: Mapping[str, str] = field(default_factory=dict)
    unsorted: str = ""

    @property
    def key(self) -> tuple[type, ...]:
        """Of what kinds a key of the list is."""
        if self.by.is_undated:
            return (UUID, UUID)
        return (*((Decimal,) if self.order.is_by_amount else ()), datetime, UUID, UUID)

    def address(self, endpoint: str, **more: str | None) -> str:
        """Of another view of the same."""
        return address(url_for(endpoint), {**self.given, **more})

    def turned(self, first: Order, then: Order) -> str:
        """Of the same list in the order `first`, or in that of `then` when it is in that one already."""
        wanted = then if self.order is first else first
        return self.address("payments.index", order=None if wanted is Order.NEWEST else wanted.value)


class _Wrong(ValueError):
    """Words for a value that cannot be read."""


def read_filter(clock: Clock) -> Asked:
    """The filter in the address of this request."""
    given = {name: text for name in NAMES if (text := request.args.get(name, "").strip())}
    wrong: dict[str, str] = {}

    def read(name: str, how: Callable[[str], Any]) -> Any:
        if name not in given:
            return None
        try:
            return how(given[name])
        except _Wrong as why:
            wrong[name] = str(why)
            given[name] = given[name][:TEXT_MAX].replace("\0", "")
            return None

    is_undated = read("undated", _yes) or False
    since, until = read("since", _day), read("until", _day)
    lowest, highest = read("amount_from", _amount), read("amount_to", _amount)
    if since and until and until < since:
        wrong["until"] = "It is before the first day."
    if lowest is not None and highest is not None and highest < lowest:
        wrong["amount_to"] = "It is less than the least."
    instance_id = read("instance", _id)
    if instance_id is not None:
        check_instance(instance_id)
    by = Filter(
        instance_id=instance_id,
        payment_link_id=read("link", _id),
        currency=read("currency", _currency),
        type=read("type", _text),
        method=read("method", _text),
        state=read("state", _one_of(*STATES)),
        recovery=read("recovery", _one_of(ANY, NONE, *Recovery)),
        amount_from=lowest,
        amount_to=highest,
        refunded=read("refunded", _one_of(ANY, *RefundState)),
        since=None if since is None else clock.midnight(since),
        until=None if until is None else clock.midnight(until + timedelta(days=1)),
        is_undated=is_undated,
        text=read("text", _text),
    )
    order, unsorted = Order(read("order", _one_of(*Order)) or Order.NEWEST), ""
    if order.is_by_amount and (by.currency is None or by.is_undated):
        unsorted = _UNDATED if by.is_undated else _OF_ONE_CURRENCY
        order = Order.NEWEST
    return Asked(by, order, given, wrong, "" if wrong else unsorted)


_OF_ONE_CURRENCY = (
    "Amounts of several currencies have no order. Fill in a currency above; until then the newest are first."
)
_UNDATED = "Payments without a creation date are listed by their ids alone."


def _text(text: str) -> str:
    if "\0" in text:
        raise _Wrong("A zero byte is in it.")
    if len(text) > TEXT_MAX:
        raise _Wrong(f"That is more than {TEXT_MAX} letters.")
    return text


def _yes(text: str) -> bool:
    if text != "1":
        raise _Wrong("It is 1 or nothing.")
    return True


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as why:
        raise _Wrong("Write a day as 2026-11-28.") from why
    if not DAY_MIN <= day <= DAY_MAX:
        raise _Wrong(f"Choose a day from {DAY_MIN.year} to {DAY_MAX.year}.")
    return day


def _amount(text: str) -> Decimal:
    try:
        return money.parse_amount(text)
    except money.BadAmount as why:
        raise _Wrong("Write an amount as 1234.50, with at most three decimals.") from why


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as why:
        raise _Wrong("That is no whole id.") from why


def _currency(text: str) -> str:
    code = text.upper()
    if not _CURRENCY.fullmatch(code):
        raise _Wrong("Write the three letters of a currency, such as EUR.")
    return code


def _one_of(*values: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in values:
            raise _Wrong("There is no such choice.")
        return text

    return read


class _TooMany(Exception):
    """More payments fit than a file may have."""


def blueprint(site: Site) -> Blueprint:
    """`/payments` and what is below it."""
    routes = Blueprint("payments", __name__)
    writing = BoundedSemaphore(EXPORTS_AT_ONCE)
    summing = BoundedSemaphore(SUMS_AT_ONCE)

    @routes.get("/payments")
    @needs(Permission.READ)
    def index() -> str | Response:
        if "" in request.args.values():
            # A form sends what is empty as well; the address that is kept says only what matters.
            kept = [(name, text) for name, text in request.args.items(multi=True) if text]
            return redirect(address(url_for("payments.index"), dict(kept)), 303)
        asked = read_filter(site.clock)
        at = paging.position(*asked.key)
        page, titles, refunds, sought = payments.Page([], None, None), {}, {}, None
        with site.read() as connection:
            instances = payments.instances(connection, reach())
            has_undated = not asked.by.is_undated and payments.has_undated(connection, reach())
            if not asked.wrong:
                sought = payments.seek(connection, asked.by, reach())
                page = payments.page(connection, asked.by, reach(), sought, at=at, order=asked.order)
                titles = payments.titles_of(
                    connection, {(line.instance_id, line.payment_link_id) for line in page.lines}
                )
                refunds = payments.refunds_of(connection, page.lines)
        return render_template(
            "payments.html",
            asked=asked,
            page=page,
            before=None if page.before is None else paging.here(at=page.before.text()),
            after=None if page.after is None else paging.here(at=page.after.text()),
            is_first=at is None,
            is_back=at is not None and at.is_back,
            orders=Order,
            titles=titles,
            refunds=refunds,
            net_of=net_of,
            sought=sought,
            instances=instances,
            has_undated=has_undated,
            **_added(asked, request.args.get("totals", "")),
            options=_options(asked, instances),
            spans=_spans(site, asked),
            formats=exports.formats(),
            looked_max=payments.LOOKED_MAX,
            links_max=payments.LINKS_MAX,
            titles_max=payments.TITLES_MAX,
        )

    @routes.get("/payments/totals")
    @needs(Permission.READ)
    def totals() -> str | Response:
        asked = read_filter(site.clock)
        how = "all" if request.args.get("all") == "1" else "1"
        if not is_part():
            after = request.args.get("after")
            return redirect(asked.address("payments.index", totals=how, after=after), 303)
        if asked.wrong:
            abort(400)
        return render_template("payment_totals.html", asked=asked, **_added(asked, how))

    @routes.get("/payments/<uuid:instance_id>/<uuid:payment_id>")
    @needs(Permission.READ)
    def payment(instance_id: UUID, payment_id: UUID) -> str:
        return _payment(instance_id, payment_id)

    @routes.post("/payments/<uuid:instance_id>/<uuid:payment_id>/personal")
    @needs(Permission.READ)
    def personal(instance_id: UUID, payment_id: UUID) -> str:
        if not account().sees_personal:
            abort(403)
        return _payment(instance_id, payment_id, personal=True)

    @routes.get("/payments/<uuid:instance_id>/<uuid:payment_id>/wix")
    @needs(Permission.READ)
    def wix(instance_id: UUID, payment_id: UUID) -> str:
        with site.read() as connection:
            ours = story.facts(connection, instance_id, payment_id)
        if ours is None:
            abort(404)
        answer: dict[str, Any] = {"theirs": None, "wix_failed": None, "asked_at": site.services.now()}
        try:
            theirs = one.ask(site.services, ours, lambda: site.may_display(instance_id))
            answer |= {
                "theirs": theirs,
                "wix_failed": CROWDED if theirs.is_crowded else None,
                "compared": one.compared(ours, theirs.seen.payment) if theirs.seen else [],
            }
        except (WixError, ConfigurationError) as why:
            answer["wix_failed"] = in_words(why)
        if is_part():
            return render_template("payment_wix.html", facts=ours, **answer)
        return _payment(instance_id, payment_id, **answer)

    def _payment(instance_id: UUID, payment_id: UUID, *, personal: bool = False, **answer: Any) -> str:
        with site.read() as connection:
            found = story.story(connection, instance_id, payment_id)
        if found is None:
            abort(404)
        newest = [event for event in found.events[::-1] if event.token is not None] or found.events[::-1]
        return render_template(
            "payment.html",
            story=found,
            facts=found.facts,
            timeline=one.timeline(found),
            back=found.back,
            net_of=net_of,
            sent=[one.sent(event, personal=personal) for event in newest[: story.TOKENS_MAX]],
            buyer=one.buyer_fields(found.buyer, personal=personal),
            is_unmasked=personal,
            recoveries=RECOVERIES,
            **answer,
        )

    def _export(format_: exports.Format) -> _Answer:
        asked = read_filter(site.clock)
        list_ = asked.address("payments.index")
        if asked.wrong:
            return refused(list_, "Nothing was exported: a filter cannot be read.")
        most = exports.ROWS_MAX[format_]
        try:
            # The place is held until the answer has it: whatever goes wrong before gives it back.
            with site.file_place() as place:
                with exports.making() as file, site.long_read(writing), site.read() as connection:
                    sought = payments.seek(connection, asked.by, reach())
                    if payments.count(connection, asked.by, reach(), sought, most=most + 1) > most:
                        raise _TooMany
                    lines = payments.everything(
                        connection, asked.by, reach(), sought, limit=most, order=asked.order
                    )
                    table = exports.Table("Payments", COLUMNS, site.clock.zone, _about(site, asked))
                    exports.write(format_, file, table, _rows(connection, lines))
                return exports.answer(format_, file, f"payments-{_today(site)}", place)
        except Busy:
            return busy(list_, _BUSY)
        except _TooMany:
            return refused(list_, _too_many(format_, most))
        except exports.TooLarge:
            return refused(list_, _too_large(format_))
        except OSError as why:
            log.error("file_unwritten", page=request.endpoint, error=str(why), request_id=g.request_id)
            return refused(list_, "Nothing was exported: the file cannot be written here. Tell an operator.")

    def _of(format_: exports.Format) -> Callable[[], _Answer]:
        @needs(Permission.READ, keeps=KEPT, is_recorded=True)
        def export() -> _Answer:
            return _export(format_)

        return export

    for format_ in exports.formats():
        routes.add_url_rule(f"/payments/export.{format_}", f"export_{format_}", _of(format_), methods=["GET"])

    def _added(asked: Asked, how: str) -> dict[str, Any]:
        """For the template. how: "1" for the newest, "all", anything else for nothing."""
        if asked.wrong or how not in ("1", "all"):
            return {"was_added": False}
        answered: dict[str, Any] = {
            "was_added": True,
            "added_max": ADDED_MAX,
            "is_busy": False,
            "is_late": False,
            "pending": None,
            "as_of": None,
            "newer_than": request.args.get("after"),
        }
        with site.read() as connection:
            sought = payments.seek(connection, asked.by, reach())
            totals = payments.totals(connection, asked.by, reach(), sought, looked_max=ADDED_MAX)
        if how == "1" or totals.is_whole:
            return {**answered, "totals": totals}
        try:
            found = _all_added(asked)
        except Busy:
            return {**answered, "totals": totals, "is_busy": True}
        except (TakesTooLong, Unanswered):
            # The template says so; a smaller question has an answer.
            return {**answered, "totals": None}
        if isinstance(found, Pending):
            return {**answered, "pending": found, "is_late": site.services.now() - found.since > LATE}
        return {**answered, "totals": found.totals, "as_of": found.as_of}

    def _all_added(asked: Asked) -> prepared.Sums | Pending:
        """Raises TakesTooLong, Busy and Unanswered."""
        question, services = SumsQuestion.of(asked.by, reach()), site.services
        return answer(
            site,
            question,
            summing,
            read=lambda seconds: prepared.read_sums(
                services.database,
                services.settings.report_time_zone,
                question,
                seconds=seconds,
                now=services.now(),
            ),
            unpacked=prepared.unpacked_sums,
            is_quick=False,  # they are more than a page adds up
        )

    return routes


def _today(site: Site) -> date:
    return site.services.now().astimezone(site.clock.zone).date()


_BUSY = (
    "Nothing was exported: as many files as may be are written for others, or still on their way to them, and the pages"
    " need room, too. Try again in a minute; the filter is kept."
)


def _too_many(format_: exports.Format, most: int) -> str:
    words = f"More than {most:,} payments fit, which is too many for one file. Narrow the dates"
    if format_ is exports.Format.XLSX:
        return f"{words}, or export CSV, which takes more. No sheet has more than 1,048,576 rows."
    return f"{words} and export them in parts."


def _too_large(format_: exports.Format) -> str:
    words = (
        f"The file would be larger than {exports.BYTES_MAX // 1024**2:,} MB, so none was made. Narrow the dates and"
        " export them in parts"
    )
    return f"{words}, or choose CSV." if format_ is exports.Format.XLSX else f"{words}."


def _about(site: Site, asked: Asked) -> list[tuple[str, str]]:
    """Whence the rows of an export are, for who gets the file alone."""
    said = ", ".join(f"{name} {text}" for name, text in asked.given.items() if name != "order")
    now = site.services.now().astimezone(site.clock.zone)
    return [
        ("What", "Payments as booked"),
        ("Filter", said or "none"),
        ("Order", "by id" if asked.by.is_undated else _ORDERS[asked.order]),
        ("As of", now.isoformat(timespec="seconds")),
        ("Times", f"of {site.clock.zone_name}"),
        ("Refunds", "As Wix told of them; empty where it told of none. Fees are not told, and not taken off"),
        ("Exported by", account().name),
    ]


def _rows(connection: Connection, lines: Iterable[payments.Line]) -> Iterator[tuple[Any, ...]]:
    """Of the columns, with the titles of links, which are looked up for many at once."""
    left = iter(lines)
    while some := list(islice(left, exports.ROWS_AT_ONCE)):
        titles = payments.titles_of(connection, {(line.instance_id, line.payment_link_id) for line in some})
        refunds = payments.refunds_of(connection, some)
        for line in some:
            title = titles.get((line.instance_id, line.payment_link_id))
            back = refunds.get((line.instance_id, line.payment_id))
            more: dict[str, Any] = {
                "link_title": None if title is None else masked_but_ids(title),
                "refunded": None if back is None else back.amount,
                "net_of_refunds": net_of(line.amount, back),
                "refund_state": None if back is None else back.state.value,
            }
            yield tuple(more[name] if name in more else getattr(line, name) for name in _EXPORTED)


def _spans(site: Site, asked: Asked) -> list[tuple[str, str]]:
    """Words and addresses of spans of time that are often wanted."""
    today = _today(site)
    firsts = {
        "Today": today,
        "7 days": today - timedelta(days=6),
        "30 days": today - timedelta(days=29),
        "This month": today.replace(day=1),
    }
    return [
        (words, asked.address("payments.index", since=f"{first}", until=f"{today}", undated=None))
        for words, first in firsts.items()
    ]


def _options(asked: Asked, instances: Sequence[UUID]) -> dict[str, list[tuple[str, str]]]:
    """What can be chosen, and what was."""

    def some(name: str, values: tuple[str, ...], **other: str) -> list[tuple[str, str]]:
        chosen = asked.given.get(name)
        more = (chosen,) if chosen and chosen not in values and name not in asked.wrong else ()
        return [("", "Any"), *((one, other.get(one, words(one))) for one in (*values, *more))]

    chosen = [] if asked.by.instance_id in (None, *instances) else [asked.by.instance_id]
    return {
        "instance": [("", "Any"), *((str(one), str(one)[:8]) for one in (*instances, *chosen))],
        "type": some("type", TYPES),
        "method": some("method", METHODS),
        "state": some("state", STATES, unchecked="Not checked yet", discrepant="Discrepancy"),
        "recovery": [
            ("", "Any"),
            (ANY, "Recovered"),
            *((one.value, words(one.value)) for one in Recovery),
            (NONE, "Not recovered"),
        ],
        "refunded": [
            ("", "Any"),
            (ANY, "Refunded"),
            (RefundState.PARTLY.value, "Refunded in part"),
            (RefundState.WHOLLY.value, "Refunded wholly"),
            (RefundState.UNCLEAR.value, "Amount unclear"),
            (RefundState.NONE.value, "Not refunded"),
        ],
        "order": [("" if one is Order.NEWEST else one.value, words) for one, words in _ORDERS.items()],
    }
