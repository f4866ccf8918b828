"""The command line of the sandbox: `processor sandbox` serves it, its commands switch faults and play scenarios."""

from __future__ import annotations

import json
import shlex
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from processor.sandbox.server import Sandbox

DEFAULT_URL = "http://127.0.0.1:8100"


class Impossible(click.ClickException):
    """What was asked for cannot be done; the message says why."""

    exit_code = 2


class NoSandbox(click.ClickException):
    """No sandbox answers."""

    exit_code = 3


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8100, show_default=True, type=click.IntRange(0, 65_535), help="0: any free one."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that keeps its state; without, it forgets all.",
)
@click.option(
    "--time-scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=1.0, max=1e6),
    help="How many times faster than Wix it resends.",
)
@click.option("--calls-per-minute", default=200, show_default=True, type=click.IntRange(min=1))
@click.option("--resign-retries", is_flag=True, help="Sign every resend anew.")
@click.option("--seed", type=int, help="Makes what is random repeatable.")
@click.option(
    "--webhook", metavar="URL", help="Where events go; can be changed later by page or control API."
)
@click.option(
    "--assume",
    "assumptions",
    multiple=True,
    metavar="NAME=VALUE",
    help="What Wix leaves open, such as refund-raises-update=true; see docs/sandbox.md.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND[,NAME=VALUE…]",
    help="Switch a fault on from the start, such as drop,probability=0.2.",
)
@click.option("--mix", type=click.FloatRange(0, 0.5), help="Every kind of weather, each that likely.")
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Play a scenario at the start.")
@click.pass_context
def sandbox(context: click.Context, /, **options: Any) -> None:
    """Serve a pretend Wix to build and test with.

    The Payment Links API, checkout pages, signed webhooks, fault switches.
    """
    if context.invoked_subcommand is None:
        _serve(**options)


def _serve(
    *,
    data: Path | None,
    webhook: str | None,
    assumptions: tuple[str, ...],
    faults: tuple[str, ...],
    mix: float | None,
    scenarios: tuple[str, ...],
    **options: Any,
) -> None:
    from processor.sandbox.documents import FolderInUse, UnreadableState
    from processor.sandbox.errors import Refused
    from processor.sandbox.scenarios import play
    from processor.sandbox.server import Options, serve

    def started(running: Sandbox) -> None:
        if webhook is not None:
            running.take_webhook({"url": webhook})
        for one in faults:
            running.faults.add(_fault(one))
        if mix is not None:
            running.faults.add_mix({"share": mix})
        for line in _greeting(running):
            click.echo(line)
        for name in scenarios:
            click.echo(f"# played {name}: {play(running, name)['title']}")

    try:
        serve(Options(folder=data, rules=_rules(assumptions), **options), started)
    except FolderInUse as why:
        raise Impossible(str(why)) from why
    except (Refused, UnreadableState) as why:
        raise Impossible(f"the sandbox cannot start: {why}") from why
    except OSError as why:
        raise Impossible(f"the sandbox cannot start: {why.strerror or why}") from why


def _greeting(running: Sandbox) -> Iterator[str]:
    """What is said at the start: lines for a shell, to paste or to keep in a file and read from there."""
    app = running.documents.get("app", "app") or {}
    yield f"# sandbox at {running.url}, its state at {running.url}/_sandbox/truth"
    yield f"# settings for the service; the key is base64 of PEM, as PEM it is at {running.url}/_sandbox/public-key"
    settings = {
        "WIX_API_URL": running.url,
        "WIX_APP_ID": app["appId"],
        "WIX_APP_SECRET": app["appSecret"],
        # On one line, which every shell and every env file takes.
        "WIX_PUBLIC_KEYS": b64encode(running.key.public_pem.encode()).decode(),
    }
    for name, value in settings.items():
        yield f"export {name}={shlex.quote(value)}"
    yield "# for `processor sandbox fault` and the like"
    yield f"export SANDBOX_URL={shlex.quote(running.url)}"
    if app["webhookUrl"] is not None:
        yield f"# events go to {app['webhookUrl']}"
    else:
        yield "# events go nowhere until a webhook is set: start with --webhook URL, use the page /, or"
        body = shlex.quote(json.dumps({"url": "http://127.0.0.1:8000/webhooks/wix"}))
        yield f"# curl -X PUT {running.url}/_sandbox/webhook -d {body}"


