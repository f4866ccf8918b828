from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.domain.money import BadAmount, parse_amount, shown


@pytest.mark.fact("P5", "P6")
@pytest.mark.parametrize("text", ["0", "50", "50.00", "10.99", "12.345", "1000000000000000", "000.5"])
def test_decimal_text_is_read_exactly(text: str) -> None:
    assert parse_amount(text) == Decimal(text)


@pytest.mark.fact("P5")
@pytest.mark.parametrize("text", ["", " ", "1e3", "NaN", "-1", "+1", "1.2345", ".", "1.", "٣", "1\n", "0x1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadAmount):
        parse_amount(text)


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [("10.9", "USD", "10.90"), ("4800", "JPY", "4800"), ("12.345", "KWD", "12.345"), ("0", "USD", "0.00")],
)
def test_an_amount_is_shown_with_the_digits_of_its_currency(amount: str, currency: str, text: str) -> None:
    assert shown(Decimal(amount), currency) == text


def test_an_amount_finer_than_its_currency_is_shown_whole() -> None:
    assert shown(Decimal("10.999"), "USD") == "10.999"
    assert shown(Decimal("0.5"), "JPY") == "0.5"


@given(st.decimals(min_value=0, max_value=10**15, places=3))
def test_what_is_shown_is_never_rounded(amount: Decimal) -> None:
    for currency in ("USD", "JPY", "KWD"):
        assert Decimal(shown(amount, currency)) == amount
