"""The rules of reconciliation: what difference is tolerated, what may be written off, what is assumed of Wix. Pure.

Rules have versions (`store.rules`), and whatever follows from one names its version, so that a decision can be
explained after the rules have changed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from processor.domain.discrepancy import Difference, DiscrepancyType, Tolerated
from processor.domain.money import AMOUNT_MAX, MINOR_DIGITS, shown
from processor.errors import NotAllowed

RULES_MAX = 200
DOCUMENT_MAX = 65_536  # letters; ten times what 200 tolerances take
EXPONENT_MAX = 30  # decimals that an amount may be written with, nearly all of them zeros


class Tolerance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A difference up to a limit, of one type.

    currency: None for each. amount: in main units. percent: of the booked amount. days: for so long from when it came
    up. None: no limit of that kind. All limits of all rules that fit must hold: the strictest wins.
    """

    id: Annotated[str, Meta(min_length=1, max_length=60, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    type: DiscrepancyType
    currency: str | None = None
    amount: Decimal | None = None
    percent: Decimal | None = None
    days: Decimal | None = None


class Assumptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What Wix does not document. None: not known, so what it would explain is informational or no difference.

    total_falls_on_refund: whether a link's total received falls when a payment of it is refunded.
    split_counts_once: whether a purchase split over a gift card and a card counts once in a link's payment count.
    checkout_outlives_link: whether a checkout begun in time can be paid after its link expired or was deactivated.
    last_payment_is_transaction: whether the last payment date of a link is when the buyer paid (true), or when Wix made
    the payment's record (false).
    status_follows_facts: whether a link is PAID exactly when its limit is reached and EXPIRED from its expiry on, and
    takes payments again from neither.
    """

    total_falls_on_refund: bool | None = None
    split_counts_once: bool | None = None
    checkout_outlives_link: bool | None = None
    last_payment_is_transaction: bool | None = None
    status_follows_facts: bool | None = None


NOTHING_ASSUMED = Assumptions()


class RuleSet(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All rules of one version. write_off_limits: by currency, the most that is written off of one discrepancy."""

    tolerances: tuple[Tolerance, ...] = ()
    write_off_limits: Mapping[str, Decimal] = MappingProxyType({})
    assumptions: Assumptions = NOTHING_ASSUMED


TOLERABLE = frozenset(
    (DiscrepancyType.AMOUNT_DIFFERS, DiscrepancyType.ORDER_AMOUNT_DIFFERS, DiscrepancyType.TOTAL_DIFFERS)
)
"""Types that measure a difference in money; of any other a tolerance could say nothing."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules in force. version: None for the built-in ones: nothing tolerated, no limits, nothing assumed.

    is_readable: False when another release put rules in force that this one does not understand. Then nothing is
    tolerated or assumed, and nothing may be written off; checks go on.
    """

    version: int | None
    rule_set: RuleSet
    is_readable: bool = True


BUILT_IN = Rules(None, RuleSet())


def decode(text: str | bytes) -> Any:
    """A document of rules from JSON, its amounts exact, no name twice. Raises ValueError, which says where."""
    if len(text) > DOCUMENT_MAX:
        raise ValueError(f"it has more than {DOCUMENT_MAX} letters")
    try:
        document = json.loads(text, parse_float=str, object_pairs_hook=_object)
        json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds a character that no text can have") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1):
        # A name may hold what no text can have.
        told = ", ".join(twice).encode("ascii", "backslashreplace").decode()
        raise ValueError(f"{told} is given twice")
    return dict(pairs)


def parse(document: Any) -> RuleSet:
    """Rules from JSON already decoded. Raises NotAllowed, which names the place and what is allowed there."""
    try:
        rules = msgspec.convert(document, RuleSet, strict=False)
    except msgspec.ValidationError as why:
        raise NotAllowed(f"the rules cannot be read: {why}") from None
    if len(rules.tolerances) > RULES_MAX:
        raise NotAllowed(f"at most {RULES_MAX} tolerances")
    ids = [one.id for one in rules.tolerances]
    if twice := sorted(one for one, count in Counter(ids).items() if count > 1):
        raise NotAllowed(f"two tolerances have one id: {', '.join(twice)}")
    for one in rules.tolerances:
        _check_tolerance(one)
    for currency, amount in rules.write_off_limits.items():
        _check_amount(f"write_off_limits.{currency}", currency, amount)
    return rules


def stored(version: int, document: Any) -> Rules:
    """Rules as they were put in force, by this release or another."""
    try:
        return Rules(version, parse(document))
    except NotAllowed:
        return Rules(version, RuleSet(), is_readable=False)


def _check_tolerance(one: Tolerance) -> None:
    if one.type not in TOLERABLE:
        raise NotAllowed(
            f"tolerance {one.id}: {one.type} has no size; choose of {', '.join(sorted(TOLERABLE))}"
        )
    if one.amount is None and one.percent is None:
        raise NotAllowed(f"tolerance {one.id}: give an amount, percent, or both")
    if one.amount is not None:
        if one.currency is None:
            raise NotAllowed(f"tolerance {one.id}: an amount needs a currency beside it")
        _check_amount(f"tolerance {one.id}", one.currency, one.amount)
    elif one.currency is not None and one.currency not in MINOR_DIGITS:
        raise NotAllowed(f"tolerance {one.id}: {one.currency} is no ISO 4217 code in use")
    if one.percent is not None and not _is_within_range(one.percent, 100):
        raise NotAllowed(f"tolerance {one.id}: percent is 0 to 100, with at most three decimals")
    if one.days is not None and not _is_within_range(one.days, 3_650):
        raise NotAllowed(f"tolerance {one.id}: days are 0 to 3650, with at most three decimals")


def _is_within_range(number: Decimal, most: int) -> bool:
    if not number.is_finite() or not 0 <= number <= most:
        return False
    exponent = number.as_tuple().exponent
    # A short number of very many decimals would become a very long text.
    return isinstance(exponent, int) and exponent >= -3


def _check_amount(place: str, currency: str, amount: Decimal) -> None:
    digits = MINOR_DIGITS.get(currency)
    if digits is None:
        raise NotAllowed(f"{place}: {currency} is no ISO 4217 code in use")
    if not amount.is_finite() or not 0 <= amount <= AMOUNT_MAX:
        raise NotAllowed(f"{place}: an amount is 0 to {AMOUNT_MAX:f}")
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -EXPONENT_MAX:
        raise NotAllowed(f"{place}: write the amount without a power of ten")
    if amount != amount.quantize(Decimal(1).scaleb(-digits)):
        raise NotAllowed(f"{place}: {currency} has {digits} decimals")


def may_tolerate(
    type_: DiscrepancyType,
    risk: Decimal | None,
    currency: str | None,
    rule_set: RuleSet,
    *,
    age: timedelta,
) -> bool | None:
    """Whether rules would tolerate a difference of which only these are known, and not of what it is a part.

    None when that depends on a percentage of what is booked.
    """
    if risk is None or currency is None:
        return False
    fitting = [one for one in rule_set.tolerances if one.type is type_ and one.currency in (None, currency)]
    for one in fitting:
        if one.amount is not None and risk > one.amount:
            return False
        if one.days is not None and age > timedelta(days=float(one.days)):
            return False
        if one.percent == 0 and risk:
            return False
    if any(one.percent for one in fitting) and risk:
        return None
    return bool(fitting)


def tolerate(difference: Difference, rules: Rules, *, opened_at: datetime, now: datetime) -> Tolerated | None:
    """Whether the rules allow the difference. None when they do not, or say nothing of it.

    opened_at: when it came up, or came up again after it had gone.
    """
    risk, currency = difference.amount_at_risk, difference.currency
    if rules.version is None or risk is None or currency is None:
        return None
    fitting = [
        one
        for one in rules.rule_set.tolerances
        if one.type is difference.type and one.currency in (None, currency)
    ]
    if not fitting or not all(_is_within(one, difference, risk, now - opened_at) for one in fitting):
        return None
    return Tolerated(rules.version, "; ".join(_told(one) for one in fitting))


def _is_within(rule: Tolerance, difference: Difference, risk: Decimal, age: timedelta) -> bool:
    if rule.amount is not None and risk > rule.amount:
        return False
    if rule.percent is not None and (
        difference.base_amount is None or risk * 100 > rule.percent * difference.base_amount
    ):
        return False
    return rule.days is None or age <= timedelta(days=float(rule.days))


def _told(rule: Tolerance) -> str:
    limits = [
        f"{shown(rule.amount, rule.currency)} {rule.currency}"
        if rule.amount is not None and rule.currency
        else "",
        f"{rule.percent:f}%" if rule.percent is not None else "",
        f"{rule.days:f} days" if rule.days is not None else "",
    ]
    return f"{rule.id} ({', '.join(filter(None, limits))})"
