"""What the commands share: services, options, tables for people and JSON for programs."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from processor.errors import ConfigurationError, ProcessorError

if TYPE_CHECKING:
    from processor.store.listings import AcceptedLine
    from processor.wiring import Services

F = TypeVar("F", bound=Callable[..., Any])

LIMIT_MAX = 10_000
LOOK_SECONDS = 0.5  # between two looks while waiting or following


class Impossible(ProcessorError):
    """What was asked for cannot be done; the message says what to do instead."""


class NotInTime(ProcessorError):
    """What was waited for did not come; the message says who may be missing."""


def open_services() -> Services:
    """The services of a command, closed when it ends. Raises ConfigurationError."""
    from processor import logs, wiring

    services = wiring.from_environ("cli", os.environ)
    # What a person asked for is on standard output; a log line belongs beside it only when something is wrong.
    logs.configure("WARNING", "console", process="cli")
    click.get_current_context().call_on_close(services.close)
    return services


# -- Options ---------------------------------------------------------------------------------------


class Moment(click.ParamType[datetime]):
    """A date or a time, in UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Click calls this."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value} is no time: write 2026-11-24, or 2026-11-24T15:00:00Z", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
limit_option = click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, LIMIT_MAX), help="At most so many."
)
instance_option = click.option(
    "--instance",
    "instance_id",
    type=click.UUID,
    help="App instance; may be left out while there is only one.",
)
any_instance_option = click.option("--instance", "instance_id", type=click.UUID, help="Of one app instance.")
personal_option = click.option("--personal", is_flag=True, help="Show personal data, too.")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return ""


actor_option = click.option(
    "--as",
    "actor",
    default=_login,
    show_default="your login",
    envvar="PROCESSOR_ACTOR",
    help="The person who acts.",
)


def window_options(command: F) -> F:
    """`--since` and `--until`."""
    command = click.option("--until", type=Moment(), help="Before this time.")(command)
    return click.option("--since", type=Moment(), help="From this time on.")(command)


def the_instance(services: Services, instance_id: UUID | None) -> UUID:
    """The instance a command is about: the one given, set, or the only one there is."""
    from processor.store import listings

    chosen = instance_id or services.settings.instance_id
    if chosen is not None:
        return chosen
    with services.database.begin() as connection:
        found = listings.installed(connection)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigurationError("no app instance is known yet: name one with --instance")
    raise ConfigurationError(
        f"there are {len(found)} app instances: name one with --instance (`processor instances list` has them)"
    )


# -- Output ----------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: ids, decimals and whole times as text, records as objects."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, str | int | float | bool | None) and not isinstance(value, Enum):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return shown(value)


def shown(value: Any, currency: str | None = None) -> str:
    """`value` in a table. currency: of an amount, which has its decimals then ("12.50", "1200", "3.250")."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, Decimal):
        if currency:
            from processor.domain import money

            return money.shown(value, currency)
        return f"{value:f}"
    return str(value.value if isinstance(value, Enum) else value)


def accepted_words(lines: Iterable[AcceptedLine]) -> str:
    """Such as "5.00 USD written off (total_differs)", by type and currency; empty for none."""
    found: dict[tuple[str, str, str], Decimal] = {}
    for one in lines:
        key = (one.how, one.type, one.currency or "")
        found[key] = found.get(key, Decimal(0)) + (one.amount or 0)
    return ", ".join(
        " ".join(
            filter(
                None,
                (
                    f"{shown(amount, currency)} {currency}" if currency else "",
                    "written off" if how == "written_off" else "tolerated",
                    f"({type_})",
                ),
            )
        )
        for (how, type_, currency), amount in sorted(found.items())
    )


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """`value` as JSON. What could steer a terminal is escaped, as JSON can."""
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1] for letter in text
    )


def echo_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document."""
    click.echo(json_text(value, indent=indent))


NUMBERS = frozenset(("amount", "payments", "links", "held", "due", "open", "deliveries", "revision", "price"))


def echo_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    nothing: str,
    numbers: Collection[str] = NUMBERS,
) -> None:
    """A table, or `nothing` when it would be empty. What may be copied is never cut off. numbers: set to the right.

    Decimals are amounts in the currency of the row's column `currency`, where there is one.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    at = columns.index("currency") if "currency" in columns else None
    lines = [[shown(value, None if at is None else row[at]) for value in row] for row in rows]
    if not lines:
        click.echo(nothing)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        is_id = any(len(line[number]) == 36 for line in lines)
        table.add_column(
            name,
            no_wrap=is_id or name in numbers,
            justify="right" if name in numbers else "left",
            overflow="fold",
        )
    for line in lines:
        # Text, since a title may hold what looks like markup; control characters must not reach a terminal.
        table.add_row(*(Text(printable(value)) for value in line))
    console = Console()
    widest = sum(max(len(line[n]) for line in [list(columns), *lines]) + 2 for n in range(len(columns)))
    if not console.is_terminal:
        console = Console(width=max(80, widest))
    console.print(table)


def echo_fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line; what is None is left out. Decimals are amounts in `currency`, if that is named."""
    given = list(pairs)
    currency = next((value for name, value in given if name == "currency"), None)
    known = [(name, printable(shown(value, currency))) for name, value in given if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        click.echo(f"{name:<{width}}  {value}")


def printable(value: str) -> str:
    """Without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in value)


# -- Waiting ---------------------------------------------------------------------------------------


def follow(look: Callable[[], bool]) -> None:
    """Look again and again until Ctrl-C. look: False when there is nothing more to look for."""
    import threading

    never = threading.Event()
    try:
        while look():
            never.wait(LOOK_SECONDS)
    except KeyboardInterrupt:
        click.echo()
