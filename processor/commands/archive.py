"""`processor archive`: months of signed bodies leave the database, and come back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from processor.commands.common import echo_json, echo_table, json_option, open_services, plain


@click.group("archive")
def archive() -> None:
    """Months of signed bodies leave for files, and come back."""


@archive.command("export")
@click.option(
    "--before", required=True, metavar="YYYY-MM", help="Months before this one; the month itself stays."
)
@click.option(
    "--to", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where files go."
)
@click.option("--drop", is_flag=True, help="Delete the detached tables, too.")
@json_option
def export(before: str, folder: Path, drop: bool, as_json: bool) -> None:
    """Write whole months to files and detach them.

    Each file is read back first. Events stay, with their digests: what comes again is a duplicate for ever. The files
    hold personal data.
    """
    from processor.archive import archive as archive_months

    try:
        end = datetime.strptime(before, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise click.BadParameter(f"{before} is no month: write 2026-08", param_hint="--before") from None
    services = open_services()
    left = list(archive_months(services, end, folder, drop=drop))
    if as_json:
        echo_json([{**plain(one), "file": str(one.file)} for one in left])
        return
    echo_table(
        ("month", "events", "file"),
        ((f"{one.month:%Y-%m}", one.event_count, one.file) for one in left),
        nothing=f"no month before {before} is in the database",
    )
    if left and not drop:
        names = ", ".join(one.partition for one in left)
        click.echo(f"Detached, and there still: {names}. DROP TABLE them once the files are safe.")


@archive.command("list")
@json_option
def list_archives(as_json: bool) -> None:
    """List the months that left. Erased: buyers' events erased since, which the file holds still."""
    from processor.store import evidence

    services = open_services()
    with services.database.begin() as connection:
        found = evidence.archives(connection)
    if as_json:
        echo_json(
            [
                {**plain(one), "month": f"{one.month:%Y-%m}", "file_digest": one.file_digest.hex()}
                for one in found
            ]
        )
        return
    echo_table(
        ("month", "events", "erased", "archived", "table", "file", "SHA-256"),
        (
            (
                f"{one.month:%Y-%m}",
                one.event_count,
                one.erased,
                one.archived_at,
                "detached" if one.is_there else "dropped",
                one.file_name,
                one.file_digest.hex(),
            )
            for one in found
        ),
        nothing="no month was archived",
    )


@archive.command("restore")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def restore(file: Path) -> None:
    """Put the bodies of an archived month back."""
    from processor.archive import restore as restore_archive

    restored, total = restore_archive(open_services(), file)
    click.echo(
        f"{restored} of {total} bodies were put back; the others are there, erased, or not what was stored."
    )
