"""The command line: `processor COMMAND`.

Exit codes: 0 done; 1 the answer is no (a check of `doctor` failed, the demo's books differ); 2 wrong usage
or configuration; 3 a server needed for it does not answer; 130 interrupted. Errors are one sentence.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn

import click

from processor import __version__
from processor.commands.accounts import accounts
from processor.commands.alerts import alerts
from processor.commands.archive import archive
from processor.commands.backfills import backfills
from processor.commands.books import events, instances, payments
from processor.commands.common import NotInTime, printable
from processor.commands.discrepancies import discrepancies, rules
from processor.commands.links import links
from processor.commands.reports import report, reports
from processor.commands.runs import runs
from processor.commands.work import reconcile, replay
from processor.config import Settings, declared_settings
from processor.errors import (
    ConfigurationError,
    CreationUnclear,
    ProcessorError,
    StoreUnavailable,
    WixRefused,
    WixUnavailable,
)
from processor.sandbox.cli import sandbox

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_INTERRUPTED = 130
CONNECTIONS_MAX = 4_096  # of each web process; an idle one costs some 10 kB
OTHER_FILES = 256  # what a web process opens beside them


class _Group(click.Group):
    """Turns our errors into one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Click calls this for every command."""
        try:
            return super().invoke(ctx)
        except (StoreUnavailable, WixUnavailable, CreationUnclear, NotInTime) as why:
            _fail(str(why), EXIT_UNAVAILABLE)
        except WixRefused as why:
            for one in why.violations:
                click.echo(f"  {one.field}: {one.description}", err=True)
            _fail(str(why), EXIT_USAGE)
        except ProcessorError as why:
            _fail(str(why), EXIT_USAGE)


def _fail(message: str, code: int) -> NoReturn:
    # A message may name what a file or an argument held.
    click.echo(f"processor: {printable(message)}", err=True)
    raise SystemExit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="processor")
def cli() -> None:
    """Payment Link Processor: signed Wix webhooks in, a reconciled PostgreSQL money trail out.

    Settings are read from the environment; `processor settings` lists them, `processor doctor` checks
    them. `processor demo` shows the whole job without any.
    """


def main() -> NoReturn:
    """Console script."""
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:
        _fail("the arguments are not UTF-8", EXIT_USAGE)
    try:
        # Without its standalone mode click returns the code of an Exit; our commands return nothing else.
        code = cli.main(prog_name="processor", standalone_mode=False)
    except click.ClickException as why:
        why.show()
        raise SystemExit(max(why.exit_code, EXIT_USAGE)) from None
    except (click.Abort, KeyboardInterrupt):
        raise SystemExit(EXIT_INTERRUPTED) from None
    raise SystemExit(code or 0)


def _services(role: str) -> Any:
    # Imported here: the database driver and the ORM cost half a second that `--help` need not pay.
    from processor import logs, wiring

    services = wiring.from_environ(role, os.environ)
    logs.configure(services.settings.log_level, services.settings.log_format, process=role)
    return services


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def request_stop(*_: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    return stop


# The sandbox imitates Wix for programs in any language, so its commands are its own.
cli.add_command(sandbox)
for command in (
    *(links, events, payments, instances, reconcile, discrepancies, rules, replay),
    *(report, reports, runs, backfills, archive, alerts, accounts),
):
    cli.add_command(command)


@cli.command()
def serve() -> None:
    """Serve webhooks, health, metrics and the pages with Granian."""
    from processor import wiring

    settings = Settings.read(os.environ)
    settings.require("database_url", "public_keys")
    wiring.public_keys(settings)
    _refuse_taken_port(settings.host, settings.port)
    granian = shutil.which(
        "granian", path=os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", "")))
    )
    if granian is None:
        raise ConfigurationError("granian is not installed: install the project's requirements")
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        # Counts are shared by the worker processes of this run only; a fresh folder forgets the last run's.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="processor-metrics-")
    root = Path(__file__).resolve().parents[1]
    arguments = [
        *("granian", "--interface", "wsgi", "--host", settings.host, "--port", str(settings.port)),
        *("--workers", str(settings.web_workers), "--blocking-threads", str(settings.intake_threads)),
        # How many connections a worker holds, idle ones too; above, they wait unanswered in the kernel.
        *("--backpressure", str(_connections_max()), "--backlog", "2048", "--http", "1"),
        *("--http1-header-read-timeout", str(round(settings.idle_seconds * 1000))),
        *("--workers-kill-timeout", "10", "--respawn-failed-workers"),
        *("--no-ws", "--log-level", "error", "--working-dir", str(root), "wsgi:app"),
    ]
    os.execv(granian, arguments)


def _connections_max() -> int:
    """How many connections one worker may hold, by the limit of open files, which is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return (
        CONNECTIONS_MAX
        if soft == resource.RLIM_INFINITY
        else max(64, min(CONNECTIONS_MAX, soft - OTHER_FILES))
    )


