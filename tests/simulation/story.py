"""A story drawn from a seed: what merchants, buyers and Wix do, what goes wrong, and what must be open after it.

The oracle is the sandbox's own state and what was planted in it; nothing of the service is asked.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from processor.sandbox.core import currency_of, digits_of, money, timestamp
from processor.sandbox.documents import Document
from processor.sandbox.errors import Refused
from processor.wix import wire
from tests.simulation.world import ENDPOINT, START, World

CURRENCIES = ("USD", "EUR", "JPY", "KRW", "KWD", "BHD")
SAME_DIGITS = {"USD": "EUR", "EUR": "USD", "JPY": "KRW", "KRW": "JPY", "KWD": "BHD", "BHD": "KWD"}
STEPS = 12
QUIET_STEPS = 3  # before something is planted: there must be payments first
# From the last fault on: past the last resend (47 h 11 min) and the longest recheck after it.
REST = timedelta(hours=74)

# What clears by itself.
DELIVERY_FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "drop"},
    {"kind": "drop", "eventType": "payment_link_payment_created"},
    {"kind": "drop", "eventType": "payment_link_payment_updated"},
    {"kind": "duplicate", "copies": 3},
    {"kind": "reorder"},
    {"kind": "reorder", "sameEntity": True},
    {"kind": "delay", "seconds": 1800.0},
    {"kind": "expired_token", "attempts": 2},
    {"kind": "wrong_key", "attempts": 1},
    {"kind": "resigned"},
    {"kind": "missing_identity"},
    {"kind": "entity_as_json"},
    {"kind": "created_current_entity"},
    {"kind": "currency_code"},
    {"kind": "missing_sequence"},
    {"kind": "test_event"},
    {"kind": "unknown_event"},
)
CALL_FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 503},
    {"kind": "status", "status": 504},
    {"kind": "truncated"},
    {"kind": "expired_cursor"},
    {"kind": "revoked_token"},
)


@dataclass(frozen=True, slots=True, order=True)
class Open:
    """A discrepancy as it must be open in the end, by ids as text. payment_id: empty for one of the link itself."""

    type: str
    payment_link_id: str
    payment_id: str
    severity: str


@dataclass
class Story:
    """What is told in one world.

    steps: before the last fault clears. claimed: payments and links that a plant or a fault needs as they are, left
    alone meanwhile. must: what is open in the end. discrepant: payments that Wix lists otherwise than it told them.
    touch: of these links Wix tells something once more before the end. told_first: payments that were rewritten, as
    they were told. ends: when each fault clears, its id, and what it claims. removed: instances without the app;
    moved: those it was ever removed from.
    """

    world: World
    steps: int = STEPS
    claimed: set[str] = field(default_factory=set)
    must: set[Open] = field(default_factory=set)
    discrepant: set[str] = field(default_factory=set)
    touch: list[str] = field(default_factory=list)
    told_first: dict[str, Document] = field(default_factory=dict)
    instances: list[str] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    moved: list[str] = field(default_factory=list)
    ends: list[tuple[datetime, str, str]] = field(default_factory=list)
    planted: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def chance(self) -> random.Random:
        """The dice of this story."""
        return self.world.chance

    def as_told(self, payment: Document) -> Document:
        """A payment's entity as Wix told it, whatever it shows now."""
        first = self.told_first.get(payment["id"])
        return dict(payment["entity"]) if first is None else first

    # -- The whole ---------------------------------------------------------------------------------

    def play(self) -> None:
        """From the first installation to the last resend. What went wrong is `WentWrong`."""
        for _ in range(self.chance.choice((1, 2, 2, 3))):
            self._install()
        for fault in self.chance.sample(DELIVERY_FAULTS, 3):
            self._switch_on({**fault, "probability": self.chance.uniform(0.1, 0.5)}, (9, 20))
        for step in range(self.steps):
            gap = self.chance.choice((90, 900, 3_600, 7_200, 10_800))
            self._pass(timedelta(seconds=self.chance.uniform(0.5, 1.0) * gap))
            if self.chance.random() < 0.5:
                self._turn_weather()
            # What happens within a minute is delivered and checked together.
            for _ in range(self.chance.choice((1, 2, 3, 4))):
                if step >= QUIET_STEPS and self.chance.random() < 0.15:
                    self._plant()
                else:
                    self._trade()
                self.world.note_told()
                self.world.moment += timedelta(seconds=self.chance.choice((0, 1, 15)))
        self._heal()
        self.world.pass_until(self.world.moment + REST)

    def _pass(self, gap: timedelta) -> None:
        """Let time pass; what was bad for a while becomes good again when its time is over."""
        until = self.world.moment + gap
        for end in sorted(self.ends, key=_when):
            moment, fault_id, what = end
            if moment <= until:
                self.world.pass_until(max(moment, self.world.moment))
                self.ends.remove(end)
                self._switch_off(fault_id, what)
        self.world.pass_until(until)

    def _heal(self) -> None:
        """The last fault clears. Of whatever a plant is about, Wix tells something once more."""
        for _, fault_id, what in sorted(self.ends, key=_when):
            self._switch_off(fault_id, what)
        self.ends.clear()
        weather = self.world.weather
        weather.down_until, weather.answers_lost, weather.idle = self.world.moment, 0.0, 0.0
        weather.dies_in = None
        if self.chance.random() < 0.5:
            self.world.sandbox.deliverer.release_all()
        self.world.say("-- the last fault has cleared")
        for instance_id in dict.fromkeys(self.moved):
            # That a site has the app again, or no more, is told by this one event: if need be, somebody sends it again.
            told = self.world.documents("event", instance=instance_id)
            last = [one for one in told if one["eventType"] in (wire.APP_INSTALLED, wire.APP_REMOVED)][-1]
            if last["status"] in ("dropped", "held"):
                self.world.sandbox.redeliver(last["id"])
        self.world.pass_until(self.world.moment + timedelta(minutes=3))
        for link_id in dict.fromkeys(self.touch):
            instance_id = self.world.document("link", link_id)["instanceId"]
            if instance_id in self.removed:
                continue
            try:
                self._note(self.world.document("link", link_id))
            except Refused:  # hidden: its payments are told of instead
                self._forget_a_buyer(link_id)
        for instance_id in self.instances:
            # So that of each something was told, even if all was dropped before.
            if instance_id not in self.removed:
                link = self._make_link(instance_id)
                self.world.say(f"a last link, {self.world.name('L', link['id'])}")
        self.world.note_told()

    # -- Weather -----------------------------------------------------------------------------------

    def _turn_weather(self) -> None:
        world, chance = self.world, self.chance
        match chance.randrange(14):
            case 0 | 1 | 2 | 3:
                self._switch_on({**chance.choice(DELIVERY_FAULTS), "probability": chance.uniform(0.1, 0.6)})
            case 4 | 5:
                self._switch_on(
                    {**chance.choice(CALL_FAULTS), "probability": chance.uniform(0.1, 0.5)}, (1, 2)
                )
            case 6:
                self._switch_on(
                    {"kind": "read_lag", "seconds": float(chance.choice((20, 1_500, 9_000, 20_000)))}
                )
            case 7:
                world.weather.down_until = world.moment + timedelta(minutes=chance.choice((2, 30, 300)))
                self.faults["endpoint_down"] += 1
                world.say(f"our endpoint is down until {world.weather.down_until - START}")
            case 8:
                world.weather.answers_lost = chance.choice((0.0, 0.3))
                world.weather.idle = chance.choice((0.0, 0.5))
                self.faults["answers_lost_or_workers_busy"] += 1
                world.say(f"answers lost: {world.weather.answers_lost}, workers busy: {world.weather.idle}")
            case 9:
                world.weather.dies_in = chance.randrange(6)
                self.faults["worker_killed"] += 1
                world.say(f"a worker will be killed at its call number {world.weather.dies_in + 1}")
            case 10:
                # Wix tells of nothing: only a poll can find what is paid.
                self._switch_on({"kind": "drop", "probability": 1.0}, (1, 3))
            case _:
                self._contradict_for_a_while()
        if chance.random() < 0.1:
            world.empty_redis()
            self.faults["redis_emptied"] += 1
            world.say("Redis was emptied")

    def _contradict_for_a_while(self) -> None:
        """Wix shows something wrong that it takes back later."""
        chance = self.chance
        match chance.randrange(4):
            case 0 if payment := self._choose_payment(is_known=True):
                self.claimed.add(payment["id"])
                fault = {"kind": "amount_edited", "paymentId": payment["id"], "amount": _other(payment)}
                self._switch_on(fault, about=payment["id"])
                self._note(self.world.document("link", payment["linkId"]))
            case 1 if payment := self._choose_payment():
                self.claimed.add(payment["id"])
                self._switch_on({"kind": "payment_deleted", "paymentId": payment["id"]}, about=payment["id"])
                self._note(self.world.document("link", payment["linkId"]))
            case 2 if link := self._choose_link(has_payments=True):
                self.claimed.add(link["id"])
                self._switch_on({"kind": "link_deleted", "linkId": link["id"]}, about=link["id"])
                self._forget_a_buyer(link["id"])
            case 3 if link := self._choose_link(has_payments=True):
                self.claimed.add(link["id"])
                fault = {
                    "kind": "wrong_total",
                    "linkId": link["id"],
                    "by": money(Decimal(3), _currency(link)),
                }
                self._switch_on(fault, about=link["id"])
                self._note(link)
            case _:
                return

    def _note(self, link: Document) -> None:
        """The merchant writes a note on a link, of which Wix tells: so it is checked once more."""
        self.world.sandbox.world.set_note(link["instanceId"], link["id"], {"note": {"text": "seen"}})

    def _forget_a_buyer(self, link_id: str) -> None:
        """The same by a payment of it, where the link itself is hidden."""
        self.world.sandbox.world.anonymize(self.world.documents("payment", link=link_id)[0]["id"])

    def _switch_on(
        self, fault: dict[str, Any], hours: tuple[int, ...] = (1, 3, 9, 20), about: str = ""
    ) -> None:
        """For a while. about: what nothing else may be planted on meanwhile."""
        added = self.world.sandbox.faults.add(fault)
        until = self.world.moment + timedelta(hours=self.chance.choice(hours))
        self.ends.append((until, added["id"], about))
        self.faults[fault["kind"]] += 1
        told = {name: self.world.names.get(value, value) for name, value in fault.items()}
        self.world.say(f"fault until {until - START}: {told}")

    def _switch_off(self, fault_id: str, about: str) -> None:
        [fault] = [one for one in self.world.sandbox.faults.all() if one["id"] == fault_id]
        self.world.sandbox.faults.remove(fault_id)
        self.claimed.discard(about)
        self.world.say(f"no more {fault['kind']} {self.world.names.get(about, '')}")

    # -- What merchants and buyers do --------------------------------------------------------------

    def _trade(self) -> None:
        """One thing that happens in any shop."""
        weights: dict[Callable[[], None], int] = {
            self._create: 4,
            self._pay: 12,
            self._receipt: 2,
            self._refund: 2,
            self._anonymize: 1,
            self._switch_link: 2,
            self._expire: 1,
            self._delete: 1,
            self._resend: 1,
            self._reinstall: 1,
            self._stray: 1,
        }
        self.chance.choices([*weights], [*weights.values()])[0]()

    def _install(self) -> None:
        instance_id = self.world.sandbox.world.install({})["instanceId"]
        self.instances.append(instance_id)
        self.world.say(f"{self.world.name('I', instance_id)} installs the app")

    def _living(self) -> str:
        """An instance that has the app."""
        return self.chance.choice([one for one in self.instances if one not in self.removed])

    def _create(self) -> None:
        link = self._make_link(self._living())
        entity = link["entity"]
        more = {name: entity[name] for name in ("paymentsLimit", "expirationDate") if name in entity}
        self.world.say(
            f"{self.world.name('L', link['id'])} of {self.world.name('I', link['instanceId'])}: {entity['type']}"
            f" {_currency(link)} {self.world.sandbox.world.due(link)} {more or ''}"
        )

    def _make_link(self, instance_id: str, *, is_order: bool | None = None, **given: Any) -> Document:
        chance, sandbox = self.chance, self.world.sandbox.world
        currency = given.pop("currency", None) or chance.choice(CURRENCIES)
        price = _price(chance, currency)
        new: dict[str, Any] = {"title": "thing", "currency": currency, **given}
        if is_order if is_order is not None else chance.random() < 0.25:
            order = sandbox.add_order(instance_id, {"currency": currency, "total": price})
            new |= {"type": "ECOM_ORDER", "ecomOrderPaymentLink": {"orderId": order["id"]}}
            if (part := Decimal(price) / 2) == round(part, digits_of(currency)) and chance.random() < 0.5:
                new["ecomOrderPaymentLink"]["amount"] = money(part, currency)
        else:
            item = {"type": "CUSTOM", "customItem": {"name": "thing", "quantity": 1, "price": price}}
            new |= {"type": "ECOM", "ecomPaymentLink": {"lineItems": [item]}}
            if not given and chance.random() < 0.25:
                new["paymentsLimit"] = chance.choice((1, 2, 3))
        if not given and chance.random() < 0.2:
            expires = self.world.moment + timedelta(hours=chance.uniform(1, 20))
            new["expirationDate"] = timestamp(expires)
        made = sandbox.create_link(instance_id, {"paymentLink": new})
        self.world.name("L", made["id"])
        return self.world.document("link", made["id"])

    def _pay(self) -> None:
        link = self._choose_link(is_active=True)
        if link is None:
            self._create()
            return
        self._pay_link(link)

    def _pay_link(self, link: Document) -> list[Document]:
        chance, currency = self.chance, _currency(link)
        due = self.world.sandbox.world.due(link)
        given: dict[str, Any] = {}
        by_card = round(due / 3, digits_of(currency))
        if 0 < by_card < due and chance.random() < 0.25:
            given["tenders"] = [
                {"type": "GIFT_CARD", "amount": money(due - by_card, currency)},
                {"type": "CARD", "amount": money(by_card, currency)},
            ]
        elif chance.random() < 0.1:
            given["tenders"] = [{"type": "OFFLINE", "amount": money(due, currency)}]
        elif chance.random() < 0.05:
            given["isDeclined"] = True
        paid = self.world.sandbox.world.pay_link(link["id"], given)
        for payment in paid:
            self.world.say(
                f"{self.world.name('P', payment['id'])} pays {self.world.name('L', link['id'])}:"
                f" {payment['amount']} {currency} {payment['type']}"
            )
        return paid

    def _receipt(self) -> None:
        payment = self._choose_payment(where=lambda one: "receiptId" not in one["entity"])
        if payment is not None:
            self.world.sandbox.world.issue_receipt(payment["instanceId"], payment["id"])
            self.world.say(f"a receipt for {self.world.name('P', payment['id'])}")

    def _refund(self) -> None:
        """A part of it, or all; never of a link that a plant or a fault is about."""
        payment = self._choose_payment(where=lambda one: one["linkId"] not in self.claimed)
        if payment is None:
            return
        given = {}
        left = Decimal(self.world.sandbox.world.standing(payment).left)
        half = round(left / 2, digits_of(currency_of(payment["entity"])))
        if payment["entity"]["type"] != "GIFT_CARD" and 0 < half < left and self.chance.random() < 0.5:
            given["amount"] = money(half, currency_of(payment["entity"]))
        try:
            self.world.sandbox.world.refund(payment["id"], given)
        except Refused:  # all of it was refunded before
            return
        self.touch.append(payment["linkId"])
        self.world.say(f"{self.world.name('P', payment['id'])} is refunded {given.get('amount', 'wholly')}")

    def _anonymize(self) -> None:
        payment = self._choose_payment()
        if payment is not None:
            self.world.sandbox.world.anonymize(payment["id"])
            self.world.say(f"the buyer of {self.world.name('P', payment['id'])} is forgotten")

    def _switch_link(self) -> None:
        link = self._choose_link(where=lambda one: one["entity"]["status"] in ("ACTIVE", "INACTIVE"))
        if link is not None:
            is_active = link["entity"]["status"] == "INACTIVE"
            self.world.sandbox.world.set_active(link["instanceId"], link["id"], is_active=is_active)
            self.world.say(f"{self.world.name('L', link['id'])} is {'' if is_active else 'de'}activated")

    def _expire(self) -> None:
        link = self._choose_link(where=lambda one: one["entity"]["status"] in ("ACTIVE", "INACTIVE"))
        if link is not None:
            self.world.sandbox.world.expire(link["id"])
            self.world.say(f"{self.world.name('L', link['id'])} expires")

    def _delete(self) -> None:
        link = self._choose_link(where=lambda one: not one["purchases"])
        if link is not None:
            self.world.sandbox.world.delete_link(link["instanceId"], link["id"])
            self.world.say(f"{self.world.name('L', link['id'])}, never paid, is deleted")

    def _resend(self) -> None:
        """Somebody sends an old event again by hand."""
        events = [one for one in self.world.documents("event") if one["status"] in ("delivered", "dropped")]
        if events:
            event = self.chance.choice(events)
            self.world.sandbox.redeliver(event["id"])
            self.world.say(f"sent again: {_told(self.world, event)}")

    def _reinstall(self) -> None:
        """An owner removes the app, or installs it again."""
        world = self.world.sandbox.world
        if self.removed:
            instance_id = self.removed.pop()
            world.install({"instanceId": instance_id})
            self.world.say(f"{self.world.name('I', instance_id)} installs the app again")
        elif len(self.instances) > 1 and not self.claimed:
            instance_id = self._living()
            world.remove(instance_id)
            self.removed.add(instance_id)
            self.moved.append(instance_id)
            self.world.say(f"{self.world.name('I', instance_id)} removes the app")

    def _stray(self) -> None:
        kind = self.chance.choice(("test_event", "unknown_event"))
        self.world.sandbox.send_stray(kind, self._living())
        self.world.say(f"a {kind}")

    # -- Choosing ----------------------------------------------------------------------------------

    def _choose_link(
        self,
        *,
        has_payments: bool = False,
        is_active: bool = False,
        where: Callable[[Document], bool] = lambda one: True,
    ) -> Document | None:
        """A link that nothing planted is about, None when there is none."""
        self.world.sandbox.world.expire_due()
        taken = {self.world.document("payment", one)["linkId"] for one in self._claimed_payments()}
        found = [
            link
            for link in self.world.documents("link")
            if link["id"] not in self.claimed | taken
            and link["instanceId"] not in self.removed
            and (link["purchases"] or not has_payments)
            and (self._is_payable(link) or not is_active)
            and where(link)
        ]
        return self.chance.choice(found) if found else None

    def _claimed_payments(self) -> list[str]:
        known = {one["id"] for one in self.world.documents("payment")}
        return sorted(self.claimed & known)

    def _is_payable(self, link: Document) -> bool:
        entity = link["entity"]
        if entity["status"] != "ACTIVE" or link["purchases"] >= entity.get("paymentsLimit", 1 << 62):
            return False
        if entity["type"] != "ECOM_ORDER":
            return True
        order = self.world.document("order", entity["ecomOrderPaymentLink"]["orderId"])
        return self.world.sandbox.world.due(link) <= Decimal(order["total"]) - Decimal(order["paid"])

    def _choose_payment(
        self, *, is_known: bool = False, where: Callable[[Document], bool] = lambda one: True
    ) -> Document | None:
        """A payment that nothing planted is about. is_known: we answered 200 to every event about it."""
        found = [
            payment
            for payment in self.world.documents("payment")
            if payment["id"] not in self.claimed
            and payment["linkId"] not in self.claimed
            and payment["instanceId"] not in self.removed
            and (not is_known or self._is_known(payment))
            and where(payment)
        ]
        return self.chance.choice(found) if found else None

    def _is_known(self, payment: Document) -> bool:
        events = self.world.documents("event", entity_id=payment["id"])
        return bool(events) and all(one["status"] == "delivered" for one in events)

    # -- What is truly wrong -----------------------------------------------------------------------

    def _plant(self) -> None:
        """One true difference that stays."""
        plants: tuple[Callable[[], str | None], ...] = (
            self._plant_wrong_total,
            self._plant_wrong_count,
            self._plant_order_amount,
            self._plant_wrong_date,
            self._plant_wrong_status,
            self._plant_over_limit,
            self._plant_late,
            self._plant_charged_twice,
            self._plant_link_deleted,
            self._plant_payment_deleted,
            self._plant_amount_edited,
            self._plant_event_conflict,
            self._plant_version_conflict,
            self._plant_other_link,
            self._plant_behind,
            self._plant_unreadable,
            self._plant_other_fact,
            self._plant_other_fact,
            self._plant_other_fact,
        )
        plant = self.chance.choice(plants)
        if (told := plant()) is not None:
            self.planted[plant.__name__.removeprefix("_plant_")] += 1
            self.world.say(f"PLANTED: {told}")

    def _is_open(self, type_: str, link_id: str, payment_id: str = "", severity: str = "error") -> None:
        self.must.add(Open(type_, link_id, payment_id, severity))
        self.touch.append(link_id)

    def _claim_link(self, where: Callable[[Document], bool] = lambda one: True) -> Document | None:
        """A paid link, to be left alone from now on; none that a refund made uneven."""

        def is_even(link: Document) -> bool:
            received = Decimal(link["entity"]["totalReceived"]["amount"])
            paid = self.world.documents("payment", link=link["id"])
            return received == sum(Decimal(one["entity"]["amount"]) for one in paid) and where(link)

        link = self._choose_link(has_payments=True, where=is_even)
        if link is not None:
            self.claimed.add(link["id"])
        return link

    def _claim_payment(self, where: Callable[[Document], bool] = lambda one: True) -> Document | None:
        """A payment that we were told of, to be left alone from now on."""
        payment = self._choose_payment(is_known=True, where=where)
        if payment is not None:
            self.claimed.add(payment["id"])
        return payment

    def _contradict(self, payment: Document, type_: str, **changed: Any) -> str:
        self.told_first[payment["id"]] = payment["entity"]
        self.world.rewrite("payment", payment["id"], **changed)
        self.discrepant.add(payment["id"])
        self._is_open(type_, payment["linkId"], payment["id"])
        return f"{type_} of {self.world.name('P', payment['id'])}: {sorted(changed)}"

    def _plant_wrong_total(self) -> str | None:
        link = self._claim_link()
        if link is None:
            return None
        received = Decimal(link["entity"]["totalReceived"]["amount"])
        by = self.chance.choice((received, -received))
        self.world.sandbox.faults.add(
            {"kind": "wrong_total", "linkId": link["id"], "by": money(by, _currency(link))}
        )
        self._is_open("total_differs", link["id"], severity="error" if by > 0 else "informational")
        return f"the total of {self.world.name('L', link['id'])} is off by {by}"

    def _plant_wrong_count(self) -> str | None:
        link = self._claim_link()
        if link is None:
            return None
        count = self.chance.choice((0, link["entity"]["totalReceived"]["paymentCount"] + 9))
        received = {**link["entity"]["totalReceived"], "paymentCount": count}
        self.world.rewrite("link", link["id"], totalReceived=received)
        self._is_open("count_differs", link["id"], severity="error" if count else "informational")
        return f"{self.world.name('L', link['id'])} counts {count} payments"

    def _plant_order_amount(self) -> str | None:
        link = self._claim_link(lambda one: one["entity"]["type"] == "ECOM_ORDER")
        if link is None:
            return None
        asked = link["entity"]["ecomOrderPaymentLink"]
        amount = money(Decimal(asked["amount"]) * 2, _currency(link))
        self.world.rewrite("link", link["id"], ecomOrderPaymentLink={**asked, "amount": amount})
        self._is_open("order_amount_differs", link["id"])
        return f"{self.world.name('L', link['id'])} asks for {amount}, and less was paid"

    def _plant_wrong_date(self) -> str | None:
        link = self._claim_link()
        if link is None:
            return None
        date = datetime.fromisoformat(link["entity"]["lastPaymentDate"]) - timedelta(days=1)
        self.world.rewrite("link", link["id"], lastPaymentDate=timestamp(date))
        self._is_open("last_payment_differs", link["id"], severity="informational")
        return f"{self.world.name('L', link['id'])} dates its last payment a day too early"

    def _plant_wrong_status(self) -> str | None:
        def has_room(link: Document) -> bool:
            paid = link["entity"]["totalReceived"]["paymentCount"]
            payments = self.world.documents("payment", link=link["id"])
            limit = int(link["entity"].get("paymentsLimit", 0))
            return bool(link["entity"]["status"] == "ACTIVE" and max(paid, len(payments)) < limit)

        link = self._claim_link(has_room)
        if link is None:
            return None
        self.world.rewrite("link", link["id"], status="PAID")
        self._is_open("status_differs", link["id"], severity="informational")
        return f"{self.world.name('L', link['id'])} is PAID before its limit is reached"

    def _plant_over_limit(self) -> str | None:
        link = self._claim_link(
            lambda one: (
                one["entity"]["type"] == "ECOM"
                and one["entity"]["status"] == "PAID"
                and "expirationDate" not in one["entity"]
            )
        )
        if link is None:
            return None
        self._pay_all_the_same(link, paymentsLimit=None, status="ACTIVE")
        self._is_open("over_limit", link["id"])
        return f"{self.world.name('L', link['id'])} is paid beyond its limit"

    def _plant_late(self) -> str | None:
        """A checkout begun in time is completed after the link expired."""
        link = self._claim_link(
            lambda one: (
                one["entity"]["type"] == "ECOM"
                and one["entity"]["status"] == "EXPIRED"
                and "paymentsLimit" not in one["entity"]
            )
        )
        if link is None:
            return None
        # An expiry and a payment at one moment would not be late.
        self.world.pass_until(self.world.moment + timedelta(seconds=5))
        for payment in self._pay_all_the_same(link, expirationDate=None, status="ACTIVE"):
            self._is_open("paid_while_inactive", link["id"], payment["id"], "informational")
        return f"{self.world.name('L', link['id'])} is paid after it expired"

    def _pay_all_the_same(self, link: Document, **lifted: Any) -> list[Document]:
        """A payment that the page would refuse by now: what forbids it is lifted while it is made."""
        before = {name: link["entity"][name] for name in lifted}
        entity = {name: value for name, value in (link["entity"] | lifted).items() if value is not None}
        self.world.sandbox.documents.put("link", link["id"], {**link, "entity": entity})
        paid = self._pay_for_sure(link)
        self.world.rewrite("link", link["id"], **before)
        return paid

    def _pay_for_sure(self, link: Document) -> list[Document]:
        while not (paid := self._pay_link(link)):
            pass  # the buyer's card was declined
        return paid

    def _plant_charged_twice(self) -> str | None:
        link = self._choose_link(
            is_active=True,
            where=lambda one: (
                one["entity"]["type"] == "ECOM"
                and not {"paymentsLimit", "expirationDate"} & one["entity"].keys()
            ),
        )
        if link is None:
            return None
        self.claimed.add(link["id"])
        world = self.world.sandbox.world
        checkout_id = world.initiate(link["instanceId"], link["id"])["ecomCheckout"]["checkoutId"]
        [first] = world.pay_checkout(checkout_id, {})
        self.world.note_told()
        self.world.pass_until(self.world.moment + timedelta(seconds=self.chance.choice((1, 900))))
        checkout = self.world.document("checkout", checkout_id)
        self.world.sandbox.documents.put("checkout", checkout_id, {**checkout, "isPaid": False})
        [second] = world.pay_checkout(checkout_id, {})
        self._is_open("duplicate_payment", link["id"], second["id"])
        names = [self.world.name("P", one["id"]) for one in (first, second)]
        return f"one checkout of {self.world.name('L', link['id'])} is paid twice, {' and '.join(names)}"

    def _plant_link_deleted(self) -> str | None:
        link = self._claim_link()
        if link is None:
            return None
        self.world.sandbox.faults.add({"kind": "link_deleted", "linkId": link["id"]})
        self._is_open("link_missing", link["id"])
        return f"{self.world.name('L', link['id'])} is gone at Wix"

    def _plant_payment_deleted(self) -> str | None:
        payment = self._claim_payment()
        if payment is None:
            return None
        self.world.sandbox.faults.add({"kind": "payment_deleted", "paymentId": payment["id"]})
        self.discrepant.add(payment["id"])
        self._is_open("missing_at_wix", payment["linkId"], payment["id"])
        return f"{self.world.name('P', payment['id'])} is gone at Wix"

    def _plant_amount_edited(self) -> str | None:
        payment = self._claim_payment()
        if payment is None:
            return None
        amount = _other(payment)
        self.world.sandbox.faults.add({"kind": "amount_edited", "paymentId": payment["id"], "amount": amount})
        self.discrepant.add(payment["id"])
        self._is_open("amount_differs", payment["linkId"], payment["id"])
        return f"{self.world.name('P', payment['id'])} shows {amount} at Wix"

    def _plant_event_conflict(self) -> str | None:
        payment = self._claim_payment()
        if payment is None:
            return None
        event = self.chance.choice(self.world.documents("event", entity_id=payment["id"]))
        self._tell(self.world.sign(event, {"amount": _other(payment)}))
        self._is_open("event_conflict", payment["linkId"])
        return f"an event of {self.world.name('P', payment['id'])} comes with another body"

    def _plant_version_conflict(self) -> str | None:
        payment = self._claim_payment()
        if payment is None:
            return None
        event = self.world.documents("event", entity_id=payment["id"])[-1]
        event_id = str(UUID(int=self.chance.getrandbits(128), version=4))
        self._tell(self.world.sign(event, {"amount": _other(payment)}, event_id=event_id))
        self.discrepant.add(payment["id"])
        self._is_open("version_conflict", payment["linkId"], payment["id"])
        return f"a revision of {self.world.name('P', payment['id'])} is told with two contents"

    def _tell(self, token: str) -> None:
        """Deliver a body that the sandbox did not make; our endpoint is up."""
        before, self.world.weather.down_until = self.world.weather.down_until, self.world.moment
        self.world.receive(ENDPOINT, token)
        self.world.weather.down_until = before

    def _plant_other_link(self) -> str | None:
        payment = self._claim_payment()
        if payment is None:
            return None
        link = self._choose_link(where=lambda one: one["instanceId"] == payment["instanceId"])
        if link is None:
            return None
        self.claimed.add(link["id"])
        document = {**payment, "linkId": link["id"]}
        document["entity"] = {**payment["entity"], "paymentLinkId": link["id"]}
        self.world.sandbox.documents.put("payment", payment["id"], document)
        self.told_first[payment["id"]] = payment["entity"]
        self.discrepant.add(payment["id"])
        self._is_open("link_differs", link["id"], payment["id"])
        self._is_open("missing_at_wix", payment["linkId"], payment["id"])
        return f"Wix lists {self.world.name('P', payment['id'])} under {self.world.name('L', link['id'])}"

    def _plant_behind(self) -> str | None:
        payment = self._claim_payment(lambda one: one["entity"]["revision"] != "1")
        return None if payment is None else self._contradict(payment, "behind_at_wix", revision="1")

    def _plant_unreadable(self) -> str | None:
        payment = self._claim_payment()
        if payment is None:
            return None
        self.told_first[payment["id"]] = payment["entity"]
        self.world.rewrite("payment", payment["id"], amount=float(payment["entity"]["amount"]))
        self.discrepant.add(payment["id"])
        self._is_open("unreadable_at_wix", payment["linkId"])
        return f"the amount of {self.world.name('P', payment['id'])} is a number at Wix"

    def _plant_other_fact(self) -> str | None:
        payment = self._claim_payment()
        if payment is None:
            return None
        entity = payment["entity"]
        match self.chance.randrange(3):
            case 0:
                name = "currency" if "currency" in entity else "currencyCode"
                return self._contradict(
                    payment, "currency_differs", **{name: SAME_DIGITS[currency_of(entity)]}
                )
            case 1:
                other = "REGULAR" if entity["type"] == "GIFT_CARD" else "GIFT_CARD"
                return self._contradict(payment, "type_differs", type=other)
            case _:
                date = timestamp(datetime.fromisoformat(entity["transactionDate"]) + timedelta(days=1))
                return self._contradict(payment, "detail_differs", transactionDate=date)


def _when(end: tuple[datetime, str, str]) -> datetime:
    """When a fault clears. Its id says nothing: it is another each time."""
    return end[0]


def _currency(link: Document) -> str:
    return str(link["entity"]["currency"])


def _price(chance: random.Random, currency: str) -> str:
    digits = digits_of(currency)
    return money(Decimal(chance.randrange(2, 100_000)) / 10**digits, currency)


def _other(payment: Document) -> str:
    """Another amount than the payment's."""
    entity = payment["entity"]
    return money(Decimal(entity["amount"]) + Decimal(7), currency_of(entity))


def _told(world: World, event: Document) -> str:
    kind = str(event["eventType"]).rsplit(".", 1)[-1]
    return f"{kind} of {world.names.get(event['entityId'], 'something')}"
