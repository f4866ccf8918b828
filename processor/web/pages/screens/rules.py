"""The rules of reconciliation: what is in force, what was, and what somebody proposes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from flask import Blueprint, abort, render_template, request, url_for
from sqlalchemy import Connection
from werkzeug.wrappers import Response

from processor import decisions
from processor.domain.access import EVERYWHERE, Permission
from processor.domain.discrepancy import is_same_person
from processor.domain.rules import BUILT_IN, TOLERABLE, RuleSet, Tolerance, decode, may_tolerate, parse
from processor.errors import NotAllowed
from processor.store import rules as store
from processor.store.rules import RuleSetLine
from processor.store.screens import rules as screen
from processor.web.pages import rule_forms
from processor.web.pages.access import account, made, needs, reach
from processor.web.pages.formats import amount as grouped
from processor.web.pages.formats import words
from processor.web.pages.paging import around, position
from processor.web.pages.rule_forms import Draft
from processor.web.pages.site import Site, done, in_words, refused

VERSION_MAX = 2**63 - 1
WAITING_MAX = 10
OPEN_MAX = 2_000  # open discrepancies that are looked at to say what rules would change
ONLY_EVERYWHERE = "Rules hold for every app instance, so only who sees every one sets them."


@dataclass(frozen=True, slots=True)
class Question:
    """Something that Wix does not document, and what follows from each answer."""

    name: str
    asks: str
    yes: str
    no: str
    unknown: str


QUESTIONS = (
    Question(
        "total_falls_on_refund",
        "Does the total received of a payment link fall when a payment of it is refunded?",
        "A total that is lower by just what was refunded is no difference; one lower otherwise is informational.",
        "A total that is lower than what is booked is an error.",
        "A total that is lower than what is booked is informational.",
    ),
    Question(
        "split_counts_once",
        "Does a purchase split over a gift card and a card count once in a link's number of payments?",
        "A split purchase is counted as one payment.",
        "Each part of a split purchase is counted.",
        "Either number is right.",
    ),
    Question(
        "checkout_outlives_link",
        "Can a checkout begun in time be paid after its link expired or was deactivated?",
        "A payment after that is no difference.",
        "A payment after that is an error.",
        "A payment after that is informational.",
    ),
    Question(
        "last_payment_is_transaction",
        "Is the date of a link's last payment when the buyer paid?",
        "Another date than when the buyer paid is an error.",
        "Another date than when Wix made the payment's record is an error.",
        "Either date is right; another is informational.",
    ),
    Question(
        "status_follows_facts",
        "Is a link PAID just when its limit is reached, and EXPIRED from its expiry on?",
        "A status that contradicts its payments, limit or expiry is an error.",
        "Its status is not compared.",
        "A status that contradicts them is informational.",
    ),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a version answers a question: "Yes", "No" or "Not known", and what follows."""

    asks: str
    answer: str
    follows: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What rules would change for the open discrepancies of a currency; None for those of which no money is known.

    open: those whose type rules can tolerate. freed, amount: how many of them would need no decision any more, and
    their sum at risk. unclear: of how many that depends on a percentage of what is booked.
    """

    currency: str | None
    open: int
    freed: int
    amount: Decimal
    unclear: int


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between two versions; None for what the one does not have."""

    what: str
    before: str | None
    after: str | None


def answers(rule_set: RuleSet) -> list[Answer]:
    """Every question and how these rules answer it."""
    found = []
    for one in QUESTIONS:
        held = getattr(rule_set.assumptions, one.name)
        follows = one.unknown if held is None else one.yes if held else one.no
        found.append(Answer(one.asks, _answer(held), follows))
    return found


def _answer(held: bool | None) -> str:
    return "Not known" if held is None else "Yes" if held else "No"


def meaning(one: Tolerance) -> str:
    """What a tolerance says, in a sentence."""
    limits = []
    if one.amount is not None and one.currency is not None:
        limits.append(f"{grouped(one.amount, one.currency)} {one.currency}")
    if one.percent is not None:
        limits.append(f"{one.percent:f} % of what is booked")
    said = f"Up to {' and '.join(limits)}"
    if one.currency is not None and one.amount is None:
        said += f", in {one.currency}"
    if one.days is not None:
        said += f", for {one.days:f} day{'' if one.days == 1 else 's'}"
    return f"{said}: needs no decision."


