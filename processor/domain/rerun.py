"""What a check decides, line by line, and the same decided again from its evidence. Pure.

A check decides on its evidence as it is kept: what it read is put into a document and taken out of it again before
`match` and `match_link` see it. So whoever reads the document later and calls the same two comes to the same lines,
byte for byte. The lines are JSON with sorted keys, decimals as text and times in UTC; the digest of a run is their
SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import zip_longest
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from processor.domain.discrepancy import Difference, DiscrepancyType
from processor.domain.payment import FACTS, Payment
from processor.domain.reconciliation import LinkBooks, Match, Outcome, Pair, match, match_link
from processor.domain.rules import TOLERABLE, Rules, tolerate
from processor.errors import Unreadable

FORMAT = 1
"""Of the lines. Another release that writes others says so by another number."""
ITEMS_MAX = 1_000  # of one list in one document, and lines beside it: a link may have very many

Identity: TypeAlias = tuple[DiscrepancyType, UUID | None]
"""A difference of one link: its type, and its payment if it is of one."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Number and amount of payments in one currency."""

    payments: int = 0
    amount: Decimal = Decimal(0)

    def plus(self, other: Sum) -> Sum:
        """Both together."""
        return Sum(self.payments + other.payments, self.amount + other.amount)

    def less(self, other: Sum) -> Sum:
        """Without those of the other, which are among these."""
        return Sum(self.payments - other.payments, self.amount - other.amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payments:
    """Some payments of one link, gone through at `at`.

    unsettled_since: of the link, as in `LinkBooks`. same: by currency, those that are plainly the same on both sides.
    pairs: every other.
    """

    payment_link_id: UUID
    at: datetime
    unsettled_since: datetime | None = None
    same: Mapping[str, Sum] = field(default_factory=dict)
    pairs: Sequence[Pair] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A link itself, matched at `at` when its payments were. attempt: checks in a row that had ended unsettled."""

    at: datetime
    attempt: int
    books: LinkBooks


@dataclass(frozen=True, slots=True)
class Opened:
    """Since when a difference that rules may tolerate has been open."""

    type: DiscrepancyType
    payment_id: UUID | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Recent:
    """A payment whose booked revision was told shortly before the cut-off, or after it."""

    payment_id: UUID
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one part of a check says of one link. Empty or None: nothing of that kind.

    more: what did not fit into the lists of `described.books`, by their names.
    """

    payments: Payments | None = None
    described: Described | None = None
    opened: Sequence[Opened] = ()
    recent: Sequence[Recent] = ()
    more: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Evidence as it is kept, with the lines it came to. part: which transaction of the check, from 1; see `pieces`."""

    payment_link_id: UUID
    part: int
    document: dict[str, Any]
    lines: tuple[str, ...] = ()


# -- Evidence and its document ---------------------------------------------------------------------


def document_of(evidence: Evidence) -> dict[str, Any]:
    """What JSON can hold of it; what is empty is left out. Nothing in it is personal.

    A link's title and address are words of the merchant's, which may name a buyer, and decide nothing.
    """
    document: dict[str, Any] = msgspec.to_builtins(evidence, order="deterministic")
    if evidence.described is not None and evidence.described.books.link is not None:
        document["described"]["books"]["link"] |= {"title": None, "share_url": None}
    return {name: told for name, told in document.items() if told}


def evidence_of(document: Any) -> Evidence:
    """What `document_of` was made of, whatever order a database keeps names in. Raises Unreadable."""
    return _converted(_ordered(document))


def _converted(document: Any) -> Evidence:
    try:
        return msgspec.convert(document, Evidence)
    except (msgspec.ValidationError, ArithmeticError) as why:
        raise Unreadable("evidence", f"the evidence is not what this release keeps: {why}") from why


def _ordered(told: Any) -> Any:
    if isinstance(told, dict):
        return {name: _ordered(told[name]) for name in sorted(told)}
    if isinstance(told, list):
        return [_ordered(one) for one in told]
    return told


def as_kept(evidence: Evidence) -> Evidence:
    """The same as it will be read again."""
    return _converted(document_of(evidence))  # in the order in which `evidence_of` puts it


def pieces(
    payment_link_id: UUID, part: int, evidence: Evidence, of_payments: Sequence[str], of_link: Sequence[str]
) -> list[Piece]:
    """Evidence and its lines as pieces of bounded size, the first of `part` and each other of the next.

    What is of payments is bounded as they are in one part, and all in the first. Only a link itself may need more.
    """
    document = document_of(evidence)
    books = document.get("described", {}).get("books", {})
    rests: list[dict[str, Any]] = []

    def cut(name: str, items: list[Any], *, into: Any) -> list[Any]:
        for number, start in enumerate(range(ITEMS_MAX, len(items), ITEMS_MAX)):
            while len(rests) <= number:
                rests.append({})
            into(rests[number])[name] = items[start : start + ITEMS_MAX]
        return items[:ITEMS_MAX]

    for name, told in books.items():
        if isinstance(told, list | tuple):
            books[name] = cut(name, list(told), into=lambda rest: rest.setdefault("more", {}))
    for name in ("opened", "recent"):
        if name in document:
            document[name] = cut(name, document[name], into=lambda rest: rest)
    found = []
    for number, (one, chunk) in enumerate(
        zip_longest((document, *rests), _chunks(of_payments, of_link)), start=part
    ):
        kept = one or {}
        told = (_sealed(payment_link_id, number, kept), *(chunk or ()))
        found.append(Piece(payment_link_id=payment_link_id, part=number, document=kept, lines=told))
    return found


def _chunks(of_payments: Sequence[str], of_link: Sequence[str]) -> Iterator[list[str]]:
    yield [*of_payments, *of_link[:ITEMS_MAX]]
    for start in range(ITEMS_MAX, len(of_link), ITEMS_MAX):
        yield [*of_link[start : start + ITEMS_MAX]]


def _sealed(payment_link_id: UUID, part: int, document: Mapping[str, Any]) -> str:
    """The line that says what a piece of evidence is, whether or not the result hangs on it."""
    digest = hashlib.sha256(_encode(document).encode()).hexdigest()
    return line("evidence", payment_link_id=payment_link_id, part=part, sha256=digest)


def _whole(evidence: Evidence, rests: Iterable[Evidence]) -> Evidence:
    """Evidence of a link put together again from its pieces."""
    if evidence.described is None:
        return evidence
    more: dict[str, list[Any]] = {}
    for rest in rests:
        for name, items in rest.more.items():
            more.setdefault(name, []).extend(items)
    if not more:
        return evidence
    document = document_of(evidence)
    books = document["described"]["books"]
    for name, items in more.items():
        books[name] = [*books.get(name, ()), *items]
    return evidence_of(document)


# -- Deciding --------------------------------------------------------------------------------------


def decide_payments(payments: Payments, *, settling: timedelta) -> tuple[Match, ...]:
    """What each of the pairs comes to."""
    return tuple(
        match(pair, now=payments.at, settling=settling, unsettled_since=payments.unsettled_since)
        for pair in payments.pairs
    )


def decide_link(
    described: Described, *, settling: timedelta, rules: Rules
) -> tuple[tuple[Difference, ...], bool]:
    """What the link itself comes to, and whether nothing is left that time alone may cure."""
    return match_link(
        described.books, now=described.at, settling=settling, assumptions=rules.rule_set.assumptions
    )


def is_aged(difference: Difference, rules: Rules) -> bool:
    """Whether the rules may ask since when the difference has been open."""
    return rules.version is not None and difference.type in TOLERABLE


# -- Lines -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a run decides by, known when it begins to. window: None unless it read one."""

    run_id: UUID
    instance_id: UUID
    kind: str
    actor: str
    code_version: str
    started_at: datetime
    settling: timedelta
    rules: Rules
    window: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTotals:
    """The control totals of a run. sums: by currency, what is booked and what Wix lists."""

    links: int = 0
    outcomes: Mapping[Outcome, int] = field(default_factory=dict)
    sums: Mapping[str, tuple[Sum, Sum]] = field(default_factory=dict)


def line(record: str, **told: Any) -> str:
    """One line, always the same for the same."""
    return _encode({"record": record, **told})


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value)


