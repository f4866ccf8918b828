"""`processor links send` and `initiate`: what reaches a buyer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import click

from processor.commands.common import (
    Impossible,
    actor_option,
    echo_json,
    instance_option,
    json_option,
    printable,
)
from processor.commands.links.shared import METHODS_HELP, at, links, recipients_of

if TYPE_CHECKING:
    from processor.errors import WixError

# A starter that found no browser says so at once; one that is still there after this has become the browser.
BROWSER_SECONDS = 5.0


@links.command("send")
@click.argument("link_id", type=click.UUID)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="CONTACT[:METHOD]",
    help=f"May be given often; those named at its creation without it. {METHODS_HELP}",
)
@actor_option
@instance_option
@json_option
def send(
    link_id: UUID, recipients: tuple[str, ...], actor: str, instance_id: UUID | None, as_json: bool
) -> None:
    """Let Wix send a link to contacts."""
    from processor import flows
    from processor.errors import WixRefused

    to = recipients_of(recipients)
    services, owner = at(instance_id)
    try:
        # A command that is given again is meant again: each has a reference of its own.
        flows.send_link(services, owner, link_id, to, actor=actor, door="command", reference=uuid4())
    except WixRefused as why:
        # Whether a link shows its recipients is not documented, so only Wix can say that it has none.
        if recipients or not _blames_recipients(why):
            raise
        raise Impossible("the link names no recipients: give --recipient CONTACT_ID") from why
    if as_json:
        echo_json({"id": link_id, "recipients": [one.partition(":")[0] for one in recipients]})
        return
    click.echo(
        f"Wix sends it to {len(recipients)} contact{'' if len(recipients) == 1 else 's'}"
        if recipients
        else "Wix sends it to its recipients"
    )


def _blames_recipients(why: WixError) -> bool:
    """Whether Wix found fault with the list of recipients, rather than with one of them."""
    return any(one.field.rpartition(".")[2] == "recipients" for one in why.violations)


@links.command("initiate")
@click.argument("link_id", type=click.UUID)
@click.option("--open", "is_opened", is_flag=True, help="Open it in the browser.")
@instance_option
@json_option
def initiate(link_id: UUID, is_opened: bool, instance_id: UUID | None, as_json: bool) -> None:
    """Make a checkout and print where it is.

    Lead the buyer there. It is not a payment yet.
    """
    services, owner = at(instance_id)
    target = services.wix.initiate_payment(owner, link_id)
    url = (target.ecom_checkout and target.ecom_checkout.checkout_url) or (
        target.ecom_order and target.ecom_order.order_url
    )
    if not url:
        raise Impossible("Wix made no checkout that we know of")
    if as_json:
        echo_json({"url": url, "checkout_id": target.ecom_checkout and target.ecom_checkout.checkout_id})
    else:
        click.echo(printable(url))
    if is_opened and not url.startswith(("https://", "http://")):
        raise Impossible("that is no web address: it is not opened")
    if is_opened and not _is_shown_in_browser(url):
        raise Impossible("no browser could be opened: open the address yourself")


def _is_shown_in_browser(url: str) -> bool:
    """Whether a browser took the address. What it or its starter prints is not for this terminal."""
    import platform
    import subprocess

    starter = "open" if platform.system() == "Darwin" else "xdg-open"
    nothing = subprocess.DEVNULL
    try:
        child = subprocess.Popen(
            [starter, url], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
    except OSError:
        return False
    try:
        return child.wait(BROWSER_SECONDS) == 0
    except subprocess.TimeoutExpired:
        child.returncode = 0  # it outlives the command, on purpose: without this Python complains
        return True
