"""`processor alerts`: what persons are told without asking, and whether it reaches them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import click

from processor.commands.common import (
    Impossible,
    any_instance_option,
    echo_json,
    echo_table,
    json_option,
    limit_option,
    open_services,
    window_options,
)
from processor.domain import money
from processor.domain.alert import AlertKind
from processor.errors import ConfigurationError, NotDelivered

if TYPE_CHECKING:
    from processor.store.alerts import AlertLine

EXIT_NO = 1
_state_option = click.option(
    "--state", type=click.Choice(("waiting", "delivered", "given_up")), help="How far their delivery is."
)


@click.group("alerts")
def alerts() -> None:
    """What persons are told, and whether it reaches them."""


@alerts.command("list")
@_state_option
@click.option(
    "--kind", type=click.Choice([str(kind) for kind in AlertKind]), metavar="KIND", help="Of this kind."
)
@any_instance_option
@window_options
@limit_option
@json_option
def list_alerts(limit: int, as_json: bool, **narrowing: Any) -> None:
    """List alerts, the newest first."""
    from processor.store import alerts as store

    services = open_services()
    with services.database.begin() as connection:
        found = store.listed(connection, limit=limit, **narrowing)
    if as_json:
        echo_json(found)
        return
    echo_table(
        ("when", "kind", "severity", "about", "delivery", "instance"),
        [(one.at, one.kind, one.severity, _about(one), _delivery(one), one.instance_id) for one in found],
        nothing="no such alert",
    )
    if len(found) == limit:
        click.echo(f"only the newest {limit} are listed; --limit shows more")


def _about(one: AlertLine) -> str:
    """What a discrepancy's alert is about, in words; the subject of any other."""
    told = one.document
    if "discrepancy_id" not in told:
        return one.subject
    amount, currency = told.get("amount_at_risk"), told.get("currency")
    at_risk = f", {money.shown(Decimal(amount), currency)} {currency} at risk" if amount and currency else ""
    return f"{told.get('type')} {one.subject}{at_risk}"


def _delivery(one: AlertLine) -> str:
    if one.routed_at is None:
        return "waiting for the clock"
    if not one.deliveries:
        return "log and digest"
    return ", ".join(f"{channel} {state}" for channel, state in sorted(one.deliveries.items()))


@alerts.command("deliveries")
@_state_option
@limit_option
@json_option
def list_deliveries(state: str | None, limit: int, as_json: bool) -> None:
    """List messages to the channels, the newest first.

    A message holds one alert, a group of them, a digest or a test.
    """
    from processor.store import alerts as store

    services = open_services()
    with services.database.begin() as connection:
        found = store.deliveries(connection, limit=limit, state=state)
    if as_json:
        echo_json(found)
        return
    echo_table(
        ("message", "channel", "holds", "alerts", "status", "made", "attempts", "next", "last error"),
        [
            (
                one.delivery_id,
                one.channel,
                one.kind,
                one.alert_count,
                one.status,
                one.made_at,
                one.attempts,
                one.due_at,
                one.last_error,
            )
            for one in found
        ],
        nothing="no such message",
        numbers=("alerts", "attempts"),
    )


@alerts.command("test")
@json_option
def test_alerts(as_json: bool) -> None:
    """Send a test through every channel that is configured.

    It is sent at once, by this process, and not tried again. Ends with 1 when a channel does not take it.
    """
    from processor.channels import configured, opened
    from processor.domain.message import about_nothing
    from processor.store import alerts as store

    services = open_services()
    channels = configured(services.settings)
    if not channels:
        raise ConfigurationError(
            "no channel is configured: set ALERT_WEBHOOK_URL with ALERT_WEBHOOK_SECRET, or ALERT_SMTP_URL with"
            " ALERT_MAIL_FROM and ALERT_MAIL_TO"
        )
    said: dict[str, str | None] = {}
    for channel in channels:
        now, delivery_id, why = services.now(), uuid4(), None
        document = about_nothing(now)
        with opened(services.settings, channel) as sender:
            try:
                sender.send(delivery_id, document, now)
            except NotDelivered as refusal:
                why = str(refusal)
        with services.database.begin() as connection:
            store.record_test(connection, delivery_id, channel, document, now, why=why)
        said[channel.value] = why
    if as_json:
        echo_json([{"channel": name, "is_delivered": why is None, "why": why} for name, why in said.items()])
    else:
        for name, why in said.items():
            click.echo(f"{name}: {'delivered' if why is None else why}")
    if any(said.values()):
        raise click.exceptions.Exit(EXIT_NO)


@alerts.command("retry")
@click.argument("delivery_ids", type=click.UUID, nargs=-1, metavar="[MESSAGE]...")
@click.option("--all", "is_all", is_flag=True, help="Everything that was given up or waits.")
@json_option
def retry_deliveries(delivery_ids: tuple[UUID, ...], is_all: bool, as_json: bool) -> None:
    """Send again what was given up, or sooner what waits.

    Each is tried for another day. A worker sends it.
    """
    from processor.store import alerts as store

    if is_all == bool(delivery_ids):
        raise Impossible("say which: messages (`processor alerts deliveries` lists them), or --all")
    services = open_services()
    with services.database.begin() as connection:
        found = store.retry(connection, services.now(), None if is_all else delivery_ids)
    missing = sorted(set(delivery_ids) - set(found))
    if as_json:
        echo_json({"asked": found, "unknown": missing})
    else:
        click.echo(f"asked for {len(found)} message{'' if len(found) == 1 else 's'}")
    if missing:
        raise Impossible(
            f"not to be sent again, since delivered, a test or unknown: {', '.join(map(str, missing))}"
        )
