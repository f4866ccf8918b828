"""Rows as files: CSV, XLSX and Parquet, written by and by, so that a million rows need no more memory than one.

A file is whole before the first byte of it is sent. A list that breaks off half way would look like the whole of a
shorter one, and the books are read as of one moment only while it is written, however slowly somebody reads it.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from importlib.util import find_spec
from typing import IO, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import xlsxwriter
from flask import Response
from xlsxwriter.exceptions import FileCreateError

from processor.domain import money, sheet
from processor.web.pages.formats import seen
from processor.web.pages.site import Place

ROWS_AT_ONCE = 2_000
# Of one file, as it is written: what is beside it in TMPDIR is not ours to fill, however long the texts of others are.
BYTES_MAX = 512 * 1024 * 1024
_ROWS_BETWEEN = 500  # looks at how large it is
_PART = 64 * 1024  # of a file, as it is sent
SMALL_BYTES = 256 * 1024  # a few of these in memory are nothing
_CELL_MAX = 32_767  # letters in a cell of XLSX
_DIGITS_MAX = 15  # that a number of a spreadsheet holds exactly
_CODE_MAX = 64  # letters of what is likely to come again
_NEVER_IN_XML = dict.fromkeys((0xFFFE, 0xFFFF), "\N{REPLACEMENT CHARACTER}")


class Format(StrEnum):
    """The kinds of files."""

    CSV = "csv"
    XLSX = "xlsx"
    PARQUET = "parquet"


MEDIA_TYPES = {
    Format.CSV: "text/csv; charset=utf-8",
    Format.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    Format.PARQUET: "application/vnd.apache.parquet",
}
# A sheet ends at its 1,048,576th row, the first of which are names. XLSX is XML in a ZIP file: a row of it costs ten
# times what one of CSV does, and a process that writes one also answers webhooks.
ROWS_MAX = {Format.CSV: 1_000_000, Format.XLSX: 100_000, Format.PARQUET: 1_000_000}


def formats() -> tuple[Format, ...]:
    """The formats that can be written here: Parquet needs pyarrow."""
    return tuple(one for one in Format if one is not Format.PARQUET or find_spec("pyarrow") is not None)


class Kind(StrEnum):
    """What a column holds. AMOUNT: money in the currency that the row's column `currency` says."""

    TEXT = "text"
    ID = "id"
    MOMENT = "moment"
    AMOUNT = "amount"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Column:
    """name: in CSV and Parquet; title: in XLSX. width: of XLSX, in letters."""

    name: str
    title: str
    kind: Kind
    width: int = 12


@dataclass(frozen=True, slots=True)
class Table:
    """What is exported. about: (name, value) of what says whence the rows are, for XLSX, which has room for it."""

    title: str
    columns: Sequence[Column]
    zone: ZoneInfo
    about: Sequence[tuple[str, str]] = ()

    @property
    def currency_at(self) -> int | None:
        """Where the column `currency` is."""
        return next((at for at, column in enumerate(self.columns) if column.name == "currency"), None)


Row = Sequence[Any]


class TooLarge(Exception):
    """A file would have more than BYTES_MAX."""


def write(format_: Format, file: IO[bytes], table: Table, rows: Iterable[Row]) -> None:
    """Write rows, values in the order of the columns and None for what is not known, to a binary file.

    Raises TooLarge, and OSError when there is no room for it.
    """
    match format_:
        case Format.CSV:
            _write_csv(file, table, rows)
        case Format.XLSX:
            _write_xlsx(file, table, rows)
        case Format.PARQUET:
            _write_parquet(file, table, rows)


def within_size(rows: Iterable[Row], size: Callable[[], int]) -> Iterator[Row]:
    """The rows, one by one, while the file they are written to is not too large. size: of it in bytes.

    Raises TooLarge. What is written of the last few is looked at by `making`.
    """
    for number, row in enumerate(rows):
        if number % _ROWS_BETWEEN == 0 and size() > BYTES_MAX:
            raise TooLarge
        yield row


