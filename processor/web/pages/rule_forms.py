"""The form of rules: what was typed, what is wrong with it, and the document it stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from processor.domain.discrepancy import TEXT_MAX
from processor.domain.money import MINOR_DIGITS
from processor.domain.rules import RULES_MAX, TOLERABLE, Assumptions, RuleSet
from processor.web.pages.formats import words
from processor.web.pages.link_forms import amount

TYPES = tuple((one.value, words(one.value)) for one in sorted(TOLERABLE))
ANSWERS = (("", "Not known"), ("yes", "Yes"), ("no", "No"))
ASSUMED = Assumptions.__struct_fields__
LIMITS_MAX = len(MINOR_DIGITS)
CELL_MAX = 100  # letters that are kept of a field
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,59}")
_NUMBER = re.compile(r"\d{1,6}(\.\d{1,3})?", re.ASCII)


@dataclass(slots=True)
class ToleranceRow:
    """A tolerance as it was typed."""

    id: str = ""
    type: str = ""
    currency: str = ""
    amount: str = ""
    percent: str = ""
    days: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was typed; the type is always chosen."""
        return not (self.id or self.currency or self.amount or self.percent or self.days)


@dataclass(slots=True)
class LimitRow:
    """A write-off limit as it was typed."""

    currency: str = ""
    amount: str = ""


@dataclass(slots=True)
class Draft:
    """The form. wrong: words by the name of the field that they are shown at."""

    tolerances: list[ToleranceRow] = field(default_factory=list)
    limits: list[LimitRow] = field(default_factory=list)
    assumptions: dict[str, str] = field(default_factory=dict)
    comment: str = ""
    wrong: dict[str, str] = field(default_factory=dict)


def of(rule_set: RuleSet, comment: str = "") -> Draft:
    """The form with these rules in it."""
    return Draft(
        [
            ToleranceRow(
                one.id,
                one.type.value,
                one.currency or "",
                _plain(one.amount),
                _plain(one.percent),
                _plain(one.days),
            )
            for one in rule_set.tolerances
        ],
        [LimitRow(currency, _plain(most)) for currency, most in sorted(rule_set.write_off_limits.items())],
        {name: {True: "yes", False: "no", None: ""}[getattr(rule_set.assumptions, name)] for name in ASSUMED},
        comment,
    )


def _plain(value: Decimal | None) -> str:
    return "" if value is None else f"{value:f}"


def read(form: Mapping[str, str]) -> Draft:
    """The form as it was sent, whatever is in it."""

    def cell(name: str) -> str:
        return form.get(name, "").strip()[:CELL_MAX]

    def count(name: str, most: int) -> int:
        told = form.get(name, "")
        return min(int(told), most) if told.isascii() and told.isdigit() and len(told) <= 4 else 0

    return Draft(
        [
            ToleranceRow(
                cell(f"tolerance_id-{n}"),
                cell(f"tolerance_type-{n}"),
                cell(f"tolerance_currency-{n}").upper(),
                cell(f"tolerance_amount-{n}"),
                cell(f"tolerance_percent-{n}"),
                cell(f"tolerance_days-{n}"),
            )
            for n in range(count("tolerance_rows", RULES_MAX))
        ],
        [
            LimitRow(cell(f"limit_currency-{n}").upper(), cell(f"limit_amount-{n}"))
            for n in range(count("limit_rows", LIMITS_MAX))
        ],
        {name: cell(f"assume_{name}") for name in ASSUMED},
        form.get("comment", "").strip(),
    )


def step(draft: Draft, asked: str) -> bool:
    """Add or remove a row as a button of the form asks. False: it asks for something else."""
    what, _, number = asked.partition("-")
    if what == "more_tolerances":
        if len(draft.tolerances) < RULES_MAX:
            draft.tolerances.append(ToleranceRow())
        return True
    if what == "more_limits":
        if len(draft.limits) < LIMITS_MAX:
            draft.limits.append(LimitRow())
        return True
    rows: list[Any]
    if what == "drop_tolerance":
        rows = draft.tolerances
    elif what == "drop_limit":
        rows = draft.limits
    else:
        return False
    if number.isascii() and number.isdigit() and len(number) <= 4 and int(number) < len(rows):
        del rows[int(number)]
    return True


