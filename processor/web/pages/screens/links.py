"""Payment links as Wix has them, what is booked of them, and what can be done with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any
from uuid import UUID, uuid4

from flask import Blueprint, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from processor import flows, prepared
from processor.domain.access import Permission
from processor.domain.link import Link
from processor.errors import ConfigurationError, Unreadable, WixError, WixRefused
from processor.prepared import LinkSums, LinkSumsQuestion, TakesTooLong
from processor.store import instances, sends
from processor.store.screens import decided, links, refunded
from processor.store.screens.instances import Choice, choices
from processor.store.screens.links import Booked
from processor.web.pages import answers, link_forms, link_view, masking, paging, pickers
from processor.web.pages.access import account, needs, reach
from processor.web.pages.answers import Pending, Unanswered
from processor.web.pages.asked import Asked
from processor.web.pages.catalog import ProductNames
from processor.web.pages.link_view import Compared
from processor.web.pages.pickers import NAMES_MAX, Found, name_of
from processor.web.pages.screens import creating
from processor.web.pages.site import CROWDED, Busy, Site, done, is_part, refused, told
from processor.wix import wire
from processor.wix.client import UnreadableItem
from processor.wix.parse import guid, seen_link

STATUSES = ("ACTIVE", "INACTIVE", "PAID", "EXPIRED")
PAGE = 50
WORDS_MAX = 100  # Wix's own limit of a search
# Wix's place in a list travels in the address; servers and proxies cut those that are longer.
CURSOR_MAX = 6_000
NOTE_MAX = 500
SENDS_MAX = 20
SENT_NAMED = 5  # contacts of a sending that are shown
ONCE = "1 per 1 hour"
SUMS_AT_ONCE = 2  # of a process, of all payments of a link

_FORM = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Line:
    """A link of the list. link: None when Wix describes it in a way we cannot read, as `unreadable` says.

    accepted: how the difference of its totals was: written_off or tolerated, None when it was not.
    """

    id_text: str
    link: Link | None
    unreadable: str | None = None
    compared: Compared | None = None
    booked: Booked = links.NOTHING
    discrepancies: int = 0
    accepted: str | None = None


@dataclass(frozen=True, slots=True)
class Detail:
    """One link. told: Wix's word, just now or at stored.seen_at. why: the reason why it is not of just now."""

    link: Link
    rest: Mapping[str, Any]
    note: str | None
    why: str | None
    seen_at: Any


