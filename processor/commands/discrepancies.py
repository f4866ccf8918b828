"""`processor discrepancies` and `processor rules`: what needs a decision, and by which rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from processor.commands.common import (
    Impossible,
    actor_option,
    any_instance_option,
    echo_fields,
    echo_json,
    echo_table,
    json_option,
    limit_option,
    open_services,
    plain,
    printable,
    shown,
    window_options,
)
from processor.domain import discrepancy as domain
from processor.domain import money
from processor.domain.discrepancy import DiscrepancyType, Reason, State

if TYPE_CHECKING:
    from processor.store.listings import DiscrepancyLine, StepLine, WriteOffLine

STEPS_MAX = 1_000
F = TypeVar("F", bound=Callable[..., Any])


def _choice(*values: str) -> click.Choice[str]:
    return click.Choice([str(value) for value in values])


_comment_option = click.option("--comment", help="Why, in words.")


@click.group("discrepancies")
def discrepancies() -> None:
    """Differences that need a decision, and their history."""


# -- Reading ---------------------------------------------------------------------------------------


@discrepancies.command("list")
@click.option("--all", "with_closed", is_flag=True, help="Closed ones, too.")
@click.option("--state", type=_choice(*State), help="In this state; implies --all.")
@click.option("--type", "type_", type=_choice(*DiscrepancyType), metavar="TYPE", help="Of this type.")
@click.option("--owner", help="Looked after by this person.")
@click.option("--link", "payment_link_id", type=click.UUID, help="Of this payment link.")
@click.option("--payment", "payment_id", type=click.UUID, help="Of this payment.")
@any_instance_option
@window_options
@limit_option
@json_option
def list_discrepancies(
    with_closed: bool,
    state: str | None,
    type_: str | None,
    owner: str | None,
    limit: int,
    as_json: bool,
    **narrowing: Any,
) -> None:
    """List open discrepancies, the oldest first."""
    from processor.store import listings

    services = open_services()
    by = listings.Narrowing(status=state, type=type_, **narrowing)
    with services.database.begin() as connection:
        found = listings.discrepancies(
            connection, by, limit=limit, is_closed=None if with_closed or state else False, owner=owner
        )
    if as_json:
        echo_json([_document(one, services.now()) for one in found])
        return
    echo_table(
        ("discrepancy", "type", "severity", "state", "age", "amount", "currency", "owner", "payment or link"),
        [
            (
                one.discrepancy_id,
                one.type,
                one.severity,
                one.state,
                domain.aging(services.now() - one.aged_from),
                _money(one.amount_at_risk, one.currency),
                one.currency,
                one.owner,
                one.payment_id or one.payment_link_id,
            )
            for one in found
        ],
        nothing="no such discrepancy",
    )
    if len(found) == limit:
        click.echo(f"only the oldest {limit} are listed; --limit shows more")


def _money(amount: Decimal | None, currency: str | None) -> str | None:
    """In the currency's own decimals."""
    return None if amount is None or currency is None else money.shown(amount, currency)


def _document(one: DiscrepancyLine, now: datetime) -> dict[str, Any]:
    return {**plain(one), "aging": domain.aging(now - one.aged_from)}


