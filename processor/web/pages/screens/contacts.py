"""Looking a contact's id up by name, for who may see personal data. What is sought is personal: no address has it."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, abort, render_template, request

from processor.domain.access import Permission
from processor.errors import ConfigurationError, WixError
from processor.web.pages import link_view
from processor.web.pages.access import account, needs
from processor.web.pages.site import Site
from processor.wix import wire
from processor.wix.client import TooManyPages

PAGES_MAX = 5  # of 100 contacts: Wix's own search of contacts is not among the documented calls that we have
FOUND_MAX = 20
SOUGHT_MAX = 100

_PAGE = tuple[str, int]


def add_routes(routes: Blueprint, site: Site) -> None:
    """`/links/…/contacts`."""
    services = site.services

    @routes.get("/links/<uuid:instance_id>/contacts")
    @needs(Permission.LINKS)
    def contacts(instance_id: UUID) -> _PAGE:
        return _page(instance_id)

    @routes.post("/links/<uuid:instance_id>/contacts")
    @needs(Permission.LINKS)
    def find_contacts(instance_id: UUID) -> _PAGE:
        if not account().sees_personal:
            abort(403)
        sought = request.form.get("sought", "").strip()[:SOUGHT_MAX]
        if not sought:
            return _page(instance_id, wrong="Write a part of the name or of the mail address.", status=422)
        words = sought.casefold().split()
        found: list[tuple[str, str]] = []
        told = ""
        try:
            for page in services.wix.query_contacts(instance_id, pages_max=PAGES_MAX):
                named = [(one.id, name_of(one)) for one in page]
                found += [one for one in named if all(word in one[1].casefold() for word in words)]
                if len(found) > FOUND_MAX:
                    told = f"There are more: only {FOUND_MAX} are shown."
                    break
        except TooManyPages:
            told = (
                "The site has more contacts than were looked through: find the id in Wix if it is not here."
            )
        except (WixError, ConfigurationError) as why:
            told = link_view.not_asked(why)
        if not found and not told:
            told = "No contact is called so."
        return _page(instance_id, sought=sought, found=found[:FOUND_MAX], words=told)

    def _page(
        instance_id: UUID,
        *,
        sought: str = "",
        found: list[tuple[str, str]] | None = None,
        words: str = "",
        wrong: str = "",
        status: int = 200,
    ) -> _PAGE:
        return render_template(
            "link_contacts.html",
            instance_id=instance_id,
            sought=sought,
            found=found,
            words=words,
            wrong=wrong,
        ), status


def name_of(contact: wire.Contact) -> str:
    """How a contact is called, and its mail address. Personal."""
    name = contact.info.name if contact.info else None
    parts = [one for one in (name and name.first, name and name.last) if one]
    mail = contact.primary_info.email if contact.primary_info else None
    return ", ".join(one for one in (" ".join(parts), mail) if one) or "no name"