def check(draft: Draft) -> dict[str, Any] | None:
    """The document that the form stands for, None when something is `wrong`. Rows without anything are left out."""
    wrong = draft.wrong
    tolerances, taken = [], {one.id for one in draft.tolerances if one.id}
    seen: set[str] = set()
    for n, row in enumerate(draft.tolerances):
        if row.is_empty:
            continue
        if not row.id:
            row.id = _named(row, taken)
            taken.add(row.id)
        elif not _NAME.fullmatch(row.id):
            wrong[f"tolerance_id-{n}"] = "Small letters, digits and . _ - alone, at most 60."
        if row.id in seen:
            wrong[f"tolerance_id-{n}"] = "Another tolerance has this name."
        seen.add(row.id)
        if row.type not in dict(TYPES):
            wrong[f"tolerance_type-{n}"] = "Choose one."
        if row.currency and row.currency not in MINOR_DIGITS:
            wrong[f"tolerance_currency-{n}"] = "No ISO 4217 code in use, such as EUR."
        elif row.amount and not row.currency:
            wrong[f"tolerance_currency-{n}"] = "An amount needs its currency."
        elif row.amount and (why := amount(row.amount, row.currency)[1]):
            wrong[f"tolerance_amount-{n}"] = why
        if not row.amount and not row.percent:
            wrong[f"tolerance_amount-{n}"] = "Write an amount, a percentage, or both."
        _check_number(wrong, f"tolerance_percent-{n}", row.percent, 100)
        _check_number(wrong, f"tolerance_days-{n}", row.days, 3_650)
        given = {
            "id": row.id,
            "type": row.type,
            "currency": row.currency,
            "amount": row.amount,
            "percent": row.percent,
            "days": row.days,
        }
        tolerances.append({name: value for name, value in given.items() if value})
    limits: dict[str, str] = {}
    for n, limit in enumerate(draft.limits):
        if not limit.currency and not limit.amount:
            continue
        if limit.currency not in MINOR_DIGITS:
            wrong[f"limit_currency-{n}"] = "No ISO 4217 code in use, such as EUR."
        elif limit.currency in limits:
            wrong[f"limit_currency-{n}"] = "Another line limits this currency."
        elif why := amount(limit.amount, limit.currency)[1]:
            wrong[f"limit_amount-{n}"] = why
        limits[limit.currency] = limit.amount
    for name, value in draft.assumptions.items():
        if value not in dict(ANSWERS):
            wrong[f"assume_{name}"] = "Choose one."
    if why := comment_problem(draft.comment):
        wrong["comment"] = why
    if wrong:
        return None
    return {
        "tolerances": tolerances,
        "write_off_limits": limits,
        "assumptions": {name: value == "yes" for name, value in draft.assumptions.items() if value},
    }


def comment_problem(comment: str) -> str:
    """What is wrong with why rules are proposed or turned down, "" for nothing."""
    return f"Write at most {TEXT_MAX:,} letters." if len(comment) > TEXT_MAX or "\0" in comment else ""


def _named(row: ToleranceRow, taken: set[str]) -> str:
    """A name for a tolerance that was given none."""
    made = "-".join(filter(None, (row.type.replace("_", "-"), row.currency.lower())))
    # Whatever else was typed is told at its own field.
    made = made if _NAME.fullmatch(made) and len(made) <= 50 else "tolerance"
    number = next(n for n in range(1, RULES_MAX + 2) if (made if n == 1 else f"{made}-{n}") not in taken)
    return made if number == 1 else f"{made}-{number}"


def _check_number(wrong: dict[str, str], name: str, text: str, most: int) -> None:
    if text and (not _NUMBER.fullmatch(text) or Decimal(text) > most):
        wrong[name] = f"A number from 0 to {most:,} with a point, at most three decimals."