def blueprint(site: Site) -> Blueprint:
    """`/links` and what is below."""
    routes = Blueprint("links", __name__)
    services = site.services
    summing = BoundedSemaphore(SUMS_AT_ONCE)
    products = ProductNames(site)

    # -- The list ----------------------------------------------------------------------------------

    @routes.get("/links")
    @needs(Permission.READ)
    def index() -> str | Response:
        asked = Asked()
        with site.read() as connection:
            owners = choices(connection, reach())
        own = services.settings.instance_id
        if not owners and own is not None and reach().holds(own):
            owners = [Choice(own, "installed")]  # nothing came from it yet
        instance_id = asked.instance(owners)
        status, words = asked.one_of("status", STATUSES), _words(asked)
        view: dict[str, Any] = {"owners": owners, "owner": instance_id, "asked": asked}
        if instance_id is None:
            return render_template("links.html", lines=[], pages=None, **view)
        cursor = request.args.get("at") or None

        def held(why: str) -> str:
            """What we hold of links, and why Wix is not asked."""
            with site.read() as connection:
                stored = links.newest_stored(connection, instance_id, status=status, words=words)
                lines = _with_books(connection, instance_id, [_line(one.link) for one in stored])
            return render_template(
                "links.html",
                lines=lines,
                pages=None,
                why=why,
                seen_at=min((one.seen_at for one in stored), default=None),
                **view,
            )

        if not site.may_display(instance_id):
            return held(CROWDED)
        try:
            page = services.wix.links_page(
                instance_id,
                expression=words,
                filter={"status": status} if status else {},
                sort=[("createdDate", "DESC")],
                cursor=cursor,
                page_size=PAGE,
            )
        except (WixError, ConfigurationError) as why:
            if cursor and isinstance(why, WixRefused) and why.status == 400:
                told("Wix no longer knows that page of the list: this is the first.", is_bad=True)
                return redirect(_without_place(), 303)
            return held(link_view.not_asked(why))
        with site.read() as connection:
            lines = _with_books(connection, instance_id, [_read(one, instance_id) for one in page.items])
        before, after = (
            place if place and len(place) <= CURSOR_MAX else None for place in (page.before, page.after)
        )
        first = _without_place() if cursor else None
        pages = paging.Pages(
            before=paging.here(at=before) if cursor and before else first,
            after=paging.here(at=after) if after else None,
        )
        is_cut = bool(page.after) and after is None
        return render_template("links.html", lines=lines, pages=pages, is_cut=is_cut, **view)

    # -- One link ----------------------------------------------------------------------------------

    def shown(
        instance_id: UUID,
        link_id: UUID,
        *,
        status: int = 200,
        wrong: Mapping[str, str] | None = None,
        given: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
        told: tuple[Detail | None, str | None] | None = None,
        personal: bool = False,
        found: Found | None = None,
        who: Mapping[str, str] | None = None,
    ) -> tuple[str, int]:
        """The page of a link. told: what `_ask` said, where it was asked; personal: the note is shown whole.

        found: contacts to be chosen from; who: names of those that were chosen.
        """
        sums, why_not = _added_up(instance_id, link_id) if request.args.get("totals") == "all" else (None, "")
        # A page that looks for sums again asked Wix when it was opened.
        live, why = told or ((None, _NOT_NOW) if is_part() and sums else _ask(instance_id, link_id))
        with site.read() as connection:
            stored = links.stored(connection, instance_id, link_id)
            if isinstance(sums, LinkSums):
                booked, given_back = sums.booked, sums.given_back
            else:
                most = links.BOOKED_MAX_OF_ONE
                booked = links.booked(connection, instance_id, [link_id], limit=most).get(
                    link_id, links.NOTHING
                )
                given_back = links.given_back(connection, instance_id, link_id, limit=most)
            differences = decided.of_link(connection, instance_id, link_id)
            recent = links.recent_payments(connection, instance_id, link_id)
            refunds = refunded.of_payments(
                connection, [(instance_id, one.payment_id, one.amount, one.currency) for one in recent]
            )
            sent = sends.of_link(connection, instance_id, link_id, SENDS_MAX + 1)
            leads = services.settings.pay_page and links.instance_of_link(connection, link_id) == instance_id
            is_held = live is None and instances.status(connection, instance_id) == "unconfirmed"
        is_described = live is not None or stored is not None
        # Wix's word of now counts; while it cannot be asked, what it said before.
        is_gone = live is None and (why is None or (stored is not None and stored.missing_since is not None))
        if live is None and stored is None and not booked.sums and not differences and why is None:
            abort(404)
        if live is None and stored is not None:
            live = Detail(stored.link, stored.rest, None, why or _GONE, stored.seen_at)
        elif live is None:
            # Nothing but what is booked of it: Wix never described it to us, or cannot be asked.
            live = Detail(
                Link(instance_id=instance_id, payment_link_id=link_id), {}, None, why or _GONE, None
            )
            is_known = booked.sums or differences or is_held
            status = 503 if why is not None and status == 200 and not is_known else status
        items = link_view.items(live.rest)
        # Wix is not asked for names either where it could not be asked about the link.
        names_of_products = products.of(
            instance_id,
            [one.product_id for one in items if one.product_id is not None],
            asks=live.why is None and not is_part(),
        )
        share = link_view.web_address(live.link.share_url)
        masked_note = masking.masked_text(live.note or "")
        return render_template(
            "link.html",
            detail=live,
            link=live.link,
            instance_id=instance_id,
            link_id=link_id,
            booked=booked,
            added_max=links.BOOKED_MAX_OF_ONE,
            pending=sums if isinstance(sums, Pending) else None,
            as_of=sums.as_of if isinstance(sums, LinkSums) else None,
            why_not=why_not,
            here=paging.here,
            compared=link_view.compare(live.link, booked),
            discrepancies=differences,
            of_totals=[each for each in differences if each.one.type in decided.OF_TOTALS],
            recent=recent,
            given_back=given_back,
            refunds=refunds,
            sent=sent[:SENDS_MAX],
            is_more_sent=len(sent) > SENDS_MAX,
            items=items,
            products=names_of_products,
            contact_ids=link_view.contact_ids(live.rest),
            names=names,
            masked_note=masked_note,
            is_note_whole=personal or masked_note == (live.note or ""),
            share=share,
            qr=link_view.qr_code(share) if share else None,
            pay_url=url_for("pay.show", payment_link_id=link_id, _external=True)
            if leads and not is_gone
            else None,
            is_described=is_described,
            is_gone=is_gone,
            is_held=is_held,
            # Nothing can be done with what Wix does not know, or never described to us.
            can_act=is_described and not is_gone and account().may(Permission.LINKS),
            channels=link_forms.CHANNELS,
            once=uuid4(),
            wrong=wrong or {},
            given=given or {},
            found=found,
            who=who or {},
        ), status

    def _added_up(instance_id: UUID, link_id: UUID) -> tuple[LinkSums | Pending | None, str]:
        """All payments of the link, or None and why not."""
        question = LinkSumsQuestion.of(instance_id, link_id)
        try:
            return answers.answer(
                site,
                question,
                summing,
                read=lambda seconds: prepared.read_link_sums(
                    services.database,
                    services.settings.report_time_zone,
                    question,
                    seconds=seconds,
                    now=services.now(),
                ),
                unpacked=prepared.unpacked_link_sums,
                is_quick=False,  # it has more payments than the page has time for
            ), ""
        except (TakesTooLong, Unanswered):
            return None, "So many could not be added up: try again in half a minute."
        except Busy:
            return None, "The service adds up for others right now: try again in a minute."

    def _ask(instance_id: UUID, link_id: UUID) -> tuple[Detail | None, str | None]:
        """The link as Wix describes it now, or None and why not; None for the reason when Wix does not know it."""
        if not site.may_display(instance_id):
            return None, CROWDED
        try:
            answer = services.wix.get_link(instance_id, link_id, is_repeatable=False)
        except (WixError, ConfigurationError) as why:
            if isinstance(why, WixError) and link_view.is_link_missing(why):
                return None, None
            return None, link_view.not_asked(why)
        flows.keep(services, instance_id, answer)
        if isinstance(answer, UnreadableItem):
            return None, f"Wix describes this link in a way we cannot read: {answer.detail}."
        try:
            seen = seen_link(answer, instance_id)
        except Unreadable as why:
            return None, f"Wix describes this link in a way we cannot read: {why}."
        note = answer.note.text if answer.note else None
        return Detail(seen.link, seen.rest, note, None, services.now()), None

    @routes.get("/links/<uuid:instance_id>/<uuid:payment_link_id>")
    @needs(Permission.READ)
    def link(instance_id: UUID, payment_link_id: UUID) -> tuple[str, int]:
        return shown(instance_id, payment_link_id)

    @routes.get("/links/<uuid:instance_id>/<uuid:payment_link_id>/recipients")
    @needs(Permission.READ, is_recorded=True)
    def recipients(instance_id: UUID, payment_link_id: UUID) -> tuple[str, int]:
        if not account().sees_personal:
            abort(403)
        told = _ask(instance_id, payment_link_id)
        live, why = told
        with site.read() as connection:
            sent = sends.of_link(connection, instance_id, payment_link_id, SENDS_MAX)
        ids = link_view.contact_ids(live.rest if live else {})
        ids = list(
            dict.fromkeys(ids + [one for each in sent for one in (each.contact_ids or [])[:SENT_NAMED]])
        )
        if len(ids) > NAMES_MAX:
            why = f"Only the first {NAMES_MAX} of {len(ids)} names are shown."
        names: dict[str, str] = {}
        try:
            for contact_id in ids[:NAMES_MAX]:
                if not site.may_display(instance_id):
                    why = CROWDED
                    break
                contact = services.wix.get_contact(instance_id, contact_id)
                names[contact_id] = name_of(contact)
        except (WixError, ConfigurationError) as error:
            why = link_view.not_asked(error)
        return shown(
            instance_id,
            payment_link_id,
            names=names,
            wrong={"names": why} if why is not None else None,
            told=told,
        )

    @routes.post("/links/<uuid:instance_id>/<uuid:payment_link_id>/note/personal")
    @needs(Permission.READ)
    def personal(instance_id: UUID, payment_link_id: UUID) -> tuple[str, int]:
        if not account().sees_personal:
            abort(403)
        return shown(instance_id, payment_link_id, personal=True)

    # -- What is done with it ----------------------------------------------------------------------

    def where(instance_id: UUID, link_id: UUID) -> str:
        return url_for("links.link", instance_id=instance_id, payment_link_id=link_id)

    def is_again() -> bool:
        """Whether this very form was sent before: it is not done twice, whoever clicked how often."""
        once = guid(request.form.get("once"))
        return once is not None and not site.throttle.may(ONCE, "once", str(once))

    def demand_known(instance_id: UUID, link_id: UUID) -> None:
        """Answers 404 for a link that neither we nor Wix know of this instance. Raises WixError, ConfigurationError."""
        with site.read() as connection:
            if links.stored(connection, instance_id, link_id) is not None:
                return
        try:
            services.wix.get_link(instance_id, link_id)
        except WixError as why:
            if link_view.is_link_missing(why):
                abort(404)
            raise

    def gone(instance_id: UUID, link_id: UUID) -> Response:
        """Back to a link that Wix does not know any more, of which nothing can be done; 404 for one that never was."""
        with site.read() as connection:
            if links.stored(connection, instance_id, link_id) is None:
                abort(404)
        return refused(where(instance_id, link_id), f"{_GONE} Nothing was done.")

    def act(instance_id: UUID, link_id: UUID, action: str, do: Callable[[], str]) -> Response:
        """Do it at Wix and go back to the link, with the words that `do` returns or those of its error."""
        try:
            words = do()
        except (WixError, ConfigurationError) as why:
            if isinstance(why, WixError) and link_view.is_link_missing(why):
                return gone(instance_id, link_id)
            return refused(where(instance_id, link_id), link_view.said(why, action))
        return done(where(instance_id, link_id), words)

    def kept(instance_id: UUID, answer: wire.PaymentLink | UnreadableItem) -> None:
        flows.keep(services, instance_id, answer)

    @routes.post("/links/<uuid:instance_id>/<uuid:payment_link_id>/activate")
    @needs(Permission.LINKS)
    def activate(instance_id: UUID, payment_link_id: UUID) -> Response:
        def do() -> str:
            kept(instance_id, services.wix.activate_link(instance_id, payment_link_id))
            return "The link takes payments again."

        return act(instance_id, payment_link_id, "activate", do)

    @routes.post("/links/<uuid:instance_id>/<uuid:payment_link_id>/deactivate")
    @needs(Permission.LINKS)
    def deactivate(instance_id: UUID, payment_link_id: UUID) -> Response:
        def do() -> str:
            kept(instance_id, services.wix.deactivate_link(instance_id, payment_link_id))
            return "The link takes no payments any more."

        return act(instance_id, payment_link_id, "deactivate", do)

    @routes.post("/links/<uuid:instance_id>/<uuid:payment_link_id>/delete")
    @needs(Permission.LINKS)
    def delete(instance_id: UUID, payment_link_id: UUID) -> Response:
        back = where(instance_id, payment_link_id)
        try:
            demand_known(
                instance_id, payment_link_id
            )  # one that is gone counts as deleted, a stranger does not
            flows.delete_link(services, instance_id, payment_link_id)
        except (WixError, ConfigurationError) as why:
            if isinstance(why, WixError) and link_view.is_link_missing(why):
                return done(back, "The link was deleted before: Wix does not know it any more.")
            return refused(back, link_view.said(why, "delete"))
        return done(
            url_for("links.index", instance=instance_id), f"The link {payment_link_id} is deleted at Wix."
        )

    @routes.post("/links/<uuid:instance_id>/<uuid:payment_link_id>/note")
    @needs(Permission.LINKS)
    def note(instance_id: UUID, payment_link_id: UUID) -> Response | _FORM:
        text = request.form.get("note", "").replace("\r\n", "\n").strip()
        if wrong := _wrong_note(text):
            return shown(
                instance_id,
                payment_link_id,
                status=422,
                wrong={"note": wrong},
                given={"note": text[:NOTE_MAX]},
            )

        def do() -> str:
            kept(instance_id, services.wix.set_note(instance_id, payment_link_id, text))
            return "The note is set."

        return act(instance_id, payment_link_id, "note", do)

    @routes.post("/links/<uuid:instance_id>/<uuid:payment_link_id>/send")
    @needs(Permission.LINKS, keeps=("to", "channel"))
    def send(instance_id: UUID, payment_link_id: UUID) -> Response | _FORM:
        form = request.form
        given = {name: form.get(name, "") for name in ("to", "contacts", "channel")}
        chosen: list[wire.Recipient] = []
        wrong: dict[str, str] = {}
        if given["to"] == "chosen":
            chosen, words = link_forms.recipients(given["contacts"], given["channel"])
            words = words or ("" if chosen else "Name at least one contact.")
            wrong = {"contacts": words} if words else {}
        if wrong:
            return shown(instance_id, payment_link_id, status=422, wrong=wrong, given=given)
        once = guid(form.get("once"))
        if once is None:
            # Only a link that nobody has is answered otherwise; nothing is sent either way, whatever Wix says.
            with suppress(WixError, ConfigurationError):
                demand_known(instance_id, payment_link_id)
            return refused(where(instance_id, payment_link_id), _NO_REFERENCE)
        try:
            is_done = flows.send_link(
                services,
                instance_id,
                payment_link_id,
                chosen,
                actor=account().name,
                door="page",
                reference=once,
            )
        except (WixError, ConfigurationError) as why:
            if isinstance(why, WixError) and link_view.is_link_missing(why):
                return gone(instance_id, payment_link_id)
            if isinstance(why, WixRefused):
                words = link_view.said(why, "send")
                if not chosen and link_forms.blames_recipients(why):
                    words = "The link names no recipients: choose them."
                wrong = {"contacts": words}
                return shown(
                    instance_id, payment_link_id, status=422, wrong=wrong, given={**given, "to": "chosen"}
                )
            return refused(where(instance_id, payment_link_id), link_view.said(why, "send"))
        if not is_done:
            return refused(where(instance_id, payment_link_id), _AGAIN)
        to = f"{len(chosen)} contact{'' if len(chosen) == 1 else 's'}" if chosen else "its recipients"
        return done(where(instance_id, payment_link_id), f"Wix sends the link to {to}.")

    @routes.post("/links/<uuid:instance_id>/<uuid:payment_link_id>/recipients/find")
    @needs(Permission.LINKS, keeps=("step",))
    def find_recipients(instance_id: UUID, payment_link_id: UUID) -> _FORM:
        """The form of sending as it was typed, with contacts to choose from, or with the one that was chosen."""
        form = request.form
        given = {name: form.get(name, "").replace("\0", "") for name in ("contacts", "channel")}
        given["to"] = "chosen"
        found = None
        if contact_id := form.get("add_contact"):
            given["contacts"] = pickers.with_contact(given["contacts"], contact_id[: link_forms.ID_MAX])
        else:
            found = pickers.find(site, instance_id, pickers.CONTACT, form.get("find_contact", ""))
        who = pickers.names(site, instance_id, pickers.ids_of(given["contacts"]))
        return shown(instance_id, payment_link_id, given=given, found=found, who=who)

    @routes.post("/links/<uuid:instance_id>/<uuid:payment_link_id>/initiate")
    @needs(Permission.LINKS)
    def initiate(instance_id: UUID, payment_link_id: UUID) -> Response | str:
        back = where(instance_id, payment_link_id)
        try:
            target = services.wix.initiate_payment(instance_id, payment_link_id)
        except (WixError, ConfigurationError) as why:
            if isinstance(why, WixError) and link_view.is_link_missing(why):
                return gone(instance_id, payment_link_id)
            return refused(back, link_view.said(why, "initiate"))
        url = link_view.checkout_of(target)
        if url is None:
            return refused(back, "Wix made no checkout that a browser can be led to.")
        return render_template(
            "link_checkout.html",
            url=url,
            is_order=target.ecom_checkout is None,
            qr=link_view.qr_code(url),
            back=back,
        )

    @routes.post("/links/<uuid:instance_id>/<uuid:payment_link_id>/payments/<uuid:payment_id>/receipt")
    @needs(Permission.LINKS)
    def receipt(instance_id: UUID, payment_link_id: UUID, payment_id: UUID) -> Response:
        with site.read() as connection:
            if not links.has_payment(connection, instance_id, payment_link_id, payment_id):
                abort(404)

        back = where(instance_id, payment_link_id)
        if guid(request.form.get("once")) is None:
            return refused(back, _NO_REFERENCE)
        if is_again():
            return refused(back, _AGAIN)
        try:
            receipt_id = services.wix.issue_receipt(instance_id, payment_id)
        except (WixError, ConfigurationError) as why:
            return refused(back, link_view.said(why, "receipt", payment_id=payment_id))
        made = f"Wix issued the receipt {receipt_id}" if receipt_id else "Wix issued the receipt"
        return done(back, f"{made}; it shows here when Wix's event about it has arrived.")

    creating.add_routes(routes, site)
    return routes


