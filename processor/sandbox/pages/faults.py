"""The fault switches: those that are on, and a form for every kind there is, made from FAULTS."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from flask import Blueprint, render_template, request

from processor.sandbox.documents import Document
from processor.sandbox.faults import FAULTS, MIX, Group, parameter, parameters_of
from processor.sandbox.pages.common import SITES_MAX, Answer, Refusal, act, done, ending

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

    from processor.sandbox.server import Sandbox

GROUPS: dict[Group, str] = {
    "delivery": "Delivery of an event",
    "token": "Its token",
    "shape": "Its shape",
    "stray": "Events that come along",
    "call": "Calls of the API",
    "read": "What the API shows",
}
# Of a switch that is on, what is not a parameter.
_OWN = frozenset(("id", "kind", "used", "isMix", "count"))
_DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_DIGITS = re.compile(r"[0-9]{1,12}")


def add_routes(routes: Blueprint, sandbox: Sandbox) -> None:
    """`/faults`."""
    documents, switches = sandbox.documents, sandbox.faults

    @routes.get("/faults")
    def faults() -> str:
        """What is switched on, and what can be."""
        return show()

    @routes.post("/faults")
    def faults_do() -> Answer:
        form = request.form

        def add() -> Response:
            switches.add(fault_of(form.to_dict()))
            return done("faults", "added")

        def mix() -> Response:
            switches.add_mix({"share": number_of(form.get("share", ""))})
            return done("faults", "mixed")

        def remove() -> Response:
            switches.remove(form.get("id", ""))
            return done("faults", "removed")

        def remove_all() -> Response:
            switches.remove(None)
            return done("faults", "healed")

        actions = {one.__name__: one for one in (add, mix, remove, remove_all)}
        return act(actions, show, places={"mix", "remove", *FAULTS})

    def show(refusal: Refusal | None = None) -> str:
        return render_template(
            "faults.html",
            on=[{**fault, "parameters": parameters_on(fault)} for fault in switches.all()],
            groups={
                words: [
                    {
                        "kind": kind,
                        "summary": one.summary,
                        "fields": [
                            (name, parameter(name, group), one.parameters.get(name, False))
                            for name in parameters_of(kind)
                        ],
                    }
                    for kind, one in FAULTS.items()
                    if one.group == group
                ]
                for group, words in GROUPS.items()
            },
            summaries={kind: one.summary for kind, one in FAULTS.items()},
            mix_kinds=len(MIX),
            seed=sandbox.seed,
            sites=documents.find("instance", newest_first=True, limit=SITES_MAX),
            endings=sorted({ending(one) for one in documents.distinct("event", "type")}),
            refusal=refusal,
        )


def parameters_on(fault: Document) -> dict[str, Any]:
    """With what a fault was switched on, beside how often it strikes."""
    return {name: value for name, value in fault.items() if name not in _OWN}


def fault_of(form: dict[str, str]) -> Document:
    """What a form of a fault says, as the switches take it. What is no number stays text, to be refused by name."""
    kind = form.get("kind", "")
    group = FAULTS[kind].group if kind in FAULTS else "read"
    given: Document = {"kind": kind}
    for name, text in form.items():
        if name in ("kind", "do", "at") or not text.strip():
            continue
        match parameter(name, group).type:
            case "whole" | "number":
                given[name] = number_of(text)
            case "flag":
                given[name] = text == "on"
            case _:
                given[name] = text.strip()
    return given


def number_of(text: str) -> int | float | str:
    """A number from a form, or the text when it is none."""
    text = text.strip()
    if _DIGITS.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text