@discrepancies.command("show")
@click.argument("discrepancy_id", type=click.UUID)
@json_option
def show_discrepancy(discrepancy_id: UUID, as_json: bool) -> None:
    """Show a discrepancy, what to do about it, and its history."""
    from processor.store import listings

    services = open_services()
    with services.database.begin() as connection:
        found = listings.discrepancies(
            connection, listings.Narrowing(), limit=1, discrepancy_id=discrepancy_id
        )
        if not found:
            raise Impossible("no such discrepancy: `processor discrepancies list` shows what there is")
        steps = listings.steps(connection, discrepancy_id, STEPS_MAX)
        offs = listings.write_offs(
            connection, listings.Narrowing(), limit=1_000, discrepancy_id=discrepancy_id
        )
    one = found[0]
    type_ = DiscrepancyType(one.type)
    if as_json:
        document = {
            **_document(one, services.now()),
            "explanation": domain.EXPLANATIONS[type_],
            "advice": domain.ADVICE[type_],
        }
        echo_json({"discrepancy": document, "steps": steps, "write_offs": offs})
        return
    click.echo(f"{domain.EXPLANATIONS[type_]}\n{domain.ADVICE[type_]}\n")
    fields = {name: value for name, value in dataclasses.asdict(one).items() if name != "sides"}
    fields["amount_at_risk"] = _money(one.amount_at_risk, one.currency)
    fields["aging"] = domain.aging(services.now() - one.aged_from)
    echo_fields(
        [*fields.items(), *((domain.SIDES.get(side, side), told) for side, told in one.sides.items())]
    )
    click.echo("\nHistory" + (f", the newest {STEPS_MAX} steps" if len(steps) == STEPS_MAX else ""))
    echo_table(
        ("when", "step", "by", "state", "what"),
        [(step.at, step.kind, step.actor, step.state, _told(step)) for step in steps],
        nothing="none: it is older than histories are",
    )
    if offs:
        click.echo("\nWrite-offs")
        _echo_write_offs(offs)


def _told(step: StepLine) -> str:
    said: list[str] = []
    if step.kind in ("opened", "changed", "reopened"):
        said += [f"{side}: {told}" for side, told in step.sides.items() if told is not None]
    if step.kind in ("investigated", "assigned"):
        said.append(f"owner: {step.owner or 'nobody'}")
    if step.reason:
        said.append(step.reason)
    if step.amount is not None and step.currency is not None:
        said.append(f"{_money(step.amount, step.currency)} {step.currency}")
    said += [text for text in (step.comment, step.evidence) if text]
    return "; ".join(said)


@discrepancies.command("write-offs")
@click.option(
    "--status",
    type=_choice("proposed", "approved", "rejected", "withdrawn", "voided", "reversed"),
    help="What became of it.",
)
@any_instance_option
@window_options
@limit_option
@json_option
def list_write_offs(limit: int, as_json: bool, **narrowing: Any) -> None:
    """The register of write-offs, the newest first.

    Those with `--status proposed` wait for approval.
    """
    from processor.store import listings

    services = open_services()
    with services.database.begin() as connection:
        found = listings.write_offs(connection, listings.Narrowing(**narrowing), limit=limit)
    if as_json:
        echo_json(found)
    else:
        _echo_write_offs(found)


def _echo_write_offs(found: list[WriteOffLine]) -> None:
    echo_table(
        (
            "discrepancy",
            "amount",
            "currency",
            "reason",
            "status",
            "proposed",
            "by",
            "approved by",
            "ended by",
        ),
        [
            (
                one.discrepancy_id,
                _money(one.amount, one.currency),
                one.currency,
                one.reason,
                one.status,
                one.proposed_at,
                one.proposed_by,
                one.approved_by,
                one.ended_by,
            )
            for one in found
        ],
        nothing="no such write-off",
    )


# -- Deciding --------------------------------------------------------------------------------------


def _deciding(command: F) -> F:
    for option in (json_option, actor_option, click.argument("discrepancy_id", type=click.UUID)):
        command = option(command)
    return command


def _decide(discrepancy_id: UUID, action: domain.Action, actor: str, as_json: bool) -> None:
    from processor import decisions

    services = open_services()
    step = decisions.decide(services, discrepancy_id, action, actor=actor)
    if as_json:
        echo_json(
            {"discrepancy_id": discrepancy_id, "step": step.kind, "state": step.after.state, "actor": actor}
        )
        return
    click.echo(f"{step.kind.value.replace('_', ' ')} by {actor}: it is {step.after.state.replace('_', ' ')}")
    if step.kind is domain.StepKind.WRITE_OFF_PROPOSED:
        click.echo(f"another person approves it: processor discrepancies approve {discrepancy_id} --as NAME")


