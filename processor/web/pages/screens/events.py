"""What Wix told us: every event with its deliveries, and the deliveries that became none."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, abort, render_template, request, url_for
from werkzeug.wrappers import Response

from processor import replay
from processor.domain.access import Permission
from processor.domain.payment import Verdict
from processor.errors import Unreadable
from processor.replay import Left, Replayed
from processor.store.screens import events as store
from processor.store.screens.events import EventLine, Narrowing
from processor.store.screens.instances import choices
from processor.store.screens.keyset import Slice
from processor.store.screens.sieve import Sifted
from processor.web.pages import paging
from processor.web.pages.access import account, needs, reach
from processor.web.pages.asked import Asked
from processor.web.pages.masking import masked, taken_apart
from processor.web.pages.site import Site, done, refused
from processor.wix.parse import parse_claims
from processor.wix.signature import decode_segment

DAYS_SHOWN = 30
_DIGEST = re.compile(r"[0-9a-f]{64}")
CUT_MAX = 10_000  # letters
UNDERSTOOD = "It is understood now, and its link will be checked."
REPLAYED: dict[Verdict | None, str] = {
    Verdict.NEW: "The payment was not booked yet, and is now.",
    Verdict.NEWER: "The payment was moved forward to the revision that the event tells of.",
}
LEFT = {
    Left.ERASED: "Nothing was changed: the body of the event was erased with the buyer's data.",
    Left.ARCHIVED: "Nothing was changed: the body of the event was archived with its month. Restore that first.",
    Left.UNREADABLE: "Nothing was changed: it still cannot be read.",
    Left.HELD: "Nothing was changed: it is held until Wix vouches for its app instance.",
    Left.NO_PAYMENT: "Nothing was changed: it is about no payment.",
    Left.NOT_NEWS: "Nothing was changed: what it tells is booked already, or newer than it.",
}


def blueprint(site: Site) -> Blueprint:
    """`/events`, `/events/<instance>/<event>`, `/events/rejected` and `/events/unread`."""
    routes = Blueprint("events", __name__, url_prefix="/events")
    services = site.services

    @routes.get("")
    @needs(Permission.READ)
    def index() -> str:
        asked, at = Asked(), paging.position(*store.KEY_TYPES)
        with site.read() as connection:
            owners = choices(connection, reach())
            owner = asked.instance(owners)
            since, until = asked.span(site.clock)
            by = Narrowing(
                kind=asked.one_of("kind", store.KINDS),
                status=asked.one_of("status", store.STATUSES),
                type=asked.text("type"),
                entity_id=asked.id("entity"),
                payment_link_id=asked.id("link"),
                since=since,
                until=until,
                is_conflicting=asked.one_of("bodies", ("several",)) is not None,
            )
            found: Sifted[EventLine] = Sifted(Slice([], None, None), None)
            if owner is not None:
                found = store.events(connection, reach(), owner, by, at=at)
        return render_template(
            "events.html",
            asked=asked,
            owners=owners,
            owner=owner,
            found=found,
            pages=paging.around(found.page),
            sees_every=sees_every(),
        )

    @routes.get("/<uuid:instance_id>/<uuid:event_id>")
    @needs(Permission.READ)
    def event(instance_id: UUID, event_id: UUID) -> str:
        return _event(instance_id, event_id, is_open=False)

    @routes.post("/<uuid:instance_id>/<uuid:event_id>/personal")
    @needs(Permission.READ)
    def personal(instance_id: UUID, event_id: UUID) -> str:
        """As a POST: it is written down, and no address that is passed on shows it."""
        if not account().sees_personal:
            abort(403)
        return _event(instance_id, event_id, is_open=True)

    def _event(instance_id: UUID, event_id: UUID, *, is_open: bool) -> str:
        with site.read() as connection:
            found = store.event(connection, instance_id, event_id)
            if found is None:
                abort(404)
            token = store.token(connection, found)
            others = store.conflicts(connection, instance_id, event_id) if found.conflict_count else []
        return render_template(
            "event.html",
            event=found,
            token=token if is_open else None,
            body=_body(token, is_open=is_open),
            others=[(one, _body(one.token, is_open=is_open)) for one in others],
            is_open=is_open,
        )

    @routes.post("/<uuid:instance_id>/<uuid:event_id>/replay")
    @needs(Permission.OPERATE)
    def again(instance_id: UUID, event_id: UUID) -> Response:
        where = url_for("events.event", instance_id=instance_id, event_id=event_id)
        lines = replay.one(services, event_id, instance_id)
        if not lines:
            abort(404)
        told = replay.replay_one(services, lines[0], is_dry=False)
        if told.left is not None:
            return refused(where, f"{LEFT[told.left]}{_detail(told)}")
        services.queue.wake_up()
        return done(where, REPLAYED.get(told.verdict, UNDERSTOOD))

    @routes.get("/rejected")
    @needs(Permission.READ)
    def rejected() -> str:
        _only_who_sees_every_instance()
        since = (services.now() - timedelta(days=DAYS_SHOWN - 1)).date()
        with site.read() as connection:
            lines = store.rejected(connection)
            days = store.rejections_by_day(connection, since)
        return render_template("rejected.html", lines=lines, days=days, days_shown=DAYS_SHOWN)

    @routes.get("/unread")
    @needs(Permission.READ)
    def unread() -> str:
        _only_who_sees_every_instance()
        with site.read() as connection:
            lines = store.unread(connection)
        return render_template(
            "unread.html",
            lines=[(one, _cut(_body(one.token, is_open=False))) for one in lines],
            is_full=len(lines) == store.UNREAD_MAX,
        )

    @routes.post("/unread/again")
    @needs(Permission.OPERATE, keeps=("digest",))
    def read_again() -> Response:
        """Read one of them again, or, without a digest, the oldest UNREAD_MAX."""
        _only_who_sees_every_instance()
        where, given = url_for("events.unread"), request.form.get("digest", "")
        if given and not _DIGEST.fullmatch(given):
            return refused(where, "There is no such delivery.")
        digests = [bytes.fromhex(given)] if given else replay.unread(services, store.UNREAD_MAX)
        told = [replay.read_again(services, one) for one in digests]
        read = [one for one in told if one is not None and one.left is None]
        left = [one for one in told if one is not None and one.left is not None]
        if read:
            services.queue.wake_up()
        if len(read) == 1 and not left:
            [one] = read
            where = url_for("events.event", instance_id=one.instance_id, event_id=one.event_id)
            return done(where, "The delivery is read: it is this event now.")
        if not read and not left:
            return refused(
                where, "Nothing was read: there is no such delivery any more, as if it was read before."
            )
        words = f"{len(read)} of {len(read) + len(left)} could be read, and became events."
        if not left:
            return done(where, words)
        reasons = ", ".join(sorted({str(one.left).replace("_", " ") for one in left}))
        return refused(where, f"{words} The others are left as they are: {reasons}.")

    return routes


def sees_every() -> bool:
    """Whether who is signed in sees every instance, and so what is of none."""
    return reach().instance_ids is None


def _only_who_sees_every_instance() -> None:
    if not sees_every():
        abort(404)


def _detail(told: Replayed) -> str:
    return f" ({told.detail.replace('_', ' ')})" if told.left is Left.UNREADABLE and told.detail else ""


def _cut(body: str | None) -> str | None:
    """The beginning of a body, since many stand on one page."""
    return body if body is None or len(body) <= CUT_MAX else f"{body[:CUT_MAX]}\n…"


def _body(token: str | None, *, is_open: bool) -> str | None:
    """What a token says, as lines of JSON: None without one. is_open: with what is personal."""
    if token is None:
        return None
    parts = token.split(".")
    try:
        claims: Any = parse_claims(decode_segment(parts[1].encode()))
    except (Unreadable, ValueError, IndexError):
        return "It is no readable JSON."
    return json.dumps(taken_apart(claims) if is_open else masked(claims), indent=2, ensure_ascii=False)
