"""Cells of CSV: exact, and never what a program for spreadsheets would run. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from processor.domain import money

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a formula may begin with (OWASP, CSV Injection, read 2026-11)."""


def harmless(text: str) -> str:
    """`text`, with an apostrophe first where a spreadsheet would run it as a formula.

    For text alone: an amount below zero begins with a minus sign, and is a number.
    """
    return f"'{text}" if text.startswith(FORMULA) else text


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
