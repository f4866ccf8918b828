"""Cells of CSV: exact, and never what a program for spreadsheets would run. Pure."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from processor.domain import money

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a formula may begin with (OWASP, CSV Injection, read 2026-11)."""


_DIVIDED = re.compile(r"([;\t]\s*)(?=[=+\-@＝＋－＠])")


def harmless(text: str) -> str:
    """`text`, with an apostrophe first where a spreadsheet would run it as a formula.

    For text alone: an amount below zero begins with a minus sign, and is a number.
    """
    if begins_formula(text):
        text = f"'{text}"
    # Where a semicolon or a tab divides cells, as in Excel in much of Europe, a cell may begin within the text.
    return _DIVIDED.sub(r"\1'", text)


def begins_formula(text: str) -> bool:
    """Whether a program for spreadsheets would run it; what cannot be seen before a formula does not hide it."""
    first = next((letter for letter in text if letter.isprintable() and not letter.isspace()), "")
    return text.startswith(FORMULA) or first.startswith(FORMULA)


def cell(value: Any, currency: str | None = None) -> str:
    """`value` in CSV: nothing for None, amounts with the decimals of their currency, times in UTC, objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, Decimal):
        return money.shown(value, currency or "")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
    if isinstance(value, dict):
        return json.dumps(value)  # in ASCII: nothing in it hides or turns the text around it
    return str(value)
