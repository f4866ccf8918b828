"""Bars for a chart that the server draws: where they stand, and the steps of the axis beside them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

WIDTH, HEIGHT = 300, 100  # of the drawing, in units of its own
GAP = Decimal("0.3")  # of the place of a bar
_STEPS = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))
_UNITS = ((Decimal(10**12), "T"), (Decimal(10**9), "B"), (Decimal(10**6), "M"), (Decimal(10**3), "k"))


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, from its upper left corner. height: 0 for nothing, and for what is not known."""

    x: Decimal
    y: Decimal
    width: Decimal
    height: Decimal


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars from left to right, one for each value. top, middle: of the axis, whose bottom is 0."""

    bars: tuple[Bar, ...]
    top: Decimal
    middle: Decimal


def chart(values: Sequence[Decimal | None]) -> Chart:
    """Bars of values of 0 or more, None for one that is not known."""
    top = ceiling(max((value for value in values if value is not None), default=Decimal(0)))
    place = Decimal(WIDTH) / max(1, len(values))
    width = place * (1 - GAP)
    bars = []
    for number, value in enumerate(values):
        height = HEIGHT * (value or Decimal(0)) / top
        if value:
            height = max(height, Decimal(1))  # little is not nothing
        bars.append(
            Bar(
                _round(place * number + place * GAP / 2),
                _round(HEIGHT - height),
                _round(width),
                _round(height),
            )
        )
    return Chart(tuple(bars), top, top / 2)


def ceiling(value: Decimal) -> Decimal:
    """The least round number that is not below `value`; 1 for nothing."""
    if value <= 0:
        return Decimal(1)
    size = Decimal(1).scaleb(value.adjusted())
    return next(step * size for step in _STEPS if step * size >= value)


def brief(value: Decimal) -> str:
    """A number for an axis: "250", "7.5k", "1.2M"."""
    for size, unit in _UNITS:
        if value >= size * (10 if unit == "k" else 1):
            return f"{_plain(value / size)}{unit}"
    return _plain(value)


def _plain(value: Decimal) -> str:
    return f"{value.normalize():,f}"


def _round(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.01"))
