"""Whether the books are right, at a glance."""

from __future__ import annotations

from flask import Blueprint, render_template

from processor.domain.access import Permission
from processor.store.screens import overview
from processor.web.pages.access import needs, reach
from processor.web.pages.site import Site


def blueprint(site: Site) -> Blueprint:
    """`/`."""
    routes = Blueprint("overview", __name__)

    @routes.get("/")
    @needs(Permission.READ)
    def index() -> str:
        with site.read() as connection:
            at_risk = overview.open_at_risk(connection, reach())
        return render_template("overview.html", at_risk=at_risk)

    return routes