def _refuse_taken_port(host: str, port: int) -> None:
    """Raise ConfigurationError when somebody listens there.

    Granian shares the port among its processes, and would share it with a forgotten older release as silently.
    """
    try:
        [address, *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.socket(address[0], socket.SOCK_STREAM) as probe:
            # As servers do: what a server stopped just now left behind is no listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    except OSError as why:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {why.strerror or why}; see HOST and PORT"
        ) from why


@cli.command()
def worker() -> None:
    """Run checks and sweeps from the queue until stopped."""
    from processor import worker as process

    stop = _stop_on_signals()
    services = _services("worker")
    services.settings.require("redis_url")
    process.run(services, stop)


@cli.command()
def clock() -> None:
    """Enqueue what is due, until stopped.

    The database says what that is. Several clocks do no harm.
    """
    from processor import clock as process

    stop = _stop_on_signals()
    services = _services("clock")
    services.settings.require("redis_url")
    process.run(services, stop)


@cli.command()
@click.option("--to", "revision", default="head", show_default=True, help="Migration to upgrade to.")
def migrate(revision: str) -> None:
    """Bring the database's tables up to this code. Safe to run twice, or twice at once."""
    from sqlalchemy.exc import OperationalError

    from processor.store import migrations
    from processor.store.database import first_line

    settings = Settings.read(os.environ)
    settings.require("database_url")
    try:
        migrations.upgrade(str(settings.database_url), revision)
    except OperationalError as why:
        raise StoreUnavailable(f"the database cannot be migrated: {first_line(why)}") from why
    click.echo(f"database is at migration {revision if revision != 'head' else migrations.head()}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def settings(as_json: bool) -> None:
    """List every setting. Secrets stay hidden.

    Variable, meaning, default, and whether it is set.
    """
    rows = [
        {
            "variable": one.variable,
            "meaning": one.meaning,
            "default": one.default,
            "is_set": bool(os.environ.get(one.variable, "").strip()),
            "value": _shown_value(one.variable, is_secret=one.is_secret),
        }
        for one in declared_settings().values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("variable", "value", "default", "meaning", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row[name] or "-") for name in ("variable", "value", "default", "meaning")))
    Console().print(table)


def _shown_value(variable: str, *, is_secret: bool) -> str | None:
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    return "(set, hidden)" if is_secret or len(value) > 60 else value


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(as_json: bool) -> None:
    """Check every part and say how to mend it.

    Configuration, keys, database, migrations, Redis, clock, worker, alerts and Wix.
    """
    from processor import doctor as checks

    found = checks.examine(os.environ)
    if as_json:
        click.echo(json.dumps([one.as_dict() for one in found], indent=2))
    else:
        marks = {
            True: click.style("ok  ", fg="green"),
            False: click.style("FAIL", fg="red"),
            None: click.style("?   ", fg="yellow"),  # not tried
        }
        for one in found:
            click.echo(f"{marks[one.is_ok]}  {one.name}: {one.detail}")
            if one.remedy:
                click.echo(f"      -> {one.remedy}")
    if any(one.is_ok is False for one in found):
        raise click.exceptions.Exit(EXIT_NO)


@cli.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands.

    For example: `eval "$(processor completion bash)"`.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "processor", "_PROCESSOR_COMPLETE").source())


@cli.command()
@click.option(
    "--once", "is_once", is_flag=True, help="End after the story: 0 if the books are right, else 1."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for databases, state and logs.  [default: .data/demo in the checkout]",
)
def demo(is_once: bool, data: Path | None) -> None:
    """Show the whole job, with a pretend Wix.

    Private servers, the pretend Wix, the service, and a story of a site's owner and her buyers.
    """
    from processor import demo as story

    if not story.run(data, is_once=is_once, environ=os.environ):
        raise click.exceptions.Exit(EXIT_NO)