@discrepancies.command("investigate")
@_deciding
def investigate(discrepancy_id: UUID, actor: str, as_json: bool) -> None:
    """Take it up; who does so owns it unless it has an owner."""
    _decide(discrepancy_id, domain.Investigate(), actor, as_json)


@discrepancies.command("assign")
@_deciding
@click.argument("owner", required=False)
def assign(discrepancy_id: UUID, owner: str | None, actor: str, as_json: bool) -> None:
    """Give it to OWNER, or to nobody."""
    _decide(discrepancy_id, domain.Assign(owner), actor, as_json)


@discrepancies.command("comment")
@_deciding
@click.argument("text")
def comment_on(discrepancy_id: UUID, text: str, actor: str, as_json: bool) -> None:
    """Say something about it, without buyers' personal data."""
    _decide(discrepancy_id, domain.Comment(text), actor, as_json)


@discrepancies.command("evidence")
@_deciding
@click.argument("url")
def evidence(discrepancy_id: UUID, url: str, actor: str, as_json: bool) -> None:
    """Point to what shows how it is."""
    _decide(discrepancy_id, domain.AddEvidence(url), actor, as_json)


@discrepancies.command("resolve")
@_deciding
@click.option("--reason", type=_choice(*sorted(domain.RESOLVING)), required=True, help="Why it is over.")
@_comment_option
def resolve(discrepancy_id: UUID, reason: str, comment: str | None, actor: str, as_json: bool) -> None:
    """Close it, until a check sees it again."""
    _decide(discrepancy_id, domain.Resolve(Reason(reason), comment), actor, as_json)


def _amount(_context: click.Context, _option: click.Parameter, value: str | None) -> Decimal | None:
    if value is None:
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise click.BadParameter(f"{value} is no amount: write 12.50") from None
    if not amount.is_finite():
        raise click.BadParameter(f"{value} is no amount: write 12.50")
    return amount


@discrepancies.command("write-off")
@_deciding
@click.option(
    "--reason", type=_choice(*sorted(domain.WRITING_OFF)), required=True, help="Why it is accepted."
)
@click.option("--amount", callback=_amount, help="What you believe is at risk; refused when it is not.")
@_comment_option
def write_off(
    discrepancy_id: UUID, reason: str, amount: Decimal | None, comment: str | None, actor: str, as_json: bool
) -> None:
    """Propose to accept the difference; another person approves."""
    _decide(discrepancy_id, domain.ProposeWriteOff(Reason(reason), amount, comment), actor, as_json)


@discrepancies.command("approve")
@_deciding
@_comment_option
def approve(discrepancy_id: UUID, comment: str | None, actor: str, as_json: bool) -> None:
    """Accept the write-off another person proposed."""
    _decide(discrepancy_id, domain.ApproveWriteOff(comment), actor, as_json)


@discrepancies.command("reject")
@_deciding
@click.argument("comment")
def reject(discrepancy_id: UUID, comment: str, actor: str, as_json: bool) -> None:
    """Refuse the write-off another person proposed, saying why."""
    _decide(discrepancy_id, domain.RejectWriteOff(comment), actor, as_json)


@discrepancies.command("withdraw")
@_deciding
@_comment_option
def withdraw(discrepancy_id: UUID, comment: str | None, actor: str, as_json: bool) -> None:
    """Take your own proposal of a write-off back."""
    _decide(discrepancy_id, domain.WithdrawWriteOff(comment), actor, as_json)


@discrepancies.command("reopen")
@_deciding
@click.argument("comment")
def reopen(discrepancy_id: UUID, comment: str, actor: str, as_json: bool) -> None:
    """Look at a closed one again, saying why.

    A write-off in force is reversed, and the link is checked again.
    """
    _decide(discrepancy_id, domain.Reopen(comment), actor, as_json)


# -- Rules -----------------------------------------------------------------------------------------


@click.group("rules")
def rules() -> None:
    """Tolerances, write-off limits and assumptions."""