# ASCII, so that nothing in a line steers a terminal.
_encode = json.JSONEncoder(default=_plain, sort_keys=True, separators=(",", ":")).encode


def head(terms: Terms) -> str:
    """The first line: which run it is, and what it decided by."""
    return line(
        "run",
        format=FORMAT,
        run_id=terms.run_id,
        instance_id=terms.instance_id,
        kind=terms.kind,
        actor=terms.actor,
        code_version=terms.code_version,
        started_at=terms.started_at,
        window=terms.window,
        rule_set_version=terms.rules.version,
        settling_seconds=terms.settling.total_seconds(),
    )


def control(totals: ControlTotals, *, lines: int, cutoff_at: datetime, wix_requests: int) -> str:
    """The last line: the control totals. lines: how many come before it."""
    return line(
        "control",
        status="succeeded",
        cutoff_at=cutoff_at,
        wix_requests=wix_requests,
        lines=lines,
        links=totals.links,
        payments={outcome: totals.outcomes.get(outcome, 0) for outcome in Outcome},
        sums=sums_told(totals.sums),
    )


def sums_told(sums: Mapping[str, tuple[Sum, Sum]]) -> dict[str, dict[str, Any]]:
    """Number and sum of both sides, by currency; decimals as text."""
    return {
        currency: {
            "booked": _plain(booked.amount),
            "booked_count": booked.payments,
            "wix": _plain(wix.amount),
            "wix_count": wix.payments,
        }
        for currency, (booked, wix) in sorted(sums.items())
    }


