"""`processor links activate`, `deactivate`, `note`, `delete` and `receipt`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from uuid import UUID

import click

from processor.commands.common import Impossible, echo_json, instance_option, json_option, printable
from processor.commands.links.shared import at, kept, link_json, links

if TYPE_CHECKING:
    from processor.wiring import Services
    from processor.wix import wire
    from processor.wix.client import UnreadableItem


@links.command("activate")
@click.argument("link_id", type=click.UUID)
@instance_option
@json_option
def activate(link_id: UUID, instance_id: UUID | None, as_json: bool) -> None:
    """Let a link take payments again."""
    services, owner = at(instance_id)
    _say_status(services, owner, services.wix.activate_link(owner, link_id), as_json)


@links.command("deactivate")
@click.argument("link_id", type=click.UUID)
@instance_option
@json_option
def deactivate(link_id: UUID, instance_id: UUID | None, as_json: bool) -> None:
    """Let a link take no payments."""
    services, owner = at(instance_id)
    _say_status(services, owner, services.wix.deactivate_link(owner, link_id), as_json)


@links.command("note")
@click.argument("link_id", type=click.UUID)
@click.argument("text")
@instance_option
@json_option
def note(link_id: UUID, text: str, instance_id: UUID | None, as_json: bool) -> None:
    """Set the merchant's own note on a link."""
    services, owner = at(instance_id)
    link = kept(services, owner, services.wix.set_note(owner, link_id, text))
    if as_json:
        echo_json(link_json(link))
    else:
        click.echo(f"noted: {printable(link.note.text if link.note else text)}")


@links.command("delete")
@click.argument("link_id", type=click.UUID)
@instance_option
@json_option
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask first.")
def delete(link_id: UUID, instance_id: UUID | None, as_json: bool, is_sure: bool) -> None:
    """Delete a link nothing was paid by."""
    from processor import flows

    if not is_sure:
        _confirm("Delete it at Wix?", "not deleted", as_json)
    services, owner = at(instance_id)
    flows.delete_link(services, owner, link_id)
    if as_json:
        echo_json({"id": link_id, "deleted": True})
    else:
        click.echo("deleted")


@links.command("receipt")
@click.argument("payment_id", type=click.UUID)
@instance_option
@json_option
def receipt(payment_id: UUID, instance_id: UUID | None, as_json: bool) -> None:
    """Let Wix issue the receipt of a payment."""
    services, owner = at(instance_id)
    receipt_id = services.wix.issue_receipt(owner, payment_id)
    if as_json:
        echo_json({"receipt_id": receipt_id})
    else:
        click.echo(f"receipt {receipt_id}" if receipt_id else "Wix issued a receipt and did not say its id")


def _confirm(question: str, otherwise: str, as_json: bool) -> None:
    """Go on only if a person says yes. Ends the command with 1 on a no, raises Impossible where nobody can be asked."""
    if as_json or not _is_person_there():
        raise Impossible(f"{otherwise}: say --yes, since nobody can be asked here")
    try:
        is_sure = click.confirm(question)
    except click.Abort:
        click.echo(f"\n{otherwise}", err=True)
        raise
    if not is_sure:
        click.echo(otherwise)
        raise click.exceptions.Exit(1)


def _is_person_there() -> bool:
    return sys.stdin.isatty()


def _say_status(
    services: Services, owner: UUID, told: wire.PaymentLink | UnreadableItem, as_json: bool
) -> None:
    link = kept(services, owner, told)
    if as_json:
        echo_json(link_json(link))
    else:
        click.echo(f"the link is {link.status}")
