"""What every page needs: who may post, refusals in words, and what templates print with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, redirect, request, url_for
from markupsafe import Markup, escape
from werkzeug.wrappers import Response

from processor.sandbox.errors import Refused, Violation, invalid, plain

SHOWN_MAX = 25  # rows of a page
SITES_MAX = 100  # sites offered to choose from, the newest
_SHORT = 8  # of a GUID, for the eye
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")

Answer = str | Response | tuple[str, int]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was not done. at: the place of the form that asked for it."""

    at: str
    words: str


def is_from_here(site: str | None, origin: str | None, own_url: str) -> bool:
    """Whether a form was sent from one of our own pages, or by a program, which names no origin.

    site, origin: the headers `Sec-Fetch-Site`, which browsers leave out over plain HTTP to other machines, and
    `Origin`. No page can make a browser lie in them.
    """
    if site is not None:
        return site in ("same-origin", "none")
    if origin is None:
        return True
    try:
        ours, theirs = urlsplit(own_url), urlsplit(origin)
    except ValueError:  # no address at all
        return False
    return (theirs.scheme, theirs.netloc) == (ours.scheme, ours.netloc)


def words_of(why: Refused) -> str:
    """A refusal as a sentence: of each violation the field's own name, without the path to it."""
    details = why.body.get("details", {})
    lines = details.get("validationError", {}).get("fieldViolations", [])
    if not lines:
        return _sentence(str(why.body.get("message", "")) or "That is not possible.")
    return " ".join(_sentence(f"{label_of(one['field'])} {one['description']}") for one in lines)


def label_of(path: str) -> str:
    """A field's name for people: `paymentLink.paymentsLimit` is "payments limit"."""
    name = path.rpartition(".")[2].partition("[")[0] or "it"
    return _CAMEL.sub(" ", name).lower()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def act(
    actions: Mapping[str, Callable[[], Response]],
    show: Callable[[Refusal], str],
    *,
    places: Collection[str] | None = None,
) -> Answer:
    """Do what the form's button says; when it is refused, show the page with the words beside that form.

    places: where the page can show a refusal, None for beside the button of each action. Of forms with the same
    button, each says its place in `at`. Raises Refused where there is no such place: then it is a page of its own.
    """
    asked = request.form.get("do", "")
    if asked not in actions:
        raise plain(400, "the form asks for something unknown")
    try:
        return actions[asked]()
    except Refused as why:
        place = request.form.get("at", asked)
        if place not in (actions if places is None else places):
            raise
        return show(Refusal(place, words_of(why))), why.status


def done(endpoint: str, note: str, **place: Any) -> Response:
    """Back to a page, which tells by `note` what was done. A reload does nothing twice."""
    return redirect(url_for(f"pages.{endpoint}", done=note, **place), 303)


def as_whole(text: str, field: str) -> int | None:
    """A whole number from a form, None when the field was left empty. Raises Refused (400)."""
    if not text.strip():
        return None
    if not _WHOLE.fullmatch(text.strip()):
        raise invalid(Violation(field, "must be a whole number"))
    return int(text)


def as_moment(text: str, field: str) -> str | None:
    """A date and time from a form as ISO text, of UTC unless it says otherwise, None when left empty.

    Raises Refused (400).
    """
    if not text.strip():
        return None
    try:
        told = datetime.fromisoformat(text.strip())
    except ValueError:
        raise invalid(Violation(field, "must be a date and a time")) from None
    return (told if told.tzinfo is not None else told.replace(tzinfo=UTC)).isoformat()


# -- What templates print with ---------------------------------------------------------------------


def teach_templates(routes: Blueprint) -> None:
    """Filters and functions that every template of ours may use."""
    for filter_ in (short, moment, wait, status, label_of, pretty, in_code, ending, breakable):
        routes.add_app_template_filter(filter_, filter_.__name__)
    routes.add_app_template_global(entered, "entered")


def entered(refusal: Refusal | None, form: str, name: str, usual: Any = "") -> Any:
    """What a field shows: what was typed when its form was refused, else the usual."""
    return request.form.get(name, "") if refusal is not None and refusal.at == form else usual


def short(id_: str | None) -> str:
    """The beginning of an id: enough to tell it from those beside it."""
    return (id_ or "")[:_SHORT]


def moment(text: str) -> str:
    """An ISO moment as date and time of UTC."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def wait(seconds: float) -> str:
    """A duration in the two units that matter."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def later(now: datetime, seconds: float) -> str:
    """The moment that many seconds from now, as ISO text."""
    return (now + timedelta(seconds=seconds)).isoformat()


def status(text: str) -> str:
    """A status in words: `given_up` and `GIVEN_UP` are "Given up"."""
    return text.replace("_", " ").capitalize()


def ending(event_type: str) -> str:
    """The last part of an event type."""
    return event_type.rpartition(".")[2]


def pretty(value: Any) -> str:
    """JSON for reading."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def in_code(text: str) -> Markup:
    """Words, with what stands in backticks as code."""
    parts = (
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(text.split("`"))
    )
    return Markup("").join(parts)


def breakable(name: str) -> Markup:
    """A name of a machine that may be broken where a new word begins."""
    return Markup("_<wbr>").join(name.split("_"))
