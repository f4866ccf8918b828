"""What must be in the books at the end of a story, told from what truly happened."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from decimal import Decimal

from processor.sandbox.core import currency_of
from processor.sandbox.documents import Document
from tests.simulation.story import Open, Story
from tests.simulation.world import WentWrong


def expected_open(story: Story) -> set[Open]:
    """What must be open.

    What was planted; what a refund made uneven, if Wix's totals fall by it; payments of which no event ever reached us;
    and what a test of the dashboard told of an instance that does not exist.
    """
    world = story.world
    found = set(story.must)
    paid: dict[str, Decimal] = defaultdict(Decimal)
    for payment in world.documents("payment"):
        told = story.as_told(payment)
        paid[told["paymentLinkId"]] += Decimal(told["amount"])
        installed_at = world.installed_at(payment["instanceId"])
        if installed_at is not None and installed_at <= datetime.fromisoformat(told["createdDate"]):
            found |= _without_event(story, payment)
    for event in world.documents("event"):
        answered = (event["instanceId"], event["id"]) in world.answered
        if answered and event["instanceId"] not in story.instances:
            found.add(Open("unknown_instance", event["paymentLinkId"], "", "informational"))
    for link in world.documents("link"):
        received = Decimal(link["entity"]["totalReceived"]["amount"])
        if received < paid[link["id"]]:
            found.add(Open("total_differs", link["id"], "", "informational"))
    return found


def _without_event(story: Story, payment: Document) -> set[Open]:
    if payment["id"] in story.world.told_payments:
        return set()
    link_id = story.as_told(payment)["paymentLinkId"]
    return {Open("payment_without_event", link_id, payment["id"], "informational")}


def possibly_open(story: Story) -> set[Open]:
    """What may be open beside it.

    A link's status has no date. One that was deactivated, activated and deactivated again may look as if it had been
    inactive all the while, and what was paid in between as if it had been paid late. And of what was paid before the
    site had the app, as far as we were told, nobody owes us an event.
    """
    payments = story.world.documents("payment")
    status = {one["id"]: one["entity"]["status"] for one in story.world.documents("link")}
    told = map(story.as_told, payments)
    late = {
        Open("paid_while_inactive", one["paymentLinkId"], one["id"], "informational")
        for one in told
        if status[one["paymentLinkId"]] == "INACTIVE"
    }
    return late.union(*(_without_event(story, one) for one in payments))


def verdict(story: Story) -> list[str]:
    """Everything that is not as it must be, in words; nothing when all is well."""
    world = story.world
    wrong: list[str] = []

    def called(id_: str) -> str:
        return world.names.get(id_, id_)

    living = {one for one in story.instances if one not in story.removed}
    happened = {one["id"]: one for one in world.documents("payment")}
    rows = world.rows(
        "SELECT payment_id, instance_id, payment_link_id, amount, currency, revision, match_state FROM payments"
    )
    booked = {str(row.payment_id): row for row in rows}
    wrong += [
        f"{called(id_)} is not booked"
        for id_, payment in happened.items()
        if payment["instanceId"] in living and id_ not in booked
    ]
    for id_, row in booked.items():
        if str(row.instance_id) not in living:
            continue
        entity = story.as_told(happened[id_])
        truth = (
            entity["paymentLinkId"],
            Decimal(entity["amount"]),
            currency_of(entity),
            int(entity["revision"]),
        )
        ours = (str(row.payment_link_id), row.amount, row.currency, row.revision)
        if ours != truth:
            wrong.append(f"{called(id_)} is booked as {ours}, and is {truth}")
        state = "discrepant" if id_ in story.discrepant else "matched"
        if row.match_state != state:
            wrong.append(f"{called(id_)} is {row.match_state}, and should be {state}")

    open_ = {
        Open(row.type, str(row.payment_link_id), str(row.payment_id or ""), row.severity): str(
            row.instance_id
        )
        for row in world.rows(
            "SELECT type, payment_link_id, payment_id, severity, instance_id FROM discrepancies"
            " WHERE closed_at IS NULL"
        )
    }
    must = expected_open(story)
    owner = {one["id"]: one["instanceId"] for one in world.documents("link")}
    for one in sorted(must - open_.keys()):
        if owner.get(one.payment_link_id) not in story.removed:
            wrong.append(f"not noticed: {_told(story, one)}")
    for one in sorted(open_.keys() - must - possibly_open(story)):
        if open_[one] not in story.removed:
            wrong.append(f"open without a cause: {_told(story, one)}")

    unsettled = world.rows(
        "SELECT payment_link_id FROM link_checks"
        " WHERE CAST(instance_id AS text) = ANY(:living) AND (wanted > checked OR lease_id IS NOT NULL)",
        living=sorted(living),
    )
    wrong += [f"the check of {called(str(row.payment_link_id))} did not come to an end" for row in unsettled]
    running = world.rows("SELECT kind FROM reconciliation_runs WHERE status = 'running'")
    wrong += [f"a {row.kind} is still running" for row in running]
    return wrong


def prove(story: Story) -> None:
    """Raises WentWrong with the whole list."""
    if wrong := verdict(story):
        raise WentWrong("; ".join(wrong))


def _told(story: Story, one: Open) -> str:
    names = story.world.names
    payment = f", payment {names.get(one.payment_id, one.payment_id)}" if one.payment_id else ""
    return f"{one.type} ({one.severity}) of {names.get(one.payment_link_id, one.payment_link_id)}{payment}"
