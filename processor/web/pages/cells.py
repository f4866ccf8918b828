"""Cells of reports as HTML. In Python: a template takes ten times as long for the thousands of cells of a page.

What is not made here passes `escape`; functions that return `str` return HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from markupsafe import Markup, escape

from processor.web.pages.formats import Clock, amount, number, seen, short, words

NONE = "–"
_UNSAID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Printer:
    """Prints values by their kinds: id, money, number, flag, moment, day, code, json or text."""

    clock: Clock

    def cell(self, kind: str, value: Any, currency: str | None) -> Markup:
        """One value; a dash for None. currency: of money."""
        return Markup(self._cell(kind, value, currency, None, ""))  # noqa: S704 (every part is escaped)

    def body(
        self,
        columns: Sequence[tuple[str, bool, Callable[[UUID, Any], str] | None]],
        rows: Sequence[Sequence[Any]],
        *,
        owner: int,
        currency: int | None,
        names: Mapping[tuple[int, int], str],
        notes: Mapping[tuple[int, int], str],
    ) -> Markup:
        """The rows of a table. columns: kind, whether it stands at the right, and where its values lead.

        owner, currency: the places of the app instance and the currency of each row. names, notes: by row and column,
        what an id is called, without what looks personal, and what stands behind a value.
        """
        parts: list[str] = []
        opened = ['<td class="number">' if is_right else "<td>" for _, is_right, _ in columns]
        for line, row in enumerate(rows):
            own, unit = row[owner], None if currency is None else row[currency]
            parts.append("<tr>")
            for place, (kind, _, leads) in enumerate(columns):
                value = row[place]
                lead = leads(own, value) if leads and own is not None and value is not None else None
                note = notes.get((line, place))
                parts += (
                    opened[place],
                    self._cell(kind, value, unit, lead, names.get((line, place), "")),
                    f", {escape(note)}</td>" if note else "</td>",
                )
            parts.append("</tr>\n")
        return Markup("".join(parts))  # noqa: S704 (every part is escaped)

    def _cell(self, kind: str, value: Any, currency: str | None, lead: str | None, called: str) -> str:
        """lead: where it leads; called: shown instead of an id."""
        if value is None:
            return NONE
        match kind:
            case "id" if called:
                return _id("called", lead, value, f"<bdi>{escape(seen(called))}</bdi>")
            case "id":
                return _id("id", lead, value, escape(short(value)))
            case "money":
                return escape(amount(value, currency))
            case "number":
                return number(value)
            case "flag":
                return "Yes" if value else "No"
            case "moment":
                return self.clock.moment(value)
            case "day":
                return self.clock.day(value)
            case "code":
                return escape(seen(words(value)))
            case "json":
                return ", ".join(
                    f"{escape(words(name))}: <bdi>{escape(seen(one))}</bdi>"
                    for name, one in sorted(value.items())
                    if one is not None
                )
        return f"<bdi>{escape(seen(value))}</bdi>"


def _id(kind: str, lead: str | None, value: Any, inner: str) -> str:
    if lead:
        return f'<a class="{kind}" href="{escape(lead)}" title="{escape(value)}">{inner}</a>'
    return f'<span class="{kind}" title="{escape(value)}">{inner}</span>'


def address_of(url_of: Callable[..., str], endpoint: str, name: str) -> Callable[[UUID, Any], str]:
    """The addresses of many things of one page, by instance and id. url_of: as Flask's `url_for`; name: of the id."""
    pattern = url_of(endpoint, instance_id=_UNSAID, **{name: _UNSAID})
    before, between, after = pattern.split(str(_UNSAID))
    return lambda instance_id, value: f"{before}{instance_id}{between}{value}{after}"
