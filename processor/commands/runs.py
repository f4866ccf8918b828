"""`processor runs`: what checks and sweeps did, their export, and the proof that it comes out the same again."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from processor.commands.common import (
    Impossible,
    any_instance_option,
    echo_fields,
    echo_json,
    echo_table,
    json_option,
    limit_option,
    open_services,
    window_options,
)
from processor.commands.reports import readers_may_leave
from processor.domain import money
from processor.domain.sheet import cell

if TYPE_CHECKING:
    from processor.reruns import Proof
    from processor.store.runs import RunLine

EXIT_NO = 1
COLUMNS = (
    *("record", "payment_link_id", "payment_id", "outcome", "type", "severity", "currency", "payments"),
    *("amount", "amount_at_risk", "booked", "wix", "difference", "tolerated", "is_settled"),
)
"""Of `runs export --csv`; a cell is empty where a line says nothing of the kind."""

run_argument = click.argument("run_id", type=click.UUID, metavar="RUN")


@click.group("runs")
def runs() -> None:
    """What checks and sweeps did, and its proof."""


@runs.command("list")
@click.option("--kind", type=click.Choice(("check", "sweep", "backfill")), help="Of this kind.")
@click.option(
    "--status", type=click.Choice(("running", "succeeded", "failed", "abandoned")), help="That stand so."
)
@any_instance_option
@window_options
@limit_option
@json_option
def list_runs(limit: int, as_json: bool, **narrowing: Any) -> None:
    """List runs, the newest first, by when they began."""
    from processor.store import runs as store

    services = open_services()
    with services.database.begin() as connection:
        found = store.lines(connection, limit=limit, **narrowing)
    if as_json:
        echo_json([_document(one) for one in found])
        return
    echo_table(
        ("run", "began", "kind", "status", "by", "links", "differing", "calls", "reproducible"),
        [
            (
                one.run_id,
                one.started_at,
                one.kind,
                one.status,
                one.actor,
                one.link_count,
                one.discrepant,
                one.wix_requests,
                one.result_digest is not None,
            )
            for one in found
        ],
        nothing="no such run",
        numbers=("links", "differing", "calls"),
    )
    if len(found) == limit:
        click.echo(f"only the newest {limit} are listed; --limit shows more")


def _document(one: RunLine) -> dict[str, Any]:
    told = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return {**told, "result_digest": one.result_digest.hex() if one.result_digest else None}


@runs.command("show")
@run_argument
@json_option
def show_run(run_id: UUID, as_json: bool) -> None:
    """Show one run: what it decided by, counted and cost."""
    from processor.store import runs as store

    services = open_services()
    with services.database.begin() as connection:
        run = store.find(connection, run_id)
    if run is None:
        raise Impossible("no such run: `processor runs list` shows what there is")
    if as_json:
        echo_json(_document(run))
        return
    echo_fields((name, value) for name, value in _document(run).items() if name != "sums")
    if run.sums:
        click.echo()
        _echo_sums(run)


def _echo_sums(run: RunLine) -> None:
    echo_table(
        ("currency", "booked payments", "booked", "Wix payments", "Wix"),
        [
            (
                currency,
                ours.payments,
                money.shown(ours.amount, currency),
                theirs.payments,
                money.shown(theirs.amount, currency),
            )
            for currency, (ours, theirs) in sorted(run.totals.sums.items())
        ],
        nothing="no payments",
        numbers=("booked payments", "booked", "Wix payments", "Wix"),
    )


# -- Export ----------------------------------------------------------------------------------------


@runs.command("export")
@run_argument
@click.option("--json", "as_json", is_flag=True, help="The export itself: JSON, one record a line.")
@click.option("--csv", "as_csv", is_flag=True, help="For spreadsheets: links, payments, differences.")
def export(run_id: UUID, as_json: bool, as_csv: bool) -> None:
    """Print what a check decided, with its control totals.

    A table for people; --json is the export as it was kept, whose last line holds the SHA-256 of all lines before it.
    Ends with 1 when the lines do not have the digest of the run, since they were changed.
    """
    from processor import reruns
    from processor.store import report_views

    if as_json and as_csv:
        raise click.UsageError("choose --json or --csv")
    services = open_services()
    with report_views.reading(services.database, "UTC") as connection, readers_may_leave():
        run = reruns.reproducible(connection, run_id)
        lines = reruns.exported(connection, run)
        try:
            if as_json:
                for one in lines:
                    sys.stdout.buffer.write(one.encode() + b"\n")
            elif as_csv:
                _write_csv(map(json.loads, lines))
            else:
                _echo_export(run, map(json.loads, lines))
        except reruns.Changed as why:
            click.echo(f"processor: {why}", err=True)
            raise click.exceptions.Exit(EXIT_NO) from None


def _write_csv(records: Iterable[dict[str, Any]]) -> None:
    output = sys.stdout.buffer
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for record in records:
        for row in _rows(record):
            writer.writerow([cell(row.get(name)) for name in COLUMNS])
        output.write(buffer.getvalue().encode())
        buffer.seek(0)
        buffer.truncate()
    output.write(buffer.getvalue().encode())


def _rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of a spreadsheet that a record is told in."""
    match record["record"]:
        case "same":
            yield record
        case "payment":
            sides = {side: _side(record[side]) for side in ("booked", "wix")}
            facts = record["booked"] or record["wix"] or {}
            told = {name: facts.get(name) for name in ("amount", "currency")}
            yield {**record, **sides, **told, "payments": 1}
        case "difference":
            sides = {side: record["sides"].get(side) for side in ("booked", "wix", "difference")}
            sides["booked"] = sides["booked"] or record["sides"].get("told")
            yield {**record, **sides}
        case "link":
            booked, listed = record["booked"], record["listed"]
            for currency in sorted({*booked, *listed}) or [None]:
                yield {
                    **record,
                    "currency": currency,
                    "booked": _counted(booked.get(currency)),
                    "wix": _counted(listed.get(currency)),
                }
        case "control":
            for currency, sums in sorted(record["sums"].items()):
                yield {
                    "record": "control",
                    "currency": currency,
                    "booked": _counted([sums["booked_count"], sums["booked"]]),
                    "wix": _counted([sums["wix_count"], sums["wix"]]),
                }