_GONE = "Wix does not know this link (any more)."
_NOT_NOW = "Wix was asked when the page was opened."
_NO_REFERENCE = "The form came without its reference, and nothing was done: send it once more."
_AGAIN = "This form was sent before, and is not done a second time. Below is how the link stands now."


# -- Reading what was asked ------------------------------------------------------------------------


def _words(asked: Asked) -> str | None:
    """Words to be searched for, None for none and for what Wix does not take."""
    words = asked.text("q")
    if words is None:
        return None
    if len(words) > WORDS_MAX or not words.isprintable():
        asked.wrong["q"] = f"At most {WORDS_MAX} letters that can be seen."
        return None
    return words


def _wrong_note(text: str) -> str | None:
    if not text:
        return "Write what is to be noted."
    if len(text) > NOTE_MAX:
        return f"A note has at most {NOTE_MAX} letters, this one {len(text)}."
    if any(not letter.isprintable() and letter != "\n" for letter in text):
        return "The note holds a character that cannot be seen."
    return None


def _without_place() -> str:
    return paging.here(at="")


# -- Lines -----------------------------------------------------------------------------------------


def _read(item: wire.PaymentLink | UnreadableItem, instance_id: UUID) -> Line:
    id_text = (item.id or "no id")[:64]
    if isinstance(item, UnreadableItem):
        return Line(id_text, None, item.detail)
    try:
        return _line(seen_link(item, instance_id).link)
    except Unreadable as why:
        return Line(id_text, None, str(why))


def _line(link: Link) -> Line:
    return Line(str(link.payment_link_id), link)


def _with_books(connection: Any, instance_id: UUID, lines: list[Line]) -> list[Line]:
    ids = [one.link.payment_link_id for one in lines if one.link is not None]
    booked = links.booked(connection, instance_id, ids)
    open_ = links.open_discrepancies(connection, instance_id, ids)
    accepted = decided.accepted(connection, instance_id, ids)
    told_ = []
    for one in lines:
        if one.link is None:
            told_.append(one)
            continue
        link_id = one.link.payment_link_id
        ours = booked.get(link_id, links.NOTHING)
        told_.append(
            Line(
                one.id_text,
                one.link,
                None,
                link_view.compare(one.link, ours),
                ours,
                open_.get(link_id, 0),
                accepted.get(link_id),
            )
        )
    return told_
