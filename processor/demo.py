"""`processor demo`: the main job on private servers, shown by the story of `story.py`.

Everything is real but Wix, which is our sandbox: PostgreSQL, Valkey, web server, worker and clock are
processes of their own, and every step goes over HTTP.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from uuid import UUID

from argon2 import PasswordHasher
from rich.console import Console
from rich.table import Table
from rich.text import Text

from processor import embedded, logs, story, wiring
from processor.config import Settings
from processor.domain.access import EVERYWHERE, Role
from processor.domain.discrepancy import EXPLANATIONS, DiscrepancyType
from processor.domain.money import shown
from processor.processes import ChildFailed, reserved_port, wait_until
from processor.store import accounts, reports
from processor.store.database import Database
from processor.story import Told
from processor.system import Ports, System
from processor.wix import wire

FOLDER = Path(__file__).resolve().parents[1] / ".data" / "demo"
FOLDERS_MAX = 20
PEOPLE = {
    "maya": (Role.CLERK, Role.OPERATOR),
    "noor": (Role.APPROVER,),
    "li": (Role.AUDITOR,),
}
WEB_PORT, SANDBOX_PORT = 8000, 8100
SETTLED_SECONDS = 120.0
# What really happens at Wix takes two days; here its resends come within seconds.
TIME_SCALE = 60
PLAIN_WIDTH = 116  # where there is no terminal to ask


def run(folder: Path | None, *, is_once: bool, environ: Mapping[str, str]) -> bool:
    """Start everything, play the story, and stay up until Ctrl-C unless is_once.

    Returns whether the books equal the sandbox's truth. Raises ProcessorError, KeyboardInterrupt.
    """
    logs.configure("ERROR", "console", process="demo")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(
            Text(f"{time.monotonic() - began:5.1f} s  ", style="dim").append(Text(text, style="none"))
        )

    def chapter(title: str) -> None:
        console.print(Text(f"\n{title}", style="bold"))

    with (
        _stopped_by_signals(),
        _servers(folder or FOLDER, say) as servers,
        System(
            servers.folder / "demo",
            database_url=servers.database_url,
            redis_url=servers.redis_url,
            environ=environ,
            ports=Ports(web=reserved_port(WEB_PORT), sandbox=reserved_port(SANDBOX_PORT)),
            # The pages, over plain HTTP on this machine alone; every demo signs its sessions with a key of its own.
            settings={"SECRET_KEY": secrets.token_hex(32), "SECURE_COOKIES": "0", "PAY_PAGE": "1"},
            hears_refunds=True,
            sandbox_options=("--time-scale", str(TIME_SCALE), "--calls-per-minute", "6000"),
        ) as system,
    ):
        say("sandbox, web, worker and clock run, each as a process of its own")
        services = wiring.build(Settings.read(system.settings), role="cli")
        try:
            password = _let_people_in(services)
            told = story.play(system, services, say, chapter)
            chapter("Reconciliation")
            differences = _await_books(system, services.database, say)
            if not differences:
                story.prove(system, services, told, say)
            _report(console, system, services.database, told, differences)
        finally:
            services.close()
        if not is_once:
            _links_to_open(console, system, servers, told, password)
            console.print("Ctrl-C stops everything.")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    # Ends by a signal, or when a part of the system ends by itself.
                    wait_until(
                        lambda: False, what="Ctrl-C", seconds=3600.0 * 24 * 365, children=system.children
                    )
        say("stopping")
    say("stopped; the data is kept")
    return not differences


# -- Servers ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _servers(folder: Path, say: Any) -> Iterator[embedded.Servers]:
    """PostgreSQL and Valkey in `folder`, or beside it when another demo runs there."""
    for number in range(1, FOLDERS_MAX + 1):
        chosen = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            servers = embedded.start(chosen, say=say)
        except embedded.FolderInUse:
            if number == FOLDERS_MAX:
                raise
            continue
        with servers:
            if number > 1:
                say(f"another demo runs in {folder}; this one uses {chosen}")
            say(f"PostgreSQL and Valkey run on data in {servers.folder}")
            yield servers
        return


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does; while it ends, a second one changes nothing."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


# -- The end ---------------------------------------------------------------------------------------


def _await_books(system: System, database: Database, say: Any) -> list[str]:
    """Wait until the books equal the truth; what still differs when that took too long."""
    last: list[str] = []
    said = -1

    def is_settled() -> bool:
        nonlocal last, said
        last = system.differences(database)
        if len(last) != said:
            said = len(last)
            say(f"reconciling: {said} open, for example {last[0]}" if last else "reconciled: nothing is open")
        return not last

    try:
        wait_until(is_settled, what="the books", seconds=SETTLED_SECONDS, children=system.children)
    except ChildFailed as why:
        say(str(why))
    return last


def _report(console: Console, system: System, database: Database, told: Told, differences: list[str]) -> None:
    truth = next(
        one for one in system.control.get("truth")["instances"] if UUID(one["instanceId"]) == told.instance_id
    )
    with database.begin() as connection:
        booked = {one.payment_link_id: one for one in reports.links(connection, told.instance_id)}
    table = Table(
        title="\nThe story's payment links: sums, and in brackets the number of payments",
        title_justify="left",
        show_lines=False,
    )
    table.add_column("payment link")
    for name in ("Wix says", "received", "booked"):
        table.add_column(name, justify="right")
    table.add_column("reconciliation")
    for link in truth["links"]:
        link_id = UUID(link["id"])
        if link_id not in told.titles:
            continue
        amounts = [
            Decimal(payment["amount"])
            for payment in truth["payments"]
            if payment["paymentLinkId"] == link["id"]
        ]
        report = booked.get(link_id)
        table.add_row(
            told.titles[link_id],
            _sum(len(amounts), sum(amounts, Decimal(0)), link["currency"]),
            _count(report.events, "event") + _again(report) if report else "nothing",
            _sum(report.payments, report.amount, link["currency"]) if report else "nothing",
            _finding(report) if amounts or report else Text("nothing to match", style="dim"),
        )
    console.print(table)
    for type_ in sorted({type_ for report in booked.values() for type_ in report.discrepancies}):
        console.print(f"  {type_}: {EXPLANATIONS[DiscrepancyType(type_)]}")
    if differences:
        console.print(f"\n[red]The books differ from what happened:[/] {'; '.join(differences)}")
    else:
        everything = system.control.get("truth")["instances"]
        number = sum(len(one["payments"]) for one in everything)
        planted = sum(link["received"] != link["shown"] for one in everything for link in one["links"])
        refunds = sum(bool(Decimal(payment["refunded"])) for one in everything for payment in one["payments"])
        console.print(
            f"\n[green]The books equal what happened:[/] {number} of {number} payments, to the last decimal;"
            f" {_count(planted, 'discrepancy' if planted == 1 else 'discrepancie')} planted by the story, found,"
            f" {_count(refunds, 'refund')} told of that Wix's total of the link does not show, and no other.\nOn the"
            " pages stands one more, as it should: the test of the developers' dashboard names an instance that Wix"
            " does not know."
        )


def _sum(number: int, amount: Decimal, currency: str) -> str:
    return f"{shown(amount, currency)} {currency} ({number})"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _again(report: reports.LinkReport) -> str:
    return f", {report.deliveries} times" if report.deliveries > report.events else ""


def _finding(report: reports.LinkReport | None) -> Text:
    if report is None:
        return Text("not seen", style="red")
    if report.discrepancies:
        return Text(f"discrepancy: {', '.join(report.discrepancies)}", style="yellow")
    if report.recovered:
        return Text("recovered: webhook missed", style="cyan")
    return Text("matched" if report.matched == report.payments else "open", style="green")


def _let_people_in(services: wiring.Services) -> str:
    """Accounts for whoever looks at the pages; returns the password of each, a new one for each demo."""
    password = secrets.token_urlsafe(12)
    password_hash, now = PasswordHasher().hash(password), services.now()
    with services.database.begin() as connection:
        for name, roles in PEOPLE.items():
            found = accounts.named(connection, name)
            if found is not None:
                accounts.set_password(connection, found[0].account_id, password_hash, now)
                continue
            accounts.add(
                connection,
                name,
                roles,
                reach=EVERYWHERE,
                sees_personal=True,
                password_hash=password_hash,
                oidc_subject=None,
                now=now,
            )
    return password


def _links_to_open(
    console: Console, system: System, servers: embedded.Servers, told: Told, password: str
) -> None:
    events = system.control.get("events", instanceId=str(told.instance_id))["events"]
    deliveries = system.control.get("deliveries", instanceId=str(told.instance_id))["deliveries"]
    # Its token is the one sent first, which a fault may have signed wrongly.
    refused = {one["eventId"] for one in deliveries if one["status"] != 200}
    event = next(
        one for one in events if one["eventType"] == wire.PAYMENT_CREATED and one["id"] not in refused
    )
    sandbox = system.control.base_url
    names = ", ".join(f"{name} ({' and '.join(sorted(roles))})" for name, roles in PEOPLE.items())
    console.print(
        f"\nPages    {system.web_url}/            what finance and operators see"
        f"\n         sign in as {names}; each has the password {password}",
        soft_wrap=True,
    )
    console.print(
        f"\nOpen     {sandbox}/            the pretend Wix: its app, sites and scenarios\n"
        f"         {sandbox}/merchant/{told.instance_id}   her shop: links to pay, payments, refunds\n"
        f"         {sandbox}/deliveries  the delivery log: attempts, answers, payloads\n"
        f"         {sandbox}/faults      what goes wrong, and more of it\n"
        f"         {system.web_url}/readyz      is the service ready\n"
        f"         {system.web_url}/metrics     what it counts\n"
        f"Database {servers.database_url}\n"
        f"Logs     {system.folder}/*.log\n"
        "\nAsk the service in another terminal:",
        soft_wrap=True,
    )
    console.print(
        f"  . {shlex.quote(str(_write_settings(system)))}\n"
        f"  {_command()} payments list          (or `events follow`, `links list`, `reconcile`, `doctor`)",
        soft_wrap=True,
    )
    console.print(
        "\nSend a signed webhook by hand (here one that was delivered before: answered 200, counted, not booked"
        " twice):",
        soft_wrap=True,
    )
    console.print(
        f"  curl -s {sandbox}/_sandbox/events/{event['id']}/token |"
        f" curl -i -H 'Content-Type: text/plain' --data-binary @- {system.webhook_url}\n",
        soft_wrap=True,
    )


def _write_settings(system: System) -> Path:
    """A file that a shell can read, with the settings of the demo's service."""
    file = system.folder / "settings.sh"
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(system.settings.items())]
    file.touch(mode=0o600)
    file.write_text("".join(lines))
    return file


def _command() -> str:
    """How the command is called from here."""
    script = Path(sys.executable).with_name("processor")
    try:
        return f"./{script.relative_to(Path.cwd())}"
    except ValueError:
        return shlex.quote(str(script))
