"""Exact money: decimals with at most three places, and the currency beside them."""

from __future__ import annotations

import re
from decimal import Decimal

# Wix: "0 to 1 000 000 000 000 000, at most 3 decimals" (Payment Link Payment object). NUMERIC(19, 3) holds it.
AMOUNT_MAX = Decimal(1_000_000_000_000_000)
DECIMALS_MAX = 3
_AMOUNT = re.compile(r"([0-9]{1,16})(?:\.([0-9]+))?", re.ASCII)

# ISO 4217 alphabetic codes in use, with the digits of their minor unit when that is not 2.
# Source: ISO 4217 list one (maintained by SIX), read 2026-11, without the codes that name no money.
_TWO = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE "
    "CHF CHW CNY COP COU CRC CUC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD "
    "HNL HRK HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP "
    "MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR "
    "SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED "
    "VES WST XAD XCD XCG YER ZAR ZMW ZWG ZWL"
)
_ZERO = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"
# CLF (4) and UYW (4) are units of account; Wix's three decimals could not carry them.
MINOR_DIGITS: dict[str, int] = (
    dict.fromkeys(_TWO.split(), 2) | dict.fromkeys(_ZERO.split(), 0) | dict.fromkeys(_THREE.split(), 3)
)
"""Currency code -> digits after the point."""


class BadAmount(ValueError):
    """Not an amount Wix can have meant; the message says why in a stable code."""


def parse_amount(text: str) -> Decimal:
    """The decimal a Wix amount string means, in main units. Raises BadAmount.

    Accepts "50", "50.00" and "10.990"; the value must be within 0 and 10^15 and have at most three
    decimals, trailing zeros not counted.
    """
    if text.startswith("-"):
        raise BadAmount("amount_negative")
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise BadAmount("amount_not_decimal")
    if len((found[2] or "").rstrip("0")) > DECIMALS_MAX:
        raise BadAmount("amount_too_fine")
    amount = Decimal(text)
    if amount > AMOUNT_MAX:
        raise BadAmount("amount_too_large")
    return amount.quantize(Decimal("0.001"))


def shown(amount: Decimal, currency: str) -> str:
    """`amount` with the decimals of its currency ("12.50", "1200", "3.250"), more if it has more."""
    digits = MINOR_DIGITS.get(currency, 2)
    exact = amount.normalize()
    places = max(digits, -int(exact.as_tuple().exponent))
    return f"{amount:.{places}f}"
