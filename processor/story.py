"""What the demo plays: a potter sells by payment links, and much goes wrong on the way.

She acts through our own flows and client, as the commands of `processor links` do; buyers and accidents come by the
sandbox's control API. Every step is one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx2

from processor.errors import WixUnavailable
from processor.flows import How, create_link, send_link
from processor.outgoing import LOCAL
from processor.processes import ChildFailed
from processor.replay import replay
from processor.store.listings import Narrowing
from processor.system import Control, ControlFailed, System
from processor.wiring import Services
from processor.wix import wire

Say = Callable[[str], None]


@dataclass
class Told:
    """What the story made: the instance, and its links by id with their titles."""

    instance_id: UUID
    titles: dict[UUID, str] = field(default_factory=dict)


def play(system: System, services: Services, say: Say, chapter: Say) -> Told:
    """Play it to its end. Raises ProcessorError."""
    chapter("A shop")
    owner = _Owner(system.control, services, say)
    chapter("Payment links: created, sent, limited, taken back")
    pottery = owner.class_of_two()
    mugs = owner.mugs()
    deposit = owner.deposit()
    seats = owner.custom("Seats at the kiln opening", "EUR", "15.00", payments_limit=2)
    weaving = owner.custom("Sadu weaving", "KWD", "12.345")
    print_ = owner.custom("Woodblock print", "JPY", "4800")
    scarf = owner.custom("Linen scarf", "USD", "60.00")
    owner.take_back(owner.custom("Last year's calendar", "USD", "12.00"))
    chapter("Buyers pay, and webhooks go astray")
    owner.fault("duplicate", pottery, copies=3)
    [class_payment] = owner.pay(pottery, "by card; Wix delivers the webhook three times")
    owner.lead_to_checkout(mugs)
    owner.pay(deposit, "by card, a part of an order")
    owner.pay(seats, "by card")
    owner.pay(seats, "by card: that was the last seat")
    owner.refuse(seats)
    owner.fault("reorder", weaving, sameEntity=True)
    [weaving_payment] = owner.pay(weaving, "in dinars with three decimals; its webhook is held up")
    owner.fault("drop", print_)
    owner.pay(print_, "in yen, which have none; its webhook is lost for good")
    owner.fault("wrong_key", scarf, attempts=1)
    owner.pay(scarf, "by card; the webhook is signed with a wrong key at first: refused, and resent")
    owner.strays()
    chapter("After the sale")
    owner.receipt(weaving_payment)
    owner.refund(class_payment, "45.00")
    owner.forget_buyer(class_payment)
    owner.look_around()
    chapter("Wix has a bad day")
    owner.bad_day()
    owner.mistake(scarf)
    return owner.told


def prove(system: System, services: Services, told: Told, say: Say) -> None:
    """Read every event once more, which must change nothing, and let Wix count our calls. Raises ChildFailed."""
    replayed = list(replay(services, Narrowing(instance_id=told.instance_id), is_dry=False))
    if news := [one for one in replayed if one.left is None]:
        raise ChildFailed(
            f"a replay of events booked before changed something: {len(news)} of them were news"
        )
    say(f"read all {len(replayed)} stored events once more: nothing changed")
    [seen] = [
        one for one in system.control.get("rate")["instances"] if one["instanceId"] == str(told.instance_id)
    ]
    say(
        f"Wix counted {seen['answered']} calls for this shop, at most {seen['peak']} within a minute;"
        f" {seen['refused']} were beyond its limit"
    )


class _Owner:
    """The site's owner, her buyers, and what goes wrong."""

    def __init__(self, control: Control, services: Services, say: Say) -> None:
        self._control = control
        self._services = services
        self._say = say
        installed = [one for one in control.get("instances")["instances"] if not one["isRemoved"]]
        self._instance: Mapping[str, Any] = installed[0] if installed else control.post("instances")
        self._id = UUID(self._instance["instanceId"])
        self.told = Told(self._id)
        say("the app is on her site already" if installed else "she installs the app; Wix says AppInstalled")

    # -- Links -------------------------------------------------------------------------------------

    def class_of_two(self) -> UUID:
        """Custom items, sent to two contacts; Wix's answer to the creation is lost."""
        new = _new("Pottery class for two", "USD", ecom_payment_link=_custom("Pottery class", "45.00", 2))
        reference = str(uuid4())
        self._control.post(
            "faults",
            {"kind": "truncated", "path": f"={wire.PATH_LINKS}", "instanceId": str(self._id), "count": 1},
        )
        try:
            create_link(self._services, self._id, new, reference=reference)
        except WixUnavailable:
            self._say(f"she creates “{new.title}”, and Wix's answer is lost on the way")
        made = create_link(self._services, self._id, new, reference=reference)
        if made.how is not How.FOUND:
            raise ChildFailed(f"the link was {made.how.value}, not found again")
        self.told.titles[made.link_id] = new.title
        self._say("she asks again under the same reference: found, not made twice")
        contacts = self._instance["contactIds"][:2]
        recipients = [wire.Recipient(one, ["EMAIL_METHOD"]) for one in contacts]
        send_link(
            self._services,
            self._id,
            made.link_id,
            recipients,
            actor="the demo",
            door="command",
            reference=uuid4(),
        )
        self._say("she sends it to two contacts")
        return made.link_id

    def mugs(self) -> UUID:
        """An item of Wix Stores."""
        product = self._services.wix.get_product(self._id, self._instance["productIds"][0])
        reference = wire.CatalogReference(wire.WIX_STORES_APP_ID, product.id)
        item = wire.LineItem("CATALOG", catalog_item=wire.CatalogItem(reference, quantity=3))
        return self._create(
            _new("Three stoneware mugs", "USD", ecom_payment_link=wire.EcomPaymentLink([item])),
            f"three of “{product.name}” from her Wix Stores catalog",
        )

    def deposit(self) -> UUID:
        """A part of an existing order."""
        order = self._control.post(f"instances/{self._id}/orders", {"currency": "USD", "total": "180.00"})
        part = wire.EcomOrderPaymentLink(order_id=order["id"], amount="60.00")
        return self._create(
            _new("Deposit for a dinner set", "USD", ecom_order_payment_link=part, payments_limit=1),
            "60.00 of an order of 180.00",
        )

    def custom(self, title: str, currency: str, price: str, **more: Any) -> UUID:
        """One custom item."""
        limit = more.get("payments_limit")
        return self._create(
            _new(title, currency, ecom_payment_link=_custom(title, price, 1), **more),
            f"{price} {currency}" + (f", at most {limit} times" if limit else ""),
        )

    def take_back(self, link_id: UUID) -> None:
        """Nobody can pay it any more."""
        self._services.wix.set_note(self._id, link_id, "sold out")
        self._services.wix.deactivate_link(self._id, link_id)
        self._say(f"she notes that “{self.told.titles[link_id]}” is sold out, and deactivates it")
        self.refuse(link_id)

    def _create(self, new: wire.NewPaymentLink, what: str) -> UUID:
        made = create_link(self._services, self._id, new, reference=str(uuid4()))
        self.told.titles[made.link_id] = new.title
        self._say(f"she creates “{new.title}”: {what}")
        return made.link_id

    # -- Buyers ------------------------------------------------------------------------------------

    def fault(self, kind: str, link_id: UUID, **more: Any) -> None:
        """Let the next payment event of a link go wrong."""
        about = {"paymentLinkId": str(link_id), "eventType": "payment_link_payment_created", "count": 1}
        self._control.post("faults", {"kind": kind, **about, **more})

    def pay(self, link_id: UUID, how: str) -> list[str]:
        """A buyer pays through the link's page. Returns the ids of the payments."""
        payments = self._control.post(f"links/{link_id}/pay")["payments"]
        self._say(f"a buyer pays “{self.told.titles[link_id]}” {how}")
        return [str(one["id"]) for one in payments]

    def refuse(self, link_id: UUID) -> None:
        """One more buyer comes and is refused."""
        try:
            self._control.post(f"links/{link_id}/pay")
        except ControlFailed:
            self._say(f"one more buyer opens “{self.told.titles[link_id]}” and cannot pay")
        else:
            raise ChildFailed(f"“{self.told.titles[link_id]}” took a payment that it should have refused")

    def lead_to_checkout(self, link_id: UUID) -> None:
        """She makes a checkout for a buyer, who pays there with a gift card and a card."""
        target = self._services.wix.initiate_payment(self._id, link_id).ecom_checkout
        assert target is not None
        page = httpx2.get(target.checkout_url, timeout=10, **LOCAL)
        if page.status_code != 200:
            raise ChildFailed(f"the checkout page answered {page.status_code}")
        self._say(
            f"she initiates a payment of “{self.told.titles[link_id]}” and leads the buyer to its checkout"
        )
        tenders = [{"type": "GIFT_CARD", "amount": "20.00"}, {"type": "CARD", "amount": "52.00"}]
        self._control.post(f"checkouts/{target.checkout_id}/pay", {"tenders": tenders})
        self._say("the buyer pays there, 20.00 by gift card and 52.00 by card: two payments")

    def strays(self) -> None:
        """What comes from Wix and is no business of ours."""
        for kind in ("test_event", "unknown_event"):
            self._control.post("strays", {"kind": kind, "instanceId": str(self._id)})
        self._say("a test from the dashboard arrives, and an event of an unknown type: kept, not booked")

    # -- After the sale ----------------------------------------------------------------------------

    def receipt(self, payment_id: str) -> None:
        """She issues a receipt, which is a new revision of the payment."""
        self._services.wix.issue_receipt(self._id, payment_id)
        self._say("she issues a receipt for the weaving: the second revision arrives before the first")

    def refund(self, payment_id: str, amount: str) -> None:
        """A refund, which the order shows, and an event to which the app subscribed; the payment does not."""
        order_id = self._control.post(f"payments/{payment_id}/refund", {"amount": amount})["orderId"]
        refunds = self._services.wix.order_transactions(self._id, order_id).refunds
        shown = [str(part.amount.amount) for one in refunds for part in one.transactions if part.amount]
        self._say(
            f"she refunds one seat of the class: the order shows {', '.join(shown)}, an event tells of it, and the"
            " payment stays as it was"
        )

    def forget_buyer(self, payment_id: str) -> None:
        """A privacy request: the person goes, the money stays."""
        self._control.post(f"payments/{payment_id}/anonymize")
        self._say("the buyer of the class asks to be forgotten: the person goes, the money stays")

    def look_around(self) -> None:
        """She asks Wix for her links by their state, and by their words."""
        pages = self._services.wix.query_links(
            self._id, {"status": {"$in": ["PAID", "INACTIVE"]}}, pages_max=100
        )
        closed = sum(len(page) for page in pages)
        words = self._services.wix.search_links(self._id, "mugs", pages_max=100)
        self._say(
            f"she lists what takes no payments ({closed}), and searches for “mugs” ({sum(map(len, words))})"
        )

    # -- Wix ---------------------------------------------------------------------------------------

    def bad_day(self) -> None:
        """The next queries of the reconciliation fail, each in another way."""
        for fault in (
            {"kind": "status", "status": 429, "retryAfterSeconds": 1},
            {"kind": "status", "status": 503},
            {"kind": "truncated"},
            {"kind": "revoked_token"},
        ):
            self._control.post("faults", {**fault, "path": "query", "instanceId": str(self._id), "count": 1})
        self._say(
            "planted: the next queries meet 429 with Retry-After, 503, half an answer, and a dead token"
        )

    def mistake(self, link_id: UUID) -> None:
        """A true discrepancy: Wix's own total of the link is not the sum of its payments."""
        self._control.post("faults", {"kind": "wrong_total", "linkId": str(link_id), "by": "5.00"})
        self._say(f"planted: Wix shows 5.00 too much as received by “{self.told.titles[link_id]}”")


def _custom(name: str, price: str, quantity: int) -> wire.EcomPaymentLink:
    item = wire.CustomItem(name=name, quantity=quantity, price=str(Decimal(price)))
    return wire.EcomPaymentLink([wire.LineItem("CUSTOM", custom_item=item)])


def _new(title: str, currency: str, **kind: Any) -> wire.NewPaymentLink:
    type_ = "ECOM" if "ecom_payment_link" in kind else "ECOM_ORDER"
    return wire.NewPaymentLink(title=title, currency=currency, type=type_, **kind)