def _rules(assumptions: tuple[str, ...]) -> Any:
    """The Rules that NAME=VALUE pairs ask for. Raises Impossible."""
    from processor.sandbox.core import CHOICES, RANGES, Rules

    known = {field.name.replace("_", "-"): field for field in fields(Rules)}
    chosen: dict[str, Any] = {}
    for one in assumptions:
        name, equals, value = one.partition("=")
        if name not in known or not equals:
            raise Impossible(f"--assume takes NAME=VALUE with a name of {', '.join(known)}")
        field = known[name].name
        if isinstance(known[name].default, bool):
            if value not in ("true", "false"):
                raise Impossible(f"--assume {name}= takes true or false")
            chosen[field] = value == "true"
        elif field in RANGES:
            low, high = RANGES[field]
            if not value.isdecimal() or not low <= int(value) <= high:
                raise Impossible(f"--assume {name}= takes a whole number from {low} to {high}")
            chosen[field] = int(value)
        elif value not in CHOICES.get(field, (value,)):
            raise Impossible(f"--assume {name}= takes {' or '.join(CHOICES[field])}")
        else:
            chosen[field] = value
    return Rules(**chosen)


def _fault(text: str) -> dict[str, Any]:
    kind, *pairs = text.split(",")
    return {"kind": kind, **_pairs(pairs)}


