"""Text in cells of CSV and XLSX that programs for spreadsheets would run. Pure."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a formula may begin with (OWASP, CSV Injection, read 2026-11)."""


def harmless(text: str) -> str:
    """`text`, with an apostrophe first where a spreadsheet would run it as a formula.

    For text alone: an amount below zero begins with a minus sign, and is a number.
    """
    return f"'{text}" if text.startswith(FORMULA) else text
