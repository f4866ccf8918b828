"""The work queue of discrepancies: what needs a decision, both sides of each, and what persons do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import structlog
from flask import Blueprint, abort, g, render_template, request, url_for
from werkzeug.wrappers import Response

from processor import decisions
from processor.domain import discrepancy as domain
from processor.domain.access import Permission, Reach
from processor.domain.discrepancy import (
    ADVICE,
    AGING,
    EXPLANATIONS,
    REASONS,
    RESOLVING,
    TEXT_MAX,
    WRITING_OFF,
    Action,
    DiscrepancyType,
    Reason,
    Severity,
    State,
    is_same_person,
)
from processor.domain.money import AMOUNT_MAX
from processor.domain.rules import Rules
from processor.errors import NotAllowed, StoreUnavailable
from processor.store import rules
from processor.store.screens import discrepancies
from processor.store.screens import sides as store_sides
from processor.store.screens.discrepancies import Approval, Filter, Found, QueueLine, Sums
from processor.store.screens.instances import choices
from processor.store.screens.keyset import Position, Slice
from processor.store.screens.sieve import Sifted
from processor.web.pages.access import account, needs, reach
from processor.web.pages.formats import words
from processor.web.pages.paging import Pages, around, here, position
from processor.web.pages.sides import compared
from processor.web.pages.site import Site, done, in_words, refused

log = structlog.get_logger(__name__)

TOGETHER_MAX = 100
_SHOWN_MAX = 5  # ids named of those that were not done
_AMOUNT = re.compile(r"[0-9]{1,16}(\.[0-9]{1,3})?")
_CURRENCY = re.compile(r"[A-Z]{3}")
_STEP = re.compile(r"[0-9]{1,18}")

OPEN = (State.OPEN, State.INVESTIGATING)
CLOSED = (State.RESOLVED, State.WRITTEN_OFF)
STATES: dict[str, tuple[str, tuple[State, ...]]] = {
    "": ("Needs a decision", OPEN),
    "open": ("Open: nobody took it up", (State.OPEN,)),
    "investigating": ("Investigating", (State.INVESTIGATING,)),
    "closed": ("Closed", CLOSED),
    "resolved": ("Resolved", (State.RESOLVED,)),
    "written_off": ("Written off", (State.WRITTEN_OFF,)),
    "any": ("Any state", (*OPEN, *CLOSED)),
}
PERSISTING = frozenset(
    (
        *(DiscrepancyType.REFUND_ON_ORDER_ONLY, DiscrepancyType.TOTAL_DIFFERS, DiscrepancyType.COUNT_DIFFERS),
        *(DiscrepancyType.ORDER_AMOUNT_DIFFERS, DiscrepancyType.OVER_LIMIT, DiscrepancyType.LINK_MISSING),
        *(DiscrepancyType.PAID_WHILE_INACTIVE, DiscrepancyType.DUPLICATE_PAYMENT),
        *(DiscrepancyType.LAST_PAYMENT_DIFFERS, DiscrepancyType.STATUS_DIFFERS),
        DiscrepancyType.PAYMENT_WITHOUT_EVENT,
    )
)
"""Types whose cause mostly stays as it is, so that every check sees them again."""
PERSISTS = (
    "“Both sides are right” then lasts only until the next check, which opens it again. To accept the difference,"
    " propose a write-off, which holds while no more is at risk."
)
ME, NOBODY = "me", "nobody"
BUCKETS = [name.replace(" ", "-") for name, _ in AGING]
"""What the buckets are called in addresses."""


def type_words(type_: str) -> str:
    """The type of a discrepancy, which a newer release may have opened, for people."""
    return words(type_).replace("wix", "Wix")


def step_words(kind: str) -> str:
    """What happened in a step, for people."""
    return words(kind).replace("Write off", "Write-off")


def explanation(type_: str) -> str:
    """What a type means; of one that this release does not know, that."""
    known = type_ in set(DiscrepancyType)
    return EXPLANATIONS[DiscrepancyType(type_)] if known else "A newer release of this service found it."


# -- What is asked for -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """The filter of an address. given: what its fields said. wrong: words for each field that cannot be read."""

    by: Filter
    given: dict[str, str]
    wrong: dict[str, str]


def asked(args: Mapping[str, str], asker: str, within: Reach) -> Asked:
    """Read a filter. What cannot be read does not narrow, and is told."""
    names = (
        *("state", "type", "severity", "owner", "instance", "currency", "link", "payment"),
        *("aging", "amount_from", "amount_to", "approval"),
    )
    given = {name: args.get(name, "").strip()[:200] for name in names}
    wrong: dict[str, str] = {}

    def one_of(name: str, known: Any, said: str) -> str | None:
        if given[name] in known:
            return given[name] or None
        if given[name]:
            wrong[name] = said
        return None

    def read(name: str, reader: Callable[[str], Any], said: str) -> Any:
        if not given[name]:
            return None
        try:
            return reader(given[name])
        except ValueError:
            wrong[name] = said
            return None

    state = one_of("state", STATES, "There is no such state.") or ""
    instance_id = read("instance", UUID, "An instance is an id such as 01234567-89ab-cdef-0123-456789abcdef.")
    if instance_id is not None and not within.holds(instance_id):
        abort(404)
    owner = given["owner"]
    if "\0" in owner:
        wrong["owner"], owner = "There is no such name.", ""
    aging = one_of("aging", BUCKETS, "There is no such bucket of ages.")
    least = read("amount_from", _amount, "An amount is written as 12.50.")
    most = read("amount_to", _amount, "An amount is written as 12.50.")
    if least is not None and most is not None and least > most:
        wrong["amount_to"] = "That is less than where it begins."
    approval = one_of("approval", set(Approval), "Choose one of the list.")
    by = Filter(
        asker=asker,
        states=STATES[state][1],
        type=one_of("type", set(DiscrepancyType), "There is no such type."),
        severity=one_of("severity", set(Severity), "There is no such severity."),
        owner={"": None, ME: asker, NOBODY: ""}.get(owner, owner),
        instance_id=instance_id,
        currency=read("currency", _currency, "A currency is three letters, such as EUR."),
        payment_link_id=read("link", UUID, "A payment link is named by its whole id."),
        payment_id=read("payment", UUID, "A payment is named by its whole id."),
        aging=None if aging is None else BUCKETS.index(aging),
        least=least,
        most=most,
        approval=Approval(approval) if approval else None,
    )
    if state == "any" and by.is_by_closing:
        wrong["state"] = "Any state is shown of one payment or link: name it, or choose one state."
    if not by.is_open and by.aging is not None:
        wrong["aging"] = "Only what is open has an age."
    if not by.is_open and by.approval is not None:
        wrong["approval"] = "Only of what is open a write-off can wait."
    return Asked(by, given, wrong)


def _amount(told: str) -> Decimal:
    if not _AMOUNT.fullmatch(told) or (amount := Decimal(told)) > AMOUNT_MAX:
        raise ValueError("no amount")
    return amount


def _currency(told: str) -> str:
    if not _CURRENCY.fullmatch(told.upper()):
        raise ValueError("no currency")
    return told.upper()


@dataclass(frozen=True, slots=True)
class Totals:
    """Of a filter. of_currency: (currency, number, amount at risk), None where it is not known.

    buckets: number of each, whatever bucket the filter says. is_whole: otherwise they are of the oldest alone.
    """

    count: int
    of_currency: list[tuple[str | None, int, Decimal | None]]
    buckets: list[int]
    is_whole: bool


def totals(found: Sums, by: Filter) -> Totals:
    """Add up what was found."""
    buckets = [0] * len(AGING)
    for one in found.groups:
        buckets[one.aging] += one.count
    chosen = [one for one in found.groups if by.aging is None or one.aging == by.aging]
    of_currency = []
    for currency in sorted({one.currency for one in chosen}, key=lambda code: (code is None, code or "")):
        these = [one for one in chosen if one.currency == currency]
        amounts = [one.amount for one in these if one.amount is not None]
        of_currency.append(
            (currency, sum(one.count for one in these), sum(amounts, Decimal(0)) if amounts else None)
        )
    return Totals(sum(one.count for one in chosen), of_currency, buckets, found.is_whole)


# -- What may be done --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offers:
    """What one person may do about a discrepancy as it stands: names of actions.

    limit: the most that may be written off of one in its currency, None for no limit. no_write_off: why none can be
    proposed or approved now, None when it can.
    """

    actions: frozenset[str]
    limit: Decimal | None
    no_write_off: str | None


def offers(found: Found, in_force: Rules) -> Offers:
    """What who is signed in may do. The same is asked again when it is done."""
    one, held = found.line.one, account()
    limit = in_force.rule_set.write_off_limits.get(one.currency or "")
    no_write_off = None
    if not in_force.is_readable:
        no_write_off = (
            "The rules in force were set by another release, and this one cannot read them: nothing can be written"
            " off until rules are set that it can read."
        )
    elif limit is not None and one.amount_at_risk is not None and one.amount_at_risk > limit:
        no_write_off = (
            "More is at risk than may be written off of one discrepancy: it can be resolved only, or the limit"
            " raised by new rules that another person approves."
        )
    allowed: set[str] = set()
    if held.may(Permission.WORK):
        allowed |= {"comment", "evidence"}
        if one.state in CLOSED:
            allowed.add("reopen")
        else:
            allowed.add("assign")
            if one.state == State.OPEN:
                allowed.add("investigate")
            if found.line.proposed_by is None:
                allowed.add("resolve")
                if no_write_off is None:
                    allowed.add("write_off")
            elif is_same_person(found.line.proposed_by, held.name):
                allowed.add("withdraw")
    proposed_by = found.line.proposed_by
    is_anothers = proposed_by is not None and not is_same_person(proposed_by, held.name)
    if held.may(Permission.APPROVE) and is_anothers and one.state not in CLOSED:
        allowed.add("reject")
        if no_write_off is None:
            allowed.add("approve")
    return Offers(frozenset(allowed), limit, no_write_off)


@dataclass(frozen=True, slots=True)
class Again:
    """A form that was refused. action: whose. typed: what it said. words: why nothing was done."""

    action: str
    words: str
    typed: Mapping[str, str] = field(default_factory=dict)


class Incomplete(NotAllowed):
    """A form lacks something, or holds what cannot be read."""


def _given(name: str, said: str) -> str:
    told = request.form.get(name, "").strip()
    if not told:
        raise Incomplete(said)
    if len(told) > TEXT_MAX or "\0" in told:
        raise Incomplete(f"Write at most {TEXT_MAX:,} letters. These are {len(told):,}.")
    return told


def _reason(allowed: Collection[Reason]) -> Reason:
    told = request.form.get("reason", "")
    if told not in set(allowed):
        raise Incomplete("Choose a reason of the list.")
    return Reason(told)


def _comment() -> str | None:
    return _given("comment", "") if request.form.get("comment", "").strip() else None


def _assign() -> Action:
    if "owner" not in request.form:
        raise Incomplete("Choose who looks after it.")
    return domain.Assign(request.form["owner"].strip() or None)


def _propose() -> Action:
    told = request.form.get("amount", "").strip()
    try:
        amount = _amount(told) if told else None
    except ValueError:
        raise Incomplete("The amount cannot be read: load the page anew.") from None
    return domain.ProposeWriteOff(_reason(WRITING_OFF), amount, _comment())


def _resolve() -> Action:
    reason, comment = _reason(RESOLVING), _comment()
    if reason is Reason.EXPLAINED and not comment:
        raise Incomplete("Say in a comment why both sides are right.")
    return domain.Resolve(reason, comment)


# Words said when it is done.
_DONE: dict[str, tuple[Callable[[], Action], str]] = {
    "investigate": (domain.Investigate, "It is being investigated."),
    "assign": (_assign, "Its owner is another now."),
    "comment": (lambda: domain.Comment(_given("comment", "Write a comment.")), "The comment is kept."),
    "evidence": (
        lambda: domain.AddEvidence(_given("evidence", "Give a link that begins with https://.")),
        "The evidence is kept.",
    ),
    "resolve": (_resolve, "It is resolved, until a check sees it again."),
    "write_off": (_propose, "The write-off is proposed. Another person has to approve it."),
    "approve": (lambda: domain.ApproveWriteOff(_comment()), "The write-off is approved, and in force."),
    "reject": (
        lambda: domain.RejectWriteOff(_given("comment", "Say why it is rejected.")),
        "The write-off is rejected. The discrepancy still needs a decision.",
    ),
    "withdraw": (lambda: domain.WithdrawWriteOff(_comment()), "Your proposal is withdrawn."),
    "reopen": (
        lambda: domain.Reopen(_given("comment", "Say why it is opened again.")),
        "It is open again, and its payment link is checked with Wix soon.",
    ),
}
# What may be done to several at once: nothing that is about an amount.
TOGETHER = {
    "investigate": "Investigate",
    "assign": "Assign",
    "comment": "Comment",
    "resolve": "Resolve",
}


def _marked(told: str) -> tuple[UUID, UUID, int]:
    """Instance, discrepancy and newest step of what was marked. Raises ValueError."""
    instance_id, discrepancy_id, step = told.split("/")
    if not _STEP.fullmatch(step):
        raise ValueError("no step")
    return UUID(instance_id), UUID(discrepancy_id), int(step)


def _some(ids: list[str]) -> str:
    rest = len(ids) - _SHOWN_MAX
    return ", ".join(ids[:_SHOWN_MAX]) + (f" and {rest} more" if rest > 0 else "")


def _broken_off(id_: str, rest: int) -> str:
    """How those stand that were not done because the database did not answer. id_: at which; rest: after it."""
    then = f", and the {rest} after it {'was' if rest == 1 else 'were'} not done" if rest else ""
    return (
        f"Then the database did not answer: {id_} may or may not be done{then}. Look, and do the rest again."
    )


def _reasons(allowed: Collection[Reason]) -> list[tuple[str, str]]:
    """Code and words of these reasons, in the order of their list."""
    return [(reason.value, said) for reason, said in REASONS.items() if reason in allowed]


def _beyond_links(given: Mapping[str, str]) -> set[str]:
    """Names of filters that say more than the links above the list do."""
    of_links = {"state": ("", "closed"), "owner": ("", ME, NOBODY), "approval": ("", Approval.MINE)}
    of_links["aging"] = ("", *BUCKETS)
    return {name for name, value in given.items() if value not in of_links.get(name, ("",))}


def _narrowed(**changes: str) -> str:
    """The address of the queue with other filters, from its first page."""
    given = {name: value for name, value in request.args.items() if name != "at"}
    query = {name: value for name, value in (given | changes).items() if value}
    return f"{request.path}?{urlencode(query)}" if query else request.path


def _may_own(site: Site, action: Action, instance_ids: Collection[UUID]) -> Callable[[UUID], None]:
    """A check that raises NotAllowed when who is to own something of an instance may not work there."""
    if not isinstance(action, domain.Assign) or action.owner in (None, account().name):
        return lambda instance_id: None
    owner = action.owner
    with site.read() as connection:
        names = {one: discrepancies.workers(connection, Reach(frozenset({one}))) for one in instance_ids}

    def check(instance_id: UUID) -> None:
        if owner not in names[instance_id]:
            raise NotAllowed("no account of that name may work on this instance: choose one of the list")

    return check


def _pages_of(found: Found, steps: Slice[Any]) -> Pages:
    """The pages of its history, also where a form of it is shown again."""

    def page(at: Position | None) -> str | None:
        one = found.line.one
        if at is None:
            return None
        return url_for(
            "discrepancies.discrepancy",
            instance_id=one.instance_id,
            discrepancy_id=one.discrepancy_id,
            at=at.text(),
            _anchor="history",
        )

    return Pages(page(steps.before), page(steps.after))


def is_link(evidence: str) -> bool:
    """Whether evidence is what may be a link on a page."""
    return evidence.startswith(("https://", "http://"))


# -- Routes ------------------------------------------------------------------------------------------


def blueprint(site: Site) -> Blueprint:
    """`/discrepancies` and what is below it."""
    routes = Blueprint("discrepancies", __name__)

    def queue(again: Again | None = None, chosen: frozenset[str] = frozenset()) -> str:
        look = asked(request.args, account().name, reach())
        by, now = look.by, site.services.now()
        at = position(datetime, UUID)
        with site.read() as connection:
            found: Sifted[QueueLine] = Sifted(Slice([], None, None), None)
            added, waiting = Sums([], True), 0
            if not look.wrong:
                found = discrepancies.page(connection, by, reach(), at=at, now=now)
                if not by.is_by_closing:
                    is_whole = request.args.get("totals") == "all"
                    added = discrepancies.sums(connection, by, reach(), now=now, is_whole=is_whole)
                if by.is_open and account().may(Permission.APPROVE):
                    waiting = discrepancies.waiting(connection, by, reach())
            sums = totals(added, by)
            names = discrepancies.workers(connection, reach())
            instances = choices(connection, reach())
        return render_template(
            "discrepancies.html",
            look=look,
            by=by,
            found=found,
            pages=around(found.page),
            is_first=at is None,
            sums=sums,
            waiting=waiting,
            has_totals=not look.wrong and not by.is_by_closing,
            names=names,
            instances=instances,
            aging=lambda since: domain.aging(now - since),
            buckets=list(zip(BUCKETS, [name for name, _ in AGING], sums.buckets, strict=True)),
            narrowed=_narrowed,
            here=here,
            explanation=explanation,
            states=[(name, said) for name, (said, _) in STATES.items()],
            types=sorted(((one.value, type_words(one)) for one in DiscrepancyType), key=lambda pair: pair[1]),
            type_words=type_words,
            together=list(TOGETHER.items()),
            severities=[(one.value, words(one)) for one in Severity],
            resolving=_reasons(RESOLVING),
            persisting=sorted(
                {type_words(line.one.type) for line in found.page.items if line.one.type in PERSISTING}
            ),
            persists=PERSISTS,
            again=again,
            chosen=chosen,
            is_narrowed=any(look.given.values()),
            is_filter_open=bool(look.wrong) or bool(_beyond_links(look.given)),
            looked_max=discrepancies.LOOKED_MAX,
            Approval=Approval,
        )

    @routes.get("/discrepancies")
    @needs(Permission.READ)
    def index() -> str:
        return queue()

    @routes.post("/discrepancies")
    @needs(Permission.WORK, keeps=("action", "owner", "reason"))
    def together() -> Response | tuple[str, int]:
        """Do the same to each of several, each in a transaction of its own."""
        name = request.form.get("action", "")
        chosen = list(dict.fromkeys(request.form.getlist("chosen")))

        def once_more(said: str) -> tuple[str, int]:
            return queue(Again(name, said, request.form), frozenset(chosen)), 422

        if name not in TOGETHER:
            return once_more("Choose what to do with those that are marked.")
        try:
            marked = [_marked(one) for one in chosen[: TOGETHER_MAX + 1]]
        except ValueError:
            return once_more("What is marked cannot be read: load the page anew.")
        if not marked:
            return once_more("Mark at least one discrepancy.")
        if len(marked) > TOGETHER_MAX:
            return once_more(f"At most {TOGETHER_MAX} at once.")
        for instance_id, _, _ in marked:
            if not reach().holds(instance_id):
                abort(404)
        try:
            action = _DONE[name][0]()
        except NotAllowed as why:
            return once_more(in_words(why))
        of_instances: dict[UUID, list[UUID]] = {}
        for instance_id, discrepancy_id, _ in marked:
            of_instances.setdefault(instance_id, []).append(discrepancy_id)
        site.guard.record_of(of_instances, "discrepancies")
        done_, why_not, broken = 0, dict[str, list[str]](), ""
        may_own = _may_own(site, action, {instance_id for instance_id, _, _ in marked})
        for number, (instance_id, discrepancy_id, step) in enumerate(marked):
            try:
                may_own(instance_id)
                decisions.decide(
                    site.services,
                    discrepancy_id,
                    action,
                    actor=account().name,
                    instance_id=instance_id,
                    seen_step=step,
                )
                done_ += 1
            except NotAllowed as why:
                why_not.setdefault(in_words(why), []).append(str(discrepancy_id)[:8])
            except StoreUnavailable as why:
                # Those before it stand, each in a transaction of its own.
                log.warning(
                    "page_unavailable", page=request.endpoint, error=str(why), request_id=g.request_id
                )
                broken = _broken_off(str(discrepancy_id)[:8], len(marked) - number - 1)
                break
        back = here()
        if not why_not and not broken:
            return done(back, f"{TOGETHER[name]}: {done_} of {len(marked)}.")
        listed = [f"Not {_some(ids)}: {said}" for said, ids in why_not.items()]
        said_ = [f"{TOGETHER[name]}: {done_} of {len(marked)}.", broken, *listed]
        return refused(back, " ".join(one for one in said_ if one))

    def shown(instance_id: UUID, discrepancy_id: UUID, again: Again | None = None) -> str:
        now = site.services.now()
        at = position(int)
        with site.read() as connection:
            found = discrepancies.find(connection, instance_id, discrepancy_id)
            if found is None:
                abort(404)
            one = found.line.one
            steps = discrepancies.steps(connection, discrepancy_id, at=at)
            in_force = rules.in_force(connection)
            sides = store_sides.sides(
                connection, instance_id, one.payment_link_id, one.payment_id, found.last_run_id
            )
            names = discrepancies.workers(connection, Reach(frozenset({instance_id})))
            beside = discrepancies.page(
                connection,
                Filter(asker=account().name, instance_id=instance_id, payment_link_id=one.payment_link_id),
                reach(),
                at=None,
                now=now,
            ).page
        may = offers(found, in_force)
        if again is not None and again.action not in may.actions:
            # Its form is not there any more; what was typed is not lost.
            typed = {"comment": again.typed.get("comment") or again.typed.get("evidence") or ""}
            again = Again("comment" if typed["comment"] else "", again.words, typed)
        known = one.type in set(DiscrepancyType)
        return render_template(
            "discrepancy.html",
            found=found,
            one=one,
            explanation=explanation(one.type),
            step_words=step_words,
            type_words=type_words,
            advice=ADVICE[DiscrepancyType(one.type)] if known else "Upgrade this service to see what to do.",
            aging=domain.aging(now - one.aged_from),
            rows=compared(one, sides),
            sides=sides,
            difference=one.sides.get(domain.DIFFERENCE),
            steps=steps,
            pages=_pages_of(found, steps),
            may_do=may,
            names=names,
            rules=in_force,
            beside=[line for line in beside.items if line.one.discrepancy_id != discrepancy_id][:5],
            beside_count=len(beside.items) - 1,
            has_more_beside=beside.after is not None,
            reasons={reason.value: said for reason, said in REASONS.items()},
            resolving=_reasons(RESOLVING),
            writing_off=_reasons(WRITING_OFF),
            again=again,
            is_persisting=one.type in PERSISTING,
            persists=PERSISTS,
            is_link=is_link,
            is_same_person=is_same_person,
        )

    @routes.get("/discrepancies/<uuid:instance_id>/<uuid:discrepancy_id>")
    @needs(Permission.READ)
    def discrepancy(instance_id: UUID, discrepancy_id: UUID) -> str:
        return shown(instance_id, discrepancy_id)

    def act(instance_id: UUID, discrepancy_id: UUID, name: str) -> Response | tuple[str, int]:
        page = url_for("discrepancies.discrepancy", instance_id=instance_id, discrepancy_id=discrepancy_id)
        make, said = _DONE[name]
        with site.read() as connection:
            if discrepancies.find(connection, instance_id, discrepancy_id) is None:
                abort(404)
        try:
            step = request.form.get("step", "")
            if not _STEP.fullmatch(step):
                raise Incomplete("The form is not whole: load the page anew.")
            action = make()
            _may_own(site, action, {instance_id})(instance_id)
            decisions.decide(
                site.services,
                discrepancy_id,
                action,
                actor=account().name,
                instance_id=instance_id,
                seen_step=int(step),
            )
        except NotAllowed as why:
            if not any(request.form.get(field_, "").strip() for field_ in ("comment", "evidence", "reason")):
                return refused(page, why)
            return shown(instance_id, discrepancy_id, Again(name, in_words(why), request.form)), 422
        return done(page, said)

    def offer(name: str, permission: Permission, keeps: tuple[str, ...] = ()) -> None:
        @needs(permission, keeps=keeps)
        def view(instance_id: UUID, discrepancy_id: UUID) -> Response | tuple[str, int]:
            return act(instance_id, discrepancy_id, name)

        path = f"/discrepancies/<uuid:instance_id>/<uuid:discrepancy_id>/{name.replace('_', '-')}"
        routes.add_url_rule(path, name, view, methods=["POST"])

    offer("investigate", Permission.WORK)
    offer("assign", Permission.WORK, ("owner",))
    offer("comment", Permission.WORK)
    offer("evidence", Permission.WORK)
    offer("resolve", Permission.WORK, ("reason",))
    offer("write_off", Permission.WORK, ("reason", "amount"))
    offer("withdraw", Permission.WORK)
    offer("reopen", Permission.WORK)
    offer("approve", Permission.APPROVE)
    offer("reject", Permission.APPROVE)
    return routes