def _pairs(pairs: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs; a number or true is taken for one, but not where money is meant."""
    found: dict[str, Any] = {}
    for one in pairs:
        name, equals, value = one.partition("=")
        if not equals:
            raise Impossible(f"{one}: a parameter is NAME=VALUE")
        try:
            found[name] = value if name in ("by", "amount") else json.loads(value)
        except ValueError:
            found[name] = value
    return found


# -- A sandbox that is running ---------------------------------------------------------------------

_url = click.option(
    "--url", default=DEFAULT_URL, envvar="SANDBOX_URL", show_default=True, help="Of the running sandbox."
)
_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


def _ask(url: str, method: str, path: str, body: Any = None) -> Any:
    import httpx2

    try:
        answer = httpx2.request(method, f"{url}/_sandbox/{path}", json=body, timeout=60, trust_env=False)
    except (httpx2.HTTPError, httpx2.InvalidURL) as why:
        raise NoSandbox(f"no sandbox answers at {url}: start one with `processor sandbox`") from why
    if answer.status_code != 200:
        try:
            message = answer.json()["message"]
        except (ValueError, KeyError, TypeError):
            message = f"it answered {answer.status_code}"
        raise Impossible(f"the sandbox refused: {message}")
    return answer.json()


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in columns:
        # What is copied into the next command must not be cut off; the rest wraps.
        is_word = name in ("id", "kind", "name", "group")
        table.add_column(name, no_wrap=is_word, overflow="ignore" if is_word else "fold")
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in columns))
    Console().print(table)


@sandbox.command("faults")
@click.option("--kinds", is_flag=True, help="Every kind there is, instead of those switched on.")
@_url
@_json
def list_faults(kinds: bool, url: str, as_json: bool) -> None:
    """List the faults that are on, or the kinds there are."""
    if kinds:
        rows = _ask(url, "GET", "faults/kinds")["kinds"]
        if not as_json:
            rows = [{**row, "parameters": ", ".join(row["parameters"])} for row in rows]
        _table(rows, ("kind", "group", "summary", "parameters"), as_json)
        return
    rows = _ask(url, "GET", "faults")["faults"]
    if not as_json:
        if not rows:
            click.echo("no fault is on")
            return
        rows = [{**row, "parameters": _told(row)} for row in rows]
    _table(rows, ("id", "kind", "parameters", "used"), as_json)


@sandbox.command("fault")
@click.argument("kind")
@click.argument("parameters", nargs=-1, metavar="[NAME=VALUE]…")
@_url
def add_fault(kind: str, parameters: tuple[str, ...], url: str) -> None:
    """Switch a fault on, such as `fault drop count=1`. The output is its id."""
    added = _ask(url, "POST", "faults", {"kind": kind, **_pairs(parameters)})
    taken = _told(added)
    # Beside the output, which `ID=$(processor sandbox fault …)` takes.
    click.echo(
        f"{kind} is on{f' with {taken}' if taken else ''}; `processor sandbox heal ID` ends it, its id is:",
        err=True,
    )
    click.echo(added["id"])


def _told(fault: dict[str, Any]) -> str:
    """The parameters of a fault that is on, as they are given: NAME=VALUE."""
    own = ("id", "kind", "used")
    return ", ".join(f"{name}={value}" for name, value in fault.items() if name not in own)


@sandbox.command("heal")
@click.argument("fault_id", required=False)
@_url
def heal(fault_id: str | None, url: str) -> None:
    """Switch one fault off, or all."""
    on = {fault["id"]: fault["kind"] for fault in _ask(url, "GET", "faults")["faults"]}
    _ask(url, "DELETE", f"faults/{fault_id}" if fault_id else "faults")
    if fault_id:
        click.echo(f"{on.get(fault_id, 'the fault')} is off, {len(on.keys() - {fault_id})} still on")
    elif on:
        click.echo(f"{_count(len(on), 'fault')} switched off, none is on")
    else:
        click.echo("no fault was on")


@sandbox.command("mix")
@click.option(
    "--share", default=0.1, show_default=True, type=click.FloatRange(0, 0.5), help="How likely each is."
)
@_url
def mix(share: float, url: str) -> None:
    """Switch on a bit of every fault that a service must live with."""
    click.echo(f"{len(_ask(url, 'POST', 'faults/mix', {'share': share})['faults'])} faults are on")


@sandbox.command("scenario")
@click.argument("name", required=False)
@_url
@_json
def scenario(name: str | None, url: str, as_json: bool) -> None:
    """Play a scenario, or list them."""
    if name is None:
        _table(_ask(url, "GET", "scenarios")["scenarios"], ("name", "title"), as_json)
        return
    played = _ask(url, "POST", f"scenarios/{name}")
    if as_json:
        click.echo(json.dumps(played, indent=2))
        return
    click.echo(played["title"])
    for step in played["steps"]:
        click.echo(f"  {step}")
    click.echo(played["expect"])


@sandbox.command("openapi")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="Of the server it names.")
def describe(url: str) -> None:
    """Print the REST API as an OpenAPI document."""
    from processor.sandbox.openapi import text

    click.echo(text(url), nl=False)


@sandbox.command("load")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of its state."
)
@click.option("--payments", default=100_000, show_default=True, type=click.IntRange(1, 100_000_000))
@click.option("--links", default=1_000, show_default=True, type=click.IntRange(1, 10_000_000))
@click.option("--sites", default=1, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--days", default=365, show_default=True, type=click.IntRange(1, 3_650), help="How far back.")
@click.option("--seed", default=1, show_default=True)
def load(data: Path, payments: int, links: int, sites: int, days: int, seed: int) -> None:
    """Fill a sandbox that is not running with payments of the past. No events are sent of them."""
    from processor.sandbox.documents import FolderInUse, UnreadableState
    from processor.sandbox.errors import Refused
    from processor.sandbox.seed import Volume
    from processor.sandbox.seed import load as fill
    from processor.sandbox.server import Options, Sandbox

    try:
        filled = Sandbox(Options(folder=data))
    except FolderInUse as why:
        raise Impossible(str(why)) from why
    except (OSError, UnreadableState) as why:
        raise Impossible(f"{data} cannot be filled: {why}") from why
    loaded = 0
    try:
        # Progress is for who watches; what was done is the output.
        with click.progressbar(
            length=payments, label="payments", file=sys.stderr, hidden=not sys.stderr.isatty()
        ) as bar:
            for done in fill(filled, Volume(payments, links, sites, days), seed):
                loaded += done
                bar.update(done)
    except Refused as why:
        raise Impossible(
            f"{data} cannot be filled: {why}; for more in the same folder take another --seed"
        ) from why
    finally:
        filled.close()
    click.echo(f"loaded {_count(loaded, 'payment')} by {_count(links, 'link')} on {_count(sites, 'site')}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
