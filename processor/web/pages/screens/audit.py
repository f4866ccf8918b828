"""Who asked for what on the pages, when, and what was answered."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from flask import Blueprint, current_app, render_template, url_for
from werkzeug.routing import BuildError

from processor.domain.access import EVERYWHERE, Permission
from processor.store import accounts
from processor.store.screens import audit as store
from processor.store.screens.audit import ActionLine
from processor.web.pages import formats, paging
from processor.web.pages.access import needs, needs_of, reach
from processor.web.pages.asked import Asked
from processor.web.pages.site import Site

# What was asked for; beside it stands whether it was refused.
WORDS = {
    "signed_in": "Signed in",
    "sign_in_failed": "Failed to sign in",
    "sign_in_throttled": "Was kept from trying to sign in, as it was tried too often",
    "signing.sign_out": "Signed out",
    "signing.change_password": "Changed the password",
    "signing.end_sessions": "Ended other sessions",
    "runs.again": "Decided a run again",
    "runs.sweep": "Asked for a sweep",
    "runs.check": "Asked for a check of a link",
    "runs.start_backfill": "Asked for a backfill",
    "runs.cancel_backfill": "Ended a backfill",
    "events.personal": "Saw personal data of an event",
    "events.again": "Replayed an event",
    "events.read_again": "Read unread deliveries again",
    "payments.personal": "Saw personal data of a payment",
    "payments.export_csv": "Exported payments as CSV",
    "payments.export_parquet": "Exported payments as Parquet",
    "payments.export_xlsx": "Exported payments for Excel",
    "reports.download": "Downloaded a report",
    "links.draft": "Looked at a link before its creation",
    "links.create": "Created a link",
    "links.find_contacts": "Looked for contacts",  # of releases in which it had a page of its own
    "links.find_recipients": "Looked for contacts, or chose one",
    "links.recipients": "Saw the recipients of a link",
    "links.personal": "Saw the whole note of a link",
    "links.send": "Sent a link",
    "links.initiate": "Initiated a payment",
    "links.activate": "Activated a link",
    "links.deactivate": "Deactivated a link",
    "links.delete": "Deleted a link",
    "links.note": "Changed the note of a link",
    "links.receipt": "Issued a receipt",
    "discrepancies.investigate": "Began to investigate a discrepancy",
    "discrepancies.comment": "Commented on a discrepancy",
    "discrepancies.evidence": "Added evidence to a discrepancy",
    "discrepancies.assign": "Assigned a discrepancy",
    "discrepancies.resolve": "Resolved a discrepancy",
    "discrepancies.reopen": "Reopened a discrepancy",
    "discrepancies.write_off": "Proposed a write-off",
    "discrepancies.approve": "Approved a write-off",
    "discrepancies.reject": "Rejected a write-off",
    "discrepancies.withdraw": "Withdrew a write-off",
    "discrepancies.together": "Worked on several discrepancies",
    # Of releases that wrote it down; now only who may not.
    "rules.draft": "Looked at rules before proposing them",
    "rules.propose": "Proposed rules",
    "rules.approve": "Approved rules",
    "rules.reject": "Rejected rules",
    "rules.withdraw": "Withdrew rules",
    "jobs.requeue": "Tried a failed job again",
    "jobs.remove": "Removed a failed job",
    "health.send_again": "Sent alerts again",
}
# What an action of a screen is about: the page that shows it, and its argument beside instance_id.
PAGES = {
    "payments": ("payments.payment", "payment_id"),
    "links": ("links.link", "payment_link_id"),
    "creating": ("links.link", "payment_link_id"),
    "discrepancies": ("discrepancies.discrepancy", "discrepancy_id"),
    "runs": ("runs.run", "run_id"),
    "events": ("events.event", "event_id"),
}


def blueprint(site: Site) -> Blueprint:
    """`/audit`."""
    routes = Blueprint("audit", __name__, url_prefix="/audit")

    @routes.get("")
    @needs(Permission.READ)
    def index() -> str:
        asked, at = Asked(), paging.position(*store.KEY_TYPES)
        known = _known()
        action = asked.one_of("action", known)
        since, until = asked.span(site.clock)
        name, account_id, is_nobody = asked.text("actor"), None, False
        with site.read() as connection:
            if name is not None:
                found_account = accounts.named(connection, name)
                # Who has an account at all is for who sees every instance.
                if found_account is not None:
                    account_id = found_account[0].account_id
                elif reach() == EVERYWHERE:
                    asked.wrong["actor"] = "Nobody has an account of this name."
                else:
                    is_nobody = True
            found = store.actions(
                connection,
                reach(),
                account_id=account_id,
                is_nobody=is_nobody,
                action=action,
                since=since,
                until=until,
                at=at,
            )
        return render_template(
            "audit.html",
            asked=asked,
            known=sorted(((one, action_words(one)) for one in known), key=lambda pair: pair[1]),
            found=found,
            pages=paging.around(found.page),
            words_of=action_words,
            place_of=place_of,
            about=about,
        )

    return routes


def action_words(action: str) -> str:
    """An action for people. One of another release, which has no words here, is told by its name."""
    if action in WORDS:
        return WORDS[action]
    screen, _, name = action.rpartition(".")
    return f"{formats.words(screen)}: {formats.words(name).lower()}" if screen else formats.words(name)


def place_of(line: ActionLine) -> str | None:
    """The address of what an action was about, None where there is none."""
    if (version := _version_of(line)) is not None:
        return url_for("rules.version", version=version)
    page = PAGES.get(line.action.partition(".")[0])
    if page is None or line.instance_id is None or not line.object:
        return None
    endpoint, argument = page
    try:
        about = UUID(line.object.split(", ")[0])
        values: dict[str, Any] = {"instance_id": line.instance_id, argument: about}
        return url_for(endpoint, **values)
    except (ValueError, BuildError):
        return None


def about(line: ActionLine) -> str | None:
    """What an action was about, for people; None when that is an id, which is shown as one, or nothing."""
    if (version := _version_of(line)) is not None:
        return f"Version {version}"
    # What is no id is a name, as of a report.
    return formats.words(line.object) if line.object and len(line.object) < 36 else None


def _version_of(line: ActionLine) -> int | None:
    """The version of rules that an action was about."""
    found = re.fullmatch(r"[0-9]{1,18}", line.object or "", re.ASCII)
    return int(found[0]) if found and line.action.startswith("rules.") else None


def _known() -> set[str]:
    """Every action that may be written down."""
    found = {name for name in WORDS if "." not in name}
    for rule in current_app.url_map.iter_rules():
        wanted = needs_of(current_app, rule.endpoint)
        if wanted.permission is not None and (wanted.is_recorded or "POST" in (rule.methods or ())):
            found.add(rule.endpoint)
    return found