def _side(facts: dict[str, Any] | None) -> str | None:
    return None if facts is None else f"{facts['amount']} {facts['currency']}, revision {facts['revision']}"


def _counted(told: list[Any] | None) -> str:
    number, amount = told or (0, "0")
    return f"{amount} in {number}"


def _echo_export(run: RunLine, records: Iterable[dict[str, Any]]) -> None:
    links: list[tuple[Any, ...]] = []
    differences: list[tuple[Any, ...]] = []
    control: dict[str, Any] = {}
    for record in records:
        match record["record"]:
            case "link":
                for row in _rows(record):
                    state = "missing at Wix" if record["is_missing"] else ""
                    state = state or ("settled" if record["is_settled"] else "settling")
                    links.append(
                        (record["payment_link_id"], row["currency"], row["booked"], row["wix"], state)
                    )
            case "difference":
                [row] = _rows(record)
                differences.append(
                    (
                        record["payment_id"] or record["payment_link_id"],
                        record["type"],
                        record["severity"],
                        record["amount_at_risk"],
                        record["currency"],
                        row["booked"],
                        row["wix"],
                        record["tolerated"],
                    )
                )
            case "control":
                control = record
    echo_fields(
        (
            ("run", run.run_id),
            ("app instance", run.instance_id),
            ("kind", run.kind),
            ("by", run.actor),
            ("began", run.started_at),
            ("cut-off", run.cutoff_at),
            ("rules", run.rule_set_version or "built in"),
            ("settling", f"{run.settling_seconds:g} s"),
            ("release", run.code_version),
            ("calls to Wix", run.wix_requests),
            ("payments", ", ".join(f"{number} {name}" for name, number in control["payments"].items())),
        )
    )
    click.echo("\nPayment links")
    echo_table(("payment link", "currency", "booked", "Wix", "state"), links, nothing="none")
    click.echo("\nDifferences")
    echo_table(
        (
            *("payment or link", "type", "severity", "amount", "currency", "booked", "Wix says"),
            "tolerated by",
        ),
        differences,
        nothing="none",
    )
    click.echo("\nControl totals")
    _echo_sums(run)
    assert run.result_digest is not None
    click.echo(f"{control['lines'] + 1} lines, SHA-256 {run.result_digest.hex()}")


