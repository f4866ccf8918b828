"""Stories the pretend Wix can play, each a short TOML file in `scenarios/`.

A step names what is done (`do`), what it is done to, and how its result is called (`as`); a value such as
"@tea" stands for what an earlier step called that. Steps without `site` happen on the site the first one
installs, or on the first site there is.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from datetime import timedelta
from importlib import resources
from typing import TYPE_CHECKING, Any

from processor.sandbox.core import timestamp
from processor.sandbox.errors import Refused, not_found

if TYPE_CHECKING:
    from processor.sandbox.server import Sandbox

Step = dict[str, Any]


def names() -> list[str]:
    """Every scenario, by name."""
    files = (resources.files("processor.sandbox") / "scenarios").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read(name: str) -> dict[str, Any]:
    """A scenario: title, expect, step. Raises Refused (404)."""
    if name not in names():
        raise not_found("scenario", name)
    file = resources.files("processor.sandbox") / "scenarios" / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def play(sandbox: Sandbox, name: str) -> dict[str, Any]:
    """Play a scenario to its end: its title, what each step did, and what to expect. Raises Refused."""
    told = read(name)
    player = _Player(sandbox)
    return {
        "name": name,
        "title": told["title"],
        "steps": [player.play(step) for step in told["step"]],
        "expect": told["expect"],
        "instanceId": player.instance_id,
    }


class _Player:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._world = sandbox.world
        self._known: dict[str, Any] = {}
        installed = [one for one in sandbox.documents.all("instance") if not one["isRemoved"]]
        self.instance_id: str = installed[0]["instanceId"] if installed else ""

    def play(self, step: Step) -> str:
        """Do one step. Returns it in words."""
        given = {name: self._meant(value) for name, value in step.items() if name not in ("do", "as")}
        action: Callable[..., Any] = getattr(self, f"_do_{step['do']}")
        if not self.instance_id and step["do"] != "install":
            self.instance_id = self._world.install({})["instanceId"]
        wanted = step.get("refused")
        given.pop("refused", None)
        try:
            result = action(**given)
        except Refused as why:
            code = why.body.get("details", {}).get("applicationError", {}).get("code")
            if wanted != code:
                raise
            return f"{step['do']}: refused with {code}, as it should be"
        if wanted is not None:
            raise AssertionError(f"{step['do']} was to be refused with {wanted}")
        if "as" in step:
            self._known[step["as"]] = result
        about = f" {result}" if isinstance(result, str) else ""
        return f"{step['do']}{about}" + (f" (called {step['as']})" if "as" in step else "")

    def _meant(self, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            return self._known[value[1:]]
        return value

    # Each returns the id of what it made, where there is one.

    def _do_install(self) -> str:
        self.instance_id = self._world.install({})["instanceId"]
        return self.instance_id

    def _do_remove_app(self) -> None:
        self._world.remove(self.instance_id)

    def _do_order(self, total: str, currency: str = "USD") -> str:
        order = self._world.add_order(self.instance_id, {"total": total, "currency": currency})
        return str(order["id"])

    def _do_link(
        self,
        title: str,
        currency: str = "USD",
        price: str | None = None,
        order: str | None = None,
        limit: int | None = None,
        valid_seconds: float | None = None,
    ) -> str:
        link: dict[str, Any] = {"title": title, "currency": currency}
        if order is not None:
            amount = {"amount": price} if price is not None else {}
            link |= {"type": "ECOM_ORDER", "ecomOrderPaymentLink": {"orderId": order, **amount}}
        else:
            item = {"type": "CUSTOM", "customItem": {"name": title, "quantity": 1, "price": price}}
            link |= {"type": "ECOM", "ecomPaymentLink": {"lineItems": [item]}}
        if limit is not None:
            link["paymentsLimit"] = limit
        if valid_seconds is not None:
            link["expirationDate"] = timestamp(self._sandbox.now() + timedelta(seconds=valid_seconds))
        return str(self._world.create_link(self.instance_id, {"paymentLink": link})["id"])

    def _do_pay(self, link: str, tenders: list[Any] | None = None, declined: bool = False) -> str | None:
        paid = self._world.pay_link(link, {"tenders": tenders, "isDeclined": declined})
        return str(paid[0]["id"]) if paid else None

    def _do_initiate(self, link: str) -> str | None:
        checkout = self._world.initiate(self.instance_id, link).get("ecomCheckout")
        return str(checkout["checkoutId"]) if checkout else None

    def _do_pay_checkout(self, checkout: str) -> str:
        return str(self._world.pay_checkout(checkout, {})[0]["id"])

    def _do_receipt(self, payment: str) -> str:
        self._world.issue_receipt(self.instance_id, payment)
        # What the call answers with is an assumption.
        return str(self._world.payment(payment)["entity"]["receiptId"])

    def _do_refund(self, payment: str, amount: str | None = None) -> None:
        self._world.refund(payment, {"amount": amount})

    def _do_anonymize(self, payment: str) -> None:
        self._world.anonymize(payment)

    def _do_expire(self, link: str) -> None:
        self._world.expire(link)

    def _do_deactivate(self, link: str) -> None:
        self._world.set_active(self.instance_id, link, is_active=False)

    def _do_activate(self, link: str) -> None:
        self._world.set_active(self.instance_id, link, is_active=True)

    def _do_send(self, link: str) -> None:
        contacts = self._world.shown(self._world.instance(self.instance_id))["contactIds"]
        recipients = [{"contactId": one, "sendMethods": ["EMAIL_METHOD"]} for one in contacts]
        self._world.send_link(self.instance_id, link, {"recipients": recipients})

    def _do_delete(self, link: str) -> None:
        self._world.delete_link(self.instance_id, link)

    def _do_fault(self, kind: str, **parameters: Any) -> str:
        return str(self._sandbox.faults.add({"kind": kind, **parameters})["id"])

    def _do_heal(self, fault: str | None = None) -> None:
        self._sandbox.faults.remove(fault)

    def _do_stray(self, kind: str) -> str:
        return self._sandbox.send_stray(kind, self.instance_id)
