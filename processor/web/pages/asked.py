"""What a form in an address asks for: read leniently, with words beside each field that cannot be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

from flask import request

from processor.store.screens.instances import Choice
from processor.web.pages.access import check_instance
from processor.web.pages.formats import Clock

SHOWN_MAX = 200  # letters of a field that are shown again


class Asked:
    """values: by field, as it was given, shortened. wrong: by field, what is wrong with it.

    given: the fields; those of the address without.
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._fields = request.args if given is None else given
        self.values: dict[str, str] = {}
        self.wrong: dict[str, str] = {}

    def _given(self, name: str) -> str:
        text = self._fields.get(name, "").strip()
        self.values[name] = text[:SHOWN_MAX]
        return text

    def text(self, name: str) -> str | None:
        """Free text, None for nothing or what cannot be looked for."""
        text = self._given(name)
        if len(text) > SHOWN_MAX or "\0" in text:
            self.wrong[name] = f"At most {SHOWN_MAX} letters."
            return None
        return text or None

    def one_of(self, name: str, options: Collection[str]) -> str | None:
        """One of these, None for nothing or for another."""
        text = self._given(name)
        if text and text not in options:
            self.wrong[name] = "There is no such choice."
            return None
        return text or None

    def id(self, name: str) -> UUID | None:
        """A whole id, None for nothing or for what is none."""
        text = self._given(name)
        try:
            return UUID(text) if text else None
        except ValueError:
            self.wrong[name] = "Not an id: it has 32 letters and digits."
            return None

    def day(self, name: str) -> date | None:
        """A day, None for nothing or for what is none."""
        text = self._given(name)
        try:
            day = date.fromisoformat(text) if text else None
        except ValueError:
            day = date.min
        if day is not None and not 1990 <= day.year < 9000:
            self.wrong[name] = "Not a day: write it as 2026-11-28."
            return None
        return day

    def span(self, clock: Clock) -> tuple[datetime | None, datetime | None]:
        """From the beginning of the day `since` to the end of the day `until`."""
        since, until = self.day("since"), self.day("until")
        if since is not None and until is not None and since > until:
            self.wrong["until"] = "It lies before the first day."
            until = None
        return (
            None if since is None else clock.midnight(since),
            None if until is None else clock.midnight(until + timedelta(days=1)),
        )

    def instance(self, choices: Sequence[Choice]) -> UUID | None:
        """The instance asked for, else the first of `choices`; None without any. Answers 404 beyond the reach."""
        asked = self.id("instance")
        if asked is not None:
            return check_instance(asked)
        return choices[0].instance_id if choices else None
