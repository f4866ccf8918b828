"""The web process: webhooks, health and the pages."""

from __future__ import annotations

from flask import Flask

from processor import wiring
from processor.store import inbox
from processor.web import health, webhooks
from processor.web.afterwork import AfterWork
from processor.web.doors import Doors
from processor.web.front import Front
from processor.wiring import Services


def create_front(services: Services) -> Front:
    """What is served: the webhook, and behind it the applications. Raises ConfigurationError as `create_app`."""
    app = create_app(services)
    settings = services.settings
    pages = None
    if settings.secret_key is not None:
        # Imported here: they are a fifth of what this process loads, and not everybody serves them.
        from processor.web.pages import create_pages

        pages = create_pages(wiring.build(settings, role="pages", now=services.now))
    return Front(
        Doors(app, pages, at_once=max(1, settings.web_threads // 2)),
        app.extensions["intake"],
        body_bytes_max=settings.body_bytes_max,
        seconds=settings.answer_seconds,
        intake_threads=settings.intake_threads,
        web_threads=settings.web_threads,
    )


def create_app(services: Services) -> Flask:
    """The Flask application, the webhook included. Raises ConfigurationError when the public keys cannot be used."""
    app = Flask(__name__)
    # One more than allowed: of a body without a length the framework reads up to this and no further, so
    # that only the byte beyond the bound tells "too large" from "just fits".
    app.config["MAX_CONTENT_LENGTH"] = services.settings.body_bytes_max + 1
    after_work = AfterWork(services)
    store = inbox.Inbox(
        services.database,
        services.now,
        seconds=services.settings.answer_seconds,
        lanes=services.settings.intake_lanes,
        is_preparing=services.settings.database_prepares,
        observe=after_work.note_commit,
    )
    intake = webhooks.Intake(services, wiring.public_keys(services.settings), store, after_work)
    app.register_blueprint(webhooks.blueprint(intake))
    app.register_blueprint(health.blueprint(services))
    app.extensions["intake"] = intake
    return app
