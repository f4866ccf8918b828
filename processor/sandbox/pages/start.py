"""The start page: the app, its webhook, its sites, and the stories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, render_template, request

from processor.sandbox import scenarios
from processor.sandbox.pages.common import SHOWN_MAX, Answer, Refusal, act, done
from processor.sandbox.pages.keyset import page_of

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

    from processor.sandbox.server import Sandbox


def add_routes(routes: Blueprint, sandbox: Sandbox) -> None:
    """`/`."""
    documents = sandbox.documents

    @routes.get("/")
    def start() -> str:
        return show()

    @routes.post("/")
    def start_do() -> Answer:
        actions = {"webhook": set_webhook, "install": install, "play": play}
        return act(actions, show, places={"webhook", "install", *scenarios.names()})

    def show(refusal: Refusal | None = None) -> str:
        played = request.args.get("played")
        return render_template(
            "start.html",
            app=documents.get("app", "app"),
            base_url=sandbox.url,
            public_key=sandbox.key.public_pem,
            sites=page_of(documents, "instance", {}, limit=SHOWN_MAX),
            scenarios=[{"name": name, **scenarios.read(name)} for name in scenarios.names()],
            played=played if played in scenarios.names() else None,
            faults=len(sandbox.faults.all()),
            refusal=refusal,
        )

    def set_webhook() -> Response:
        types = request.form.get("eventTypes", "").split()
        sandbox.take_webhook(
            {"url": request.form.get("url", "").strip() or None, "eventTypes": types or None}
        )
        return done("start", "webhook")

    def install() -> Response:
        return done("merchant", "installed", instance_id=sandbox.world.install({})["instanceId"])

    def play() -> Response:
        name = request.form.get("name", "")
        told = scenarios.play(sandbox, name)
        return done("start", "played", played=name, site=told["instanceId"], _anchor=name)