# -- Again -----------------------------------------------------------------------------------------


@runs.command("rerun")
@run_argument
@json_option
def rerun(run_id: UUID, as_json: bool) -> None:
    """Decide a check again, and compare: 1 if it differs.

    Its result is decided again from the evidence it kept, as of its cut-off, and must be the same byte for byte. Then
    the books of that moment are rebuilt from the history of payments, and must be what the evidence says. Nothing is
    changed.
    """
    from processor import reruns
    from processor.store import report_views

    services = open_services()
    with report_views.reading(services.database, "UTC") as connection:
        proof = reruns.prove(connection, run_id)
    if as_json:
        echo_json(_proof_document(proof))
    else:
        _echo_proof(proof)
    if not (proof.is_result_same and proof.is_history_same):
        raise click.exceptions.Exit(EXIT_NO)


def _proof_document(proof: Proof) -> dict[str, Any]:
    number, line = proof.differing or (None, None)
    return {
        "run_id": proof.run.run_id,
        "cutoff_at": proof.run.cutoff_at,
        "code_version": proof.run.code_version,
        "rerun_code_version": proof.code_version,
        "is_result_same": proof.is_result_same,
        "is_history_same": proof.is_history_same,
        "lines": proof.lines,
        "first_difference": {"line": number, "kept": line.kept, "again": line.again} if line else None,
        "is_export_whole": proof.is_export_whole,
        "unreadable": proof.unreadable,
        "moved": proof.moved,
        "contradicted": proof.contradicted,
    }


def _echo_proof(proof: Proof) -> None:
    run = proof.run
    if proof.is_result_same:
        click.echo(f"result: the same, {proof.lines} lines as of {run.cutoff_at:%Y-%m-%dT%H:%M:%SZ}")
    elif proof.unreadable is not None:
        click.echo(f"result: cannot be decided again: {proof.unreadable}")
    elif proof.differing is not None:
        number, line = proof.differing
        click.echo(f"result: differs from line {number} on")
        click.echo(f"  kept   {line.kept or 'no such line'}")
        click.echo(f"  again  {line.again or 'no such line'}")
    else:
        click.echo("result: it comes out as it is kept, but the run has another digest: both were changed")
    if not proof.is_result_same and proof.code_version != run.code_version:
        click.echo(
            f"it was run by release {run.code_version}, and again by {proof.code_version}, which may decide"
            " otherwise"
        )
    if proof.unreadable is not None:
        click.echo("history: not compared")
        return
    if proof.is_history_same:
        click.echo("history: the same, every payment that was booked is still told of")
        return
    click.echo("history: changed since")
    for one in proof.moved:
        click.echo(
            f"  link {one.payment_link_id}: {money.shown(one.kept.amount, one.currency)} {one.currency} in"
            f" {one.kept.payments} were booked, {money.shown(one.rebuilt.amount, one.currency)} {one.currency} in"
            f" {one.rebuilt.payments} are told of"
        )
    for payment in proof.contradicted:
        click.echo(f"  payment {payment.payment_id}, revision {payment.revision}: is not as it was told")