@rules.command("show")
@click.option("--version", type=click.IntRange(1), help="This version instead of the one in force.")
@json_option
def show_rules(version: int | None, as_json: bool) -> None:
    """Show the rules in force."""
    import msgspec

    from processor.domain.rules import BUILT_IN
    from processor.store import rules as store

    services = open_services()
    with services.database.begin() as connection:
        number = version or store.in_force(connection).version
        one = store.find(connection, number) if number is not None else None
    if version is not None and one is None:
        raise Impossible("no such version: `processor rules list` shows what there is")
    document = one.document if one else msgspec.to_builtins(BUILT_IN.rule_set)
    if as_json:
        echo_json({"version": one.version if one else None, "rules": document})
        return
    if one is None:
        click.echo("built in: nothing is tolerated, write-offs have no limit, nothing is assumed of Wix")
    else:
        click.echo(
            f"version {one.version}, proposed by {printable(one.created_by)} at {shown(one.created_at)},"
            + (
                f" approved by {printable(one.approved_by)} at {shown(one.approved_at)}"
                if one.approved_by
                else f" {one.ended} by {printable(one.ended_by)} at {shown(one.ended_at)}"
                if one.ended_by
                else " not in force: nobody approved it"
            )
        )
    echo_json(document)


@rules.command("list")
@limit_option
@json_option
def list_rules(limit: int, as_json: bool) -> None:
    """List the versions, the newest first."""
    from processor.store import rules as store

    services = open_services()
    with services.database.begin() as connection:
        found = store.versions(connection, limit)
    if as_json:
        echo_json(found)
        return
    echo_table(
        ("version", "proposed", "by", "approved by", "turned down by", "tolerances", "comment"),
        [
            (
                one.version,
                one.created_at,
                one.created_by,
                one.approved_by,
                f"{one.ended_by} ({one.ended})" if one.ended else None,
                len(one.document.get("tolerances", ())),
                one.comment,
            )
            for one in found
        ],
        nothing="none was set: the built-in rules are in force",
    )


@rules.command("propose")
@click.argument("file", type=click.File("rb"))
@actor_option
@_comment_option
@click.option("--dry-run", is_flag=True, help="Only say whether they can be read.")
def propose_rules(file: Any, actor: str, comment: str | None, dry_run: bool) -> None:
    """Propose the rules in FILE, a JSON document; - is standard input."""
    from processor import decisions
    from processor.domain.rules import decode, parse

    try:
        document = decode(file.read())
    except ValueError as why:
        raise Impossible(f"the rules in {file.name} cannot be read as JSON: {why}") from None
    if dry_run:
        parse(document)
        click.echo("they can be read")
        return
    version = decisions.propose_rules(open_services(), document, actor=actor, comment=comment)
    click.echo(
        f"version {version} is proposed; another person puts it in force:"
        f" processor rules approve {version} --as NAME"
    )


@rules.command("approve")
@click.argument("version", type=click.IntRange(1))
@actor_option
def approve_rules(version: int, actor: str) -> None:
    """Put rules another person proposed in force."""
    from processor import decisions

    decisions.approve_rules(open_services(), version, actor=actor)
    click.echo(f"version {version} is in force from the next check on")


@rules.command("withdraw")
@click.argument("version", type=click.IntRange(1))
@actor_option
@click.option("--reason", help="Why.")
def withdraw_rules(version: int, actor: str, reason: str | None) -> None:
    """Take back rules you proposed, before anybody approves them."""
    from processor import decisions

    decisions.withdraw_rules(open_services(), version, actor=actor, reason=reason)
    click.echo(f"version {version} is withdrawn")


@rules.command("reject")
@click.argument("version", type=click.IntRange(1))
@actor_option
@click.option("--reason", required=True, help="Why.")
def reject_rules(version: int, actor: str, reason: str) -> None:
    """Say no to rules another person proposed."""
    from processor import decisions

    decisions.reject_rules(open_services(), version, actor=actor, reason=reason)
    click.echo(f"version {version} is rejected")