class Result:
    """The lines of a run as they come about, with their control totals and digest, in flat memory."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._digest = hashlib.sha256()
        self._lines = 0
        self._links: set[UUID] = set()
        self._outcomes: Counter[Outcome] = Counter()
        self._booked: dict[str, Sum] = {}
        self._listed: dict[UUID, dict[str, Sum]] = {}
        self.add((head(terms),))

    def payments(self, payments: Payments, matched: Sequence[Match], opened: Collection[Opened]) -> list[str]:
        """The lines of some payments of a link, of whose pairs `matched` was decided."""
        link_id = payments.payment_link_id
        told = [
            line("same", payment_link_id=link_id, currency=currency, payments=one.payments, amount=one.amount)
            for currency, one in sorted(payments.same.items())
        ]
        listed = self._listed.setdefault(link_id, {})
        for currency, one in payments.same.items():
            self._outcomes[Outcome.MATCHED] += one.payments
            _add(listed, currency, one)
        for pair, decided in zip(payments.pairs, matched, strict=True):
            if pair.theirs is not None:
                _add(listed, pair.theirs.currency, Sum(1, pair.theirs.amount))
            if decided.outcome is not None:
                self._outcomes[decided.outcome] += 1
            told.append(
                line(
                    "payment",
                    payment_link_id=link_id,
                    payment_id=pair.payment_id,
                    outcome=decided.outcome,
                    booked=_facts(pair.ours.payment) if pair.ours else None,
                    wix=_facts(pair.theirs) if pair.theirs else None,
                )
            )
            told.extend(self._differences(decided.differences, opened, payments.at))
        return told

    def link(
        self,
        described: Described,
        decided: tuple[Sequence[Difference], bool],
        opened: Collection[Opened],
    ) -> list[str]:
        """The lines of a link itself, of which `decided` was decided."""
        books, link = described.books, described.books.link
        differences, is_settled = decided
        self._links.add(books.payment_link_id)
        booked = {
            currency: Sum(books.totals.counts.get(currency, 0), amount)
            for currency, amount in books.totals.sums.items()
        }
        for currency, one in booked.items():
            _add(self._booked, currency, one)
        return [
            line(
                "link",
                payment_link_id=books.payment_link_id,
                is_missing=books.is_link_missing,
                is_settled=is_settled,
                booked={name: [one.payments, _plain(one.amount)] for name, one in booked.items()},
                listed={
                    name: [one.payments, _plain(one.amount)]
                    for name, one in self._listed.get(books.payment_link_id, {}).items()
                },
                wix=None
                if link is None
                else {
                    "status": link.status,
                    "currency": link.currency,
                    "payment_count": link.payment_count,
                    "total_amount": link.total_amount,
                },
            ),
            *self._differences(differences, opened, described.at),
        ]

    def _differences(
        self, differences: Iterable[Difference], opened: Collection[Opened], at: datetime
    ) -> Iterator[str]:
        since = {(one.type, one.payment_id): one.at for one in opened}
        for one in differences:
            opened_at = since.get((one.type, one.payment_id))
            tolerated = (
                tolerate(one, self._terms.rules, opened_at=opened_at, now=at)
                if opened_at is not None
                else None
            )
            yield line(
                "difference",
                payment_link_id=one.payment_link_id,
                payment_id=one.payment_id,
                type=one.type,
                severity=one.severity,
                sides=one.sides,
                amount_at_risk=one.amount_at_risk,
                currency=one.currency,
                tolerated=tolerated.rules if tolerated else None,
            )

    def add(self, lines: Iterable[str]) -> None:
        """Take lines into the digest: in the order of the result, which is by part, and in a part by link."""
        for one in lines:
            self._digest.update(one.encode() + b"\n")
            self._lines += 1

    @property
    def totals(self) -> ControlTotals:
        """The control totals so far, of links that were matched to the end."""
        listed: dict[str, Sum] = {}
        for link_id in self._links:
            for currency, one in self._listed.get(link_id, {}).items():
                _add(listed, currency, one)
        sums = {
            currency: (self._booked.get(currency, Sum()), listed.get(currency, Sum()))
            for currency in self._booked.keys() | listed.keys()
        }
        return ControlTotals(links=len(self._links), outcomes=dict(self._outcomes), sums=sums)

    def close(self, *, cutoff_at: datetime, wix_requests: int) -> tuple[str, bytes]:
        """The last line, and the digest over all."""
        last = control(self.totals, lines=self._lines, cutoff_at=cutoff_at, wix_requests=wix_requests)
        self.add((last,))
        return last, self._digest.digest()


def _add(sums: dict[str, Sum], currency: str, one: Sum) -> None:
    sums[currency] = sums.get(currency, Sum()).plus(one)


def _facts(payment: Payment) -> dict[str, Any]:
    """What one side says of a payment, without what it does not say."""
    told = {name: getattr(payment, name) for name in ("revision", *FACTS)}
    return {name: value for name, value in told.items() if value is not None}


# -- Again -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the result as it was kept, and as it is decided again. None: there is no such line."""

    kept: str | None
    again: str | None