def _flat(rule_set: RuleSet) -> dict[str, str]:
    found = {
        f"Tolerance {one.id}": f"{words(one.type)}: {meaning(one)[:1].lower()}{meaning(one)[1:]}"
        for one in sorted(rule_set.tolerances, key=lambda one: one.id)
    }
    for currency, amount in sorted(rule_set.write_off_limits.items()):
        found[f"Write-off limit in {currency}"] = f"{grouped(amount, currency)} {currency}"
    for one in QUESTIONS:
        found[one.asks] = _answer(getattr(rule_set.assumptions, one.name))
    return found


def changes(before: RuleSet, after: RuleSet) -> list[Change]:
    """What differs from one version to another."""
    old, new = _flat(before), _flat(after)
    return [
        Change(what, old.get(what), new.get(what))
        for what in dict.fromkeys((*new, *old))
        if old.get(what) != new.get(what)
    ]


def effects(found: list[screen.OpenDifference], rule_set: RuleSet, now: datetime) -> list[Effect]:
    """What these rules would change for these discrepancies at their next check, a line for each currency."""
    by_currency: dict[str | None, list[screen.OpenDifference]] = {}
    for one in found:
        by_currency.setdefault(one.currency, []).append(one)
    told = []
    for currency, ones in sorted(by_currency.items(), key=lambda item: item[0] or "~"):
        said = [
            may_tolerate(one.type, one.amount_at_risk, one.currency, rule_set, age=now - one.opened_at)
            for one in ones
        ]
        freed = [one for one, is_free in zip(ones, said, strict=True) if is_free]
        told.append(
            Effect(
                currency,
                len(ones),
                len(freed),
                sum((one.amount_at_risk or Decimal(0) for one in freed), Decimal(0)),
                said.count(None),
            )
        )
    return told


def read(document: Any) -> RuleSet | None:
    """The rules of a stored version, None when this release cannot read them."""
    try:
        return parse(document)
    except NotAllowed:
        return None


def status(one: RuleSetLine, in_force: int | None) -> str:
    """What became of a version."""
    if one.version == in_force:
        return "in_force"
    if one.approved_by is not None:
        return "replaced"
    if one.ended is not None:
        return one.ended
    return "waiting" if one.version > (in_force or 0) else "passed_over"


STATUSES = {
    "in_force": ("In force", "good"),
    "replaced": ("Replaced", "quiet"),
    "waiting": ("Waits for approval", "warn"),
    "passed_over": ("Passed over", "quiet"),
    "withdrawn": ("Withdrawn", "quiet"),
    "rejected": ("Rejected", "bad"),
}


def _document_of(one: RuleSetLine | None) -> str:
    """What a proposal begins with: the rules of a version, every part of it named."""
    document = one.document if one else {}
    whole = {"tolerances": [], "write_off_limits": {}, "assumptions": {}} | document
    return json.dumps(whole, indent=2, ensure_ascii=False)


def _document_of_rules(rule_set: RuleSet) -> str:
    return json.dumps(msgspec.to_builtins(rule_set, str_keys=True), ensure_ascii=False)