def made() -> IO[bytes]:
    """A file that is nobody's and goes when it is closed."""
    return tempfile.TemporaryFile()


@contextmanager
def making() -> Iterator[IO[bytes]]:
    """A file that is `made` and to be written. It is closed when that fails, and else left for `answer`.

    Raises TooLarge, and OSError when there is no room for it.
    """
    file = made()
    try:
        yield file
        file.flush()
        if file.tell() > BYTES_MAX:
            raise TooLarge
    except BaseException:
        with suppress(OSError):  # there may be no room for what was still to be written
            file.close()
        raise


def answer(format_: Format, file: IO[bytes], name: str, place: Place) -> Response:
    """Send a file that was written, and in the end close it and leave its place. name: without its ending, ASCII.

    What is small is sent from memory, so that no reader of it holds anything. When that fails, the file is closed.
    """
    body: bytes | _Parts
    try:
        length = file.seek(0, io.SEEK_END)
        file.seek(0)
        if length <= SMALL_BYTES:
            body = file.read()
            file.close()
            place.leave()
        else:
            body = _Parts(file, place)
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    response = Response(body, content_type=MEDIA_TYPES[format_])
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.{format_}"'
    response.content_length = length
    return response


class _Parts:
    """A file in parts. It is closed after the last, by `close`, and when nobody wants it any more; so is its place."""

    def __init__(self, file: IO[bytes], place: Place) -> None:
        self._file = file
        self._place = place

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        part = b"" if self._file.closed else self._file.read(_PART)
        if not part:
            self.close()
            raise StopIteration
        return part

    def close(self) -> None:
        self._file.close()
        self._place.leave()

    def __del__(self) -> None:
        self.close()


# -- CSV -------------------------------------------------------------------------------------------