def rerun(
    terms: Terms,
    kept: Iterable[Piece],
    *,
    kept_totals: ControlTotals,
    cutoff_at: datetime,
    wix_requests: int,
) -> Iterator[Line]:
    """Decide again what a run decided, and yield every line beside what was kept.

    kept: all its pieces, by part and link. The last line is the control totals, of the run's own row and as they come
    out. Raises Unreadable.
    """
    result = Result(terms)
    yield Line(head(terms), head(terms))
    number = 1
    has_expected: set[UUID] = set()
    last: list[tuple[Piece, Evidence, list[str]]] = []
    for piece in kept:
        evidence = evidence_of(piece.document)
        again: list[str] = []
        if evidence.payments is not None:
            if evidence.payments.payment_link_id != piece.payment_link_id:
                raise Unreadable("evidence", f"evidence of link {piece.payment_link_id} is of another link")
            matched = decide_payments(evidence.payments, settling=terms.settling)
            if any(one.outcome is Outcome.EXPECTED for one in matched):
                has_expected.add(piece.payment_link_id)
            again = result.payments(evidence.payments, matched, evidence.opened)
        if evidence.described is not None or last:
            last.append((piece, evidence, again))  # what it says of links waits for all of their payments
            continue
        again = [_sealed(piece.payment_link_id, piece.part, piece.document), *again]
        result.add(again)
        for one in _beside(piece.lines, again):
            number += one.kept is not None
            yield one
    expected: dict[tuple[int, UUID], list[str]] = {}
    for piece, evidence, again in last:
        if evidence.described is None:
            continue
        link_id = piece.payment_link_id
        rests = [one for other, one, _ in last if other.payment_link_id == link_id and one is not evidence]
        whole = _whole(evidence, rests)
        assert whole.described is not None
        opened = [*evidence.opened, *(one for rest in rests for one in rest.opened)]
        described = replace(
            whole.described,
            books=replace(whole.described.books, has_expected=link_id in has_expected),
        )
        decided = decide_link(described, settling=terms.settling, rules=terms.rules)
        of_link = result.link(described, decided, opened)
        for place, chunk in enumerate(_chunks(again, of_link), start=piece.part):
            expected[place, link_id] = chunk
    for piece, _, again in last:
        told = (
            _sealed(piece.payment_link_id, piece.part, piece.document),
            *expected.pop((piece.part, piece.payment_link_id), again),
        )
        result.add(told)
        for one in _beside(piece.lines, told):
            number += one.kept is not None
            yield one
    for _, lines_again in sorted(expected.items()):
        result.add(lines_again)
        yield from _beside((), lines_again)
    again_control, _ = result.close(cutoff_at=cutoff_at, wix_requests=wix_requests)
    yield Line(
        control(kept_totals, lines=number, cutoff_at=cutoff_at, wix_requests=wix_requests), again_control
    )


def _beside(kept: Sequence[str], again: Sequence[str]) -> Iterator[Line]:
    for ours, theirs in zip_longest(kept, again):
        yield Line(ours, theirs)