def blueprint(site: Site) -> Blueprint:
    """`/rules`."""
    routes = Blueprint("rules", __name__, url_prefix="/rules")

    @routes.get("")
    @needs(Permission.READ)
    def index() -> str:
        at = position(int)
        with site.read() as connection:
            in_force = store.in_force(connection)
            number = in_force.version
            held = store.find(connection, number) if number is not None else None
            found = screen.versions(connection, at=at)
            waiting = screen.waiting(connection, number or 0, WAITING_MAX)
        return render_template(
            "rules.html",
            held=held,
            rule_set=in_force.rule_set if in_force.is_readable else None,
            found=found,
            pages=around(found),
            waiting=waiting,
            number=number,
            may_set=reach() == EVERYWHERE,
            **_PARTS,
        )

    @routes.get("/<int:version>")
    @needs(Permission.READ)
    def version(version: int) -> str:
        return shown(version)

    def shown(version: int, wrong: str = "", reason: str = "") -> str:
        if not 0 < version <= VERSION_MAX:
            abort(404)
        with site.read() as connection:
            one = store.find(connection, version)
            if one is None:
                abort(404)
            number = store.in_force(connection).version
            before = screen.in_force_before(connection, version)
            rule_set = read(one.document)
            became = status(one, number)
            effect = look(connection, rule_set) if rule_set is not None and became == "waiting" else None
        before_set = read(before.document) if before else BUILT_IN.rule_set
        is_own = is_same_person(one.created_by, account().name)
        may_decide = became == "waiting" and account().may(Permission.APPROVE) and reach() == EVERYWHERE
        return render_template(
            "rules_version.html",
            one=one,
            rule_set=rule_set,
            before=before,
            changes=changes(before_set, rule_set)
            if rule_set is not None and before_set is not None
            else None,
            effect=effect,
            number=number,
            became=became,
            is_own=is_own,
            may_approve=may_decide and rule_set is not None and not is_own,
            may_reject=may_decide and not is_own,
            may_withdraw=(
                became == "waiting" and is_own and account().may(Permission.WORK) and reach() == EVERYWHERE
            ),
            may_set=reach() == EVERYWHERE,
            raw=json.dumps(one.document, indent=2, ensure_ascii=False),
            wrong=wrong,
            reason=reason,
            **_PARTS,
        )

    def look(connection: Connection, rule_set: RuleSet) -> dict[str, Any] | None:
        """What rules would change for the discrepancies that are open; None for who does not see them all."""
        if reach() != EVERYWHERE:
            return None
        found, is_cut = screen.open_differences(connection, OPEN_MAX)
        return {
            "lines": effects(found, rule_set, site.services.now()),
            "is_cut": is_cut,
            "most": OPEN_MAX,
        }

    def form(
        draft: Draft | None = None,
        *,
        document: str | None = None,
        comment: str = "",
        wrong: dict[str, str] | None = None,
        top: str = "",
    ) -> str:
        with site.read() as connection:
            in_force = store.in_force(connection)
            held = store.find(connection, in_force.version) if in_force.version is not None else None
        return render_template(
            "rules_new.html",
            draft=draft or rule_forms.of(in_force.rule_set, comment),
            document=_document_of(held) if document is None else document,
            comment=comment,
            wrong=wrong or {},
            top=top,
            number=in_force.version,
            is_readable=in_force.is_readable,
            questions=QUESTIONS,
            types=rule_forms.TYPES,
            answers_=rule_forms.ANSWERS,
            tolerable=sorted(TOLERABLE),
        )

    def objection(connection: Connection, rule_set: RuleSet) -> str:
        """Why there is no point in proposing these rules, "" when there is."""
        in_force = store.in_force(connection)
        if in_force.rule_set == rule_set:
            return "These rules are in force already: change something."
        # One that was passed over waits for nobody: it has to be proposed anew.
        for one in screen.waiting(connection, in_force.version or 0, WAITING_MAX):
            if read(one.document) == rule_set:
                return f"Version {one.version} proposes just these, and waits for approval."
        return ""

    def understood(document: str) -> tuple[RuleSet | None, str]:
        """The rules of a document as it was typed, or why there are none."""
        try:
            return parse(decode(document)), ""
        except NotAllowed as why:
            return None, in_words(why)
        except ValueError as why:
            return None, f"It cannot be read as JSON: {why}."

    @routes.get("/new")
    @needs(Permission.WORK)
    def new() -> str | Response:
        if reach() != EVERYWHERE:
            return refused(url_for("rules.index"), ONLY_EVERYWHERE)
        return form()

    @routes.post("/draft")
    @needs(Permission.WORK, is_recorded=False)
    def draft() -> str | Response | tuple[str, int]:
        """Add or remove a line, go back to the form, or show what the rules in it would change. Proposes nothing."""
        if reach() != EVERYWHERE:
            return refused(url_for("rules.index"), ONLY_EVERYWHERE)
        asked, document = request.form.get("step", ""), request.form.get("document")
        comment = request.form.get("comment", "").strip()
        if document is not None:
            rule_set, why = understood(document)
            if rule_set is not None and asked == "edit":
                return form(rule_forms.of(rule_set, comment), comment=comment)
            wrong = {"document": why} if why else {}
            if told := rule_forms.comment_problem(comment):
                wrong["comment"] = told
            if rule_set is None or wrong:
                return form(document=document, comment=comment, wrong=wrong), 422
            return preview(rule_set, comment)
        entered = rule_forms.read(request.form)
        if rule_forms.step(entered, asked):
            return form(entered)
        checked = rule_forms.check(entered)
        if checked is None:
            return form(entered), 422
        try:
            rule_set = parse(checked)
        except NotAllowed as refusal:
            return form(entered, top=in_words(refusal)), 422
        return preview(rule_set, entered.comment, entered)

    def preview(rule_set: RuleSet, comment: str, entered: Draft | None = None) -> str | tuple[str, int]:
        with site.read() as connection:
            in_force = store.in_force(connection)
            why = objection(connection, rule_set)
            effect = look(connection, rule_set)
        if why:
            return form(entered or rule_forms.of(rule_set, comment), comment=comment, top=why), 422
        return render_template(
            "rules_preview.html",
            rule_set=rule_set,
            changes=changes(in_force.rule_set, rule_set),
            effect=effect,
            number=in_force.version,
            document=_document_of_rules(rule_set),
            comment=comment,
            **_PARTS,
        )

    @routes.post("")
    @needs(Permission.WORK)
    def propose() -> Response | tuple[str, int]:
        if reach() != EVERYWHERE:
            return refused(url_for("rules.index"), ONLY_EVERYWHERE)
        document, comment = request.form.get("document", ""), request.form.get("comment", "").strip()
        wrong: dict[str, str] = {}
        if told := rule_forms.comment_problem(comment):
            wrong["comment"] = told
        rule_set, why = understood(document)
        if rule_set is not None:
            with site.read() as connection:
                why = objection(connection, rule_set)
        if why:
            wrong["document"] = why
        if wrong:
            return form(document=document, comment=comment, wrong=wrong), 422
        try:
            number = decisions.propose_rules(
                site.services, decode(document), actor=account().name, comment=comment or None
            )
        except NotAllowed as refusal:
            return form(document=document, comment=comment, wrong={"document": in_words(refusal)}), 422
        made(number)
        return done(
            url_for("rules.version", version=number),
            f"Version {number} is proposed. Another person puts it in force.",
        )

    @routes.post("/<int:version>/withdraw")
    @needs(Permission.WORK)
    def withdraw(version: int) -> Response:
        if not 0 < version <= VERSION_MAX:
            abort(404)
        where = url_for("rules.version", version=version)
        if reach() != EVERYWHERE:
            return refused(where, ONLY_EVERYWHERE)
        try:
            decisions.withdraw_rules(
                site.services, version, actor=account().name, reason=request.form.get("reason")
            )
        except NotAllowed as why:
            return refused(where, why)
        return done(where, f"Version {version} is withdrawn.")

    @routes.post("/<int:version>/reject")
    @needs(Permission.APPROVE)
    def reject(version: int) -> Response | tuple[str, int]:
        if not 0 < version <= VERSION_MAX:
            abort(404)
        where = url_for("rules.version", version=version)
        if reach() != EVERYWHERE:
            return refused(where, ONLY_EVERYWHERE)
        reason = request.form.get("reason", "").strip()
        if told := rule_forms.comment_problem(reason):
            return shown(version, told, reason), 422
        if not reason:
            return shown(version, "Say why: who proposed these rules has to know."), 422
        try:
            decisions.reject_rules(site.services, version, actor=account().name, reason=reason)
        except NotAllowed as why:
            return refused(where, why)
        return done(where, f"Version {version} is rejected.")

    @routes.post("/<int:version>/approve")
    @needs(Permission.APPROVE)
    def approve(version: int) -> Response:
        if not 0 < version <= VERSION_MAX:
            abort(404)
        where = url_for("rules.version", version=version)
        if reach() != EVERYWHERE:
            return refused(where, ONLY_EVERYWHERE)
        told = request.form.get("in_force", "")
        if not told.isascii() or not told.isdigit() or len(told) > 18:
            return refused(where, "The form is not whole: load the page anew.")
        try:
            decisions.approve_rules(site.services, version, actor=account().name, seen_in_force=int(told))
        except NotAllowed as why:
            return refused(where, why)
        return done(where, f"Version {version} is in force from the next check on.")

    return routes


_PARTS: dict[str, Any] = {
    "answers": answers,
    "meaning": meaning,
    "status": status,
    "statuses": STATUSES,
}