def _write_csv(file: IO[bytes], table: Table, rows: Iterable[Row]) -> None:
    """RFC 4180 in UTF-8. Times are of the zone, with their offset; text is harmless to spreadsheets."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        writer = csv.writer(text)
        writer.writerow([column.name for column in table.columns])
        at = table.currency_at
        kinds = [column.kind for column in table.columns]
        for row in within_size(rows, file.tell):
            currency = "" if at is None else row[at]
            writer.writerow(
                [_csv_cell(kind, value, currency, table.zone) for kind, value in zip(kinds, row, strict=True)]
            )
        text.flush()
    finally:
        text.detach()


def _csv_cell(kind: Kind, value: Any, currency: str, zone: ZoneInfo) -> str:
    if value is None:
        return ""
    match kind:
        case Kind.AMOUNT:
            return money.shown(value, currency)
        case Kind.MOMENT:
            told: datetime = value
            return told.astimezone(zone).isoformat(timespec="milliseconds")
        case Kind.TEXT:
            return _plain(value)
        case Kind.ID | Kind.WHOLE:
            return str(value)


def _plain(value: str) -> str:
    """Text of others, without what cannot be seen and what would be run as a formula."""
    return _plain_code(value) if len(value) <= _CODE_MAX else sheet.harmless(seen(value))


@lru_cache(maxsize=1_024)
def _plain_code(value: str) -> str:
    # Most text of most rows is one of few codes.
    return sheet.harmless(seen(value))


# -- XLSX ------------------------------------------------------------------------------------------


def _write_xlsx(file: IO[bytes], table: Table, rows: Iterable[Row]) -> None:
    """A sheet of the rows, and one that says what they are and come to."""
    # The library's own files have names, and stay where they are when writing is given up.
    with tempfile.TemporaryDirectory() as folder:
        try:
            _write_book(file, table, rows, folder)
        except FileCreateError as why:
            raise OSError(str(why)) from why


def _write_book(file: IO[bytes], table: Table, rows: Iterable[Row], folder: str) -> None:
    options = {
        "tmpdir": folder,
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "nan_inf_to_errors": False,
    }
    book = xlsxwriter.Workbook(file, options)
    page = book.add_worksheet(table.title[:31])
    head = book.add_format({"bold": True, "bottom": 1})
    moment = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
    looks: dict[int, Any] = {}

    def amounts(places: int) -> Any:
        if places not in looks:
            looks[places] = book.add_format({"num_format": "#,##0" + ("." + "0" * places if places else "")})
        return looks[places]

    def put_amount(sheet_: Any, line: int, column: int, value: Decimal, currency: str) -> None:
        text = money.shown(value, currency)
        if len(text.replace(".", "").lstrip("0")) > _DIGITS_MAX:
            sheet_.write_string(line, column, text)  # a number of a spreadsheet would lose its last digits
        else:
            sheet_.write_number(line, column, value, amounts(len(text.partition(".")[2])))

    for number, column in enumerate(table.columns):
        page.set_column(number, number, column.width)
        name = f"{column.title} ({table.zone.key})" if column.kind is Kind.MOMENT else column.title
        page.write_string(0, number, name, head)
    page.freeze_panes(1, 0)
    at, kinds = table.currency_at, [column.kind for column in table.columns]
    totals: dict[tuple[str, str], tuple[int, Decimal]] = {}
    line = 0
    for line, row in enumerate(within_size(rows, lambda: _size_of(folder)), start=1):
        currency = "" if at is None else row[at]
        for number, (kind, value) in enumerate(zip(kinds, row, strict=True)):
            if value is None:
                continue
            match kind:
                case Kind.AMOUNT:
                    put_amount(page, line, number, value, currency)
                    key = (table.columns[number].title, currency)
                    count, total = totals.get(key, (0, Decimal(0)))
                    totals[key] = (count + 1, total + value)
                case Kind.MOMENT:
                    page.write_datetime(
                        line, number, value.astimezone(table.zone).replace(tzinfo=None), moment
                    )
                case Kind.WHOLE:
                    page.write_number(line, number, value)
                case Kind.TEXT:
                    page.write_string(line, number, _plain(value).translate(_NEVER_IN_XML)[:_CELL_MAX])
                case Kind.ID:
                    page.write_string(line, number, str(value))
    if line:
        page.autofilter(0, 0, line, len(table.columns) - 1)
    about = book.add_worksheet("About")
    about.set_column(0, 0, 24)
    about.set_column(1, 3, 40)
    below = 0
    for below, (name, value) in enumerate([*table.about, ("Rows", f"{line:,}")], start=1):
        about.write_string(below - 1, 0, name, head)
        about.write_string(below - 1, 1, _plain(value).translate(_NEVER_IN_XML)[:_CELL_MAX])
    for (title, currency), (count, total) in sorted(totals.items()):
        below += 1
        about.write_string(below, 0, f"{title}, {currency}", head)
        put_amount(about, below, 1, total, currency)
        about.write_number(below, 2, count)
    book.close()


def _size_of(folder: str) -> int:
    return sum(one.stat().st_size for one in os.scandir(folder))


# -- Parquet ---------------------------------------------------------------------------------------


def _write_parquet(file: IO[bytes], table: Table, rows: Iterable[Row]) -> None:
    """Row groups of typed columns: decimals of 19 digits, instants in UTC, everything else as text or whole numbers."""
    import pyarrow
    from pyarrow import parquet

    types = {
        Kind.TEXT: pyarrow.string(),
        Kind.ID: pyarrow.string(),
        Kind.MOMENT: pyarrow.timestamp("us", tz="UTC"),
        Kind.AMOUNT: pyarrow.decimal128(19, 3),
        Kind.WHOLE: pyarrow.int64(),
    }
    schema = pyarrow.schema([(column.name, types[column.kind]) for column in table.columns])
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for some in _grouped(within_size(rows, file.tell), ROWS_AT_ONCE * 5):
            columns = [
                [_parquet_value(column.kind, row[number]) for row in some]
                for number, column in enumerate(table.columns)
            ]
            arrays = [pyarrow.array(one, field.type) for one, field in zip(columns, schema, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _parquet_value(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.MOMENT:
        told: datetime = value
        return told.astimezone(UTC)
    return str(value) if isinstance(value, UUID) else value


def _grouped(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    some: list[Row] = []
    for row in rows:
        some.append(row)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
