"""What the rules tolerate, and what rules can be read."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from processor.domain.discrepancy import Difference, DiscrepancyType
from processor.domain.rules import BUILT_IN, Rules, decode, parse, stored, tolerate
from processor.errors import NotAllowed
from tests.builders import LINK, NOW, PAYMENT


def rules(*tolerances: dict[str, Any]) -> Rules:
    numbered = [{"id": f"r{number}", "type": "amount_differs"} | one for number, one in enumerate(tolerances)]
    return Rules(7, parse({"tolerances": numbered}))


def difference(risk: str | None = "0.05", base: str | None = "10", currency: str = "EUR") -> Difference:
    return Difference(
        type=DiscrepancyType.AMOUNT_DIFFERS,
        payment_link_id=LINK,
        payment_id=PAYMENT,
        amount_at_risk=Decimal(risk) if risk else None,
        currency=currency,
        base_amount=Decimal(base) if base else None,
    )


def is_tolerated(one: Difference, by: Rules, *, days: float = 0) -> bool:
    return tolerate(one, by, opened_at=NOW - timedelta(days=days), now=NOW) is not None


CENTS = {"amount": "0.05", "currency": "EUR"}


def test_without_rules_nothing_is_tolerated() -> None:
    assert not is_tolerated(difference("0"), BUILT_IN)
    assert not is_tolerated(difference("0"), rules())


@pytest.mark.parametrize(("risk", "expected"), [("0.05", True), ("0.051", False), ("0", True), (None, False)])
def test_an_amount_is_tolerated_up_to_its_limit(risk: str | None, expected: bool) -> None:
    assert is_tolerated(difference(risk), rules(CENTS)) is expected


@pytest.mark.parametrize(("risk", "expected"), [("0.05", True), ("0.051", False)])
def test_a_percentage_is_of_what_is_booked(risk: str, expected: bool) -> None:
    assert is_tolerated(difference(risk, base="10"), rules({"percent": "0.5"})) is expected
    assert not is_tolerated(difference(risk, base=None), rules({"percent": "0.5"}))


def test_an_age_ends_the_tolerance() -> None:
    three_days = rules(CENTS | {"days": 3})

    assert is_tolerated(difference(), three_days, days=3)
    assert not is_tolerated(difference(), three_days, days=3.001)


def test_the_strictest_of_all_that_fit_wins() -> None:
    assert not is_tolerated(difference("0.04"), rules(CENTS, {"percent": "0.1"}))
    assert not is_tolerated(difference("0.04"), rules(CENTS, {"amount": "0.03", "currency": "EUR"}))
    assert is_tolerated(difference("0.04"), rules(CENTS, {"amount": "0.03", "currency": "USD"}))


def test_a_rule_is_of_its_currency_and_type() -> None:
    assert not is_tolerated(difference(currency="USD"), rules(CENTS))
    assert not is_tolerated(difference(), rules(CENTS | {"type": "total_differs"}))


def test_what_tolerates_is_told_with_its_version_and_limits() -> None:
    by = rules(CENTS | {"days": 3}, {"percent": "50"})

    told = tolerate(difference(), by, opened_at=NOW, now=NOW)

    assert told is not None
    assert (told.version, told.rules) == (7, "r0 (0.05 EUR, 3 days); r1 (50%)")


UNREADABLE: tuple[tuple[Any, str], ...] = (
    ([], "object"),
    ({"tolerance": []}, "unknown field"),
    ({"tolerances": [{"id": "a", "type": "amount_differs"}]}, "give an amount, percent, or both"),
    ({"tolerances": [{"id": "a", "type": "amount_differs", "amount": "1"}]}, "needs a currency"),
    ({"tolerances": [{"id": "a", "type": "link_missing", "percent": "1"}]}, "no size"),
    ({"tolerances": [{"id": "a", "type": "nonsense", "percent": "1"}]}, "nonsense"),
    ({"tolerances": [{"id": "a b", "type": "amount_differs", "percent": "1"}]}, "regex"),
    ({"tolerances": [{"id": "a", "type": "amount_differs", "percent": "101"}]}, "0 to 100"),
    ({"tolerances": [{"id": "a", "type": "amount_differs", "percent": "NaN"}]}, "0 to 100"),
    ({"tolerances": [{"id": "a", "type": "amount_differs", "percent": "0.0001"}]}, "three decimals"),
    (
        {"tolerances": [{"id": "a", "type": "amount_differs", "percent": "1", "days": "0E-999999999"}]},
        "three decimals",
    ),
    ({"tolerances": [{"id": "a", "type": "amount_differs", "percent": "1", "days": -1}]}, "days are"),
    ({"tolerances": [{"id": "a", "type": "amount_differs", "percent": "1"}] * 2}, "one id: a"),
    (
        {"tolerances": [{"id": "a", "type": "amount_differs", "currency": "XXX", "percent": "1"}]},
        "XXX is no ISO",
    ),
    ({"write_off_limits": {"EURO": "1"}}, "EURO is no ISO"),
    ({"write_off_limits": {"EUR": "-1"}}, "an amount is"),
    ({"write_off_limits": {"EUR": "Infinity"}}, "an amount is"),
    ({"write_off_limits": {"JPY": "0.5"}}, "JPY has 0 decimals"),
    ({"assumptions": {"split_counts_once": "perhaps"}}, "split_counts_once"),
)


@pytest.mark.parametrize(("document", "why"), UNREADABLE, ids=[one[1] for one in UNREADABLE])
def test_rules_that_cannot_be_meant_are_refused(document: Any, why: str) -> None:
    with pytest.raises(NotAllowed, match=why):
        parse(document)


def test_rules_are_the_same_after_they_were_kept() -> None:
    document = {
        "tolerances": [{"id": "a", "type": "total_differs", "currency": "JPY", "amount": "5", "days": "2"}],
        "write_off_limits": {"EUR": "100.00"},
        "assumptions": {"total_falls_on_refund": False},
    }
    read = parse(document)

    assert parse(msgspec.to_builtins(read)) == read


def test_rules_of_another_release_stop_no_check_and_allow_nothing() -> None:
    rules_of_tomorrow = stored(
        9, {"tolerances": [CENTS | {"id": "a", "type": "amount_differs"}], "moon": "full"}
    )

    assert (rules_of_tomorrow.version, rules_of_tomorrow.is_readable) == (9, False)
    assert not is_tolerated(difference("0.01"), rules_of_tomorrow)
    assert rules_of_tomorrow.rule_set.assumptions == BUILT_IN.rule_set.assumptions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"\\ud800": 1, "\\ud800": 2}', "given twice"),
        ('{"write_off_limits": {"\\ud800": "1"}}', "no text can have"),
        ("{" + ",".join(f'"{n}": 1' for n in range(28_000)) + "}", "letters"),
        ("[" * 10_000, "nested too deeply"),
    ],
)
def test_a_document_that_is_none_is_refused_in_words_that_can_be_shown(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        decode(text)
    str(caught.value).encode()


def test_an_amount_is_not_written_with_a_thousand_decimals() -> None:
    with pytest.raises(NotAllowed, match="power of ten"):
        parse({"write_off_limits": {"USD": "0E-99999999"}})
