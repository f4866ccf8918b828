"""The REST API of the pretend Wix: what Wix documents for payment links, and its sign-in.

Everything else is answered 404. Paths, wrappers and errors: `docs/wix.md`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response, g, jsonify, request

from processor.sandbox import query
from processor.sandbox.core import as_object, as_part
from processor.sandbox.documents import Document, Documents
from processor.sandbox.errors import Refused, Violation, failed, invalid, plain, system
from processor.sandbox.faults import Faults
from processor.sandbox.world import World
from processor.wix.wire import PATH_LINKS, PATH_PAYMENTS, PATH_TOKEN, NotJson, decode_json

TOKEN_SECONDS = 14_400
CONTACTS_MAX = 1_000  # a page of Query Contacts
ORDERS_MAX = 100  # a page of Search Orders
PRODUCTS_MAX = 100  # a page of Query Products
DRIPS = 20
_WHOLE_FLOATS = 2.0**53  # beyond, a float does not know its last digit


class RateLimit:
    """Calls of each instance within the last minute (Wix docs, "Rate Limits"), and the most there ever were."""

    def __init__(self, calls_per_minute: int, seconds: float, *, tells_wait: bool = False) -> None:
        """tells_wait: whether a refusal has a `Retry-After`."""
        self._tells_wait = tells_wait
        self._calls_max = calls_per_minute
        self._seconds = seconds
        self._lock = threading.Lock()
        self._calls: dict[str, deque[float]] = defaultdict(deque)
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)

    def take(self, instance_id: str) -> None:
        """Count one call. Raises Refused (429)."""
        now = time.monotonic()
        with self._lock:
            calls, counts = self._calls[instance_id], self._counts[instance_id]
            while calls and calls[0] <= now - self._seconds:
                calls.popleft()
            if len(calls) >= self._calls_max:
                counts["refused"] += 1
                wait = max(1, math.ceil(calls[0] + self._seconds - now))
                raise plain(
                    429, "too many requests", {"Retry-After": str(wait)} if self._tells_wait else None
                )
            calls.append(now)
            counts["answered"] += 1
            counts["peak"] = max(counts["peak"], len(calls))

    def seen(self) -> list[Document]:
        """By instance: calls answered and refused since the start, and the most within one minute."""
        with self._lock:
            return [
                {
                    "instanceId": instance_id,
                    "answered": counts["answered"],
                    "refused": counts["refused"],
                    "peak": counts["peak"],
                }
                for instance_id, counts in self._counts.items()
            ]


def body_json() -> Any:
    """The request's JSON. Raises Refused (400)."""
    try:
        return _with_whole_numbers(decode_json(request.get_data() or b"{}"))
    except NotJson:
        raise invalid(Violation("body", "must be JSON", "FORMAT")) from None
    except RecursionError:
        raise invalid(Violation("body", "is nested too deeply")) from None


def _with_whole_numbers(value: Any) -> Any:
    """1.0 is 1 in JSON, and some clients write it so."""
    match value:
        case float() if value.is_integer() and abs(value) < _WHOLE_FLOATS:
            return int(value)
        case list():
            return [_with_whole_numbers(one) for one in value]
        case dict():
            return {name: _with_whole_numbers(one) for name, one in value.items()}
        case _:
            return value


def blueprint(
    documents: Documents, world: World, faults: Faults, limit: RateLimit, stopping: threading.Event
) -> Blueprint:
    """Wix's paths."""
    routes = Blueprint("api", __name__)

    @routes.before_request
    def sign_in() -> None:
        g.fault = None
        about: dict[str, str | None] = {"path": request.path}
        token = None
        spared = {"revoked_token", "expired_cursor"}
        if not request.path.startswith("/oauth2/"):
            instance, token = _signed_in(documents)
            g.instance_id = about["instanceId"] = instance["instanceId"]
            limit.take(g.instance_id)
            if token is not None:
                spared.discard("revoked_token")
            if request.path.endswith(("/query", "/search")) and query.has_cursor(body_json()):
                spared.discard("expired_cursor")
        g.fault = faults.strike("call", about, but=spared)
        match g.fault:
            case {"kind": "status", "status": status}:
                headers = {}
                if (seconds := g.fault.get("retryAfterSeconds")) is not None:
                    headers["Retry-After"] = f"{seconds:f}".rstrip("0").rstrip(".")
                raise system(status, headers) if status >= 500 else plain(status, "planted fault", headers)
            case {"kind": "revoked_token"}:
                assert token is not None
                documents.remove("token", token)
                raise plain(401, "the token is no longer good")
            case {"kind": "expired_cursor"}:
                raise invalid(
                    Violation("cursorPaging.cursor", "is no longer known", "SANDBOX_CURSOR_EXPIRED")
                )

    @routes.after_request
    def spoil(answer: Response) -> Response:
        answer.headers["x-wix-request-id"] = str(uuid4())
        fault = g.get("fault")
        if fault is None or fault["kind"] not in ("hang", "slow", "truncated"):
            return answer
        if fault["kind"] == "hang":
            stopping.wait(fault["seconds"])
            return answer
        content = answer.get_data()
        if fault["kind"] == "truncated":
            answer.headers["Connection"] = "close"
            answer.response = [content[: len(content) // 2]]
            answer.headers["Content-Length"] = str(len(content))
            return answer
        answer.response = _dripping(content, fault["seconds"], stopping)
        return answer

    @routes.post(PATH_TOKEN)
    def create_token() -> Response:
        """OAuth 2 client credentials, for one instance."""
        try:
            asked = decode_json(request.get_data())
        except NotJson:
            asked = None
        if not isinstance(asked, dict):
            raise _oauth(400, "invalid_request", "the body must be a JSON object")
        app = documents.get("app", "app") or {}
        if asked.get("grant_type") != "client_credentials":
            raise _oauth(400, "unsupported_grant_type", "only client_credentials")
        if asked.get("client_id") != app.get("appId") or asked.get("client_secret") != app.get("appSecret"):
            raise _oauth(401, "invalid_client", "unknown app or wrong secret")
        instance = documents.get("instance", str(asked.get("instance_id")))
        if instance is None or instance["isRemoved"]:
            raise _oauth(400, "invalid_grant", "the app is not installed on that instance")
        token = f"OauthNG.JWS.{uuid4().hex}{uuid4().hex}"
        held = {
            "id": token,
            "instanceId": instance["instanceId"],
            "expires": time.time() + TOKEN_SECONDS,
        }
        documents.put("token", token, held)
        return jsonify({"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_SECONDS})

    @routes.post("/oauth2/token-info")
    def token_info() -> Response:
        """Facts of a token."""
        asked = as_object(body_json(), "").get("token")
        if not isinstance(asked, str):
            raise invalid(Violation("token", "must be text", "REQUIRED_FIELD"))
        token = documents.get("token", asked)
        if token is None or token["expires"] <= time.time():
            return jsonify(active=False)
        app = documents.get("app", "app") or {}
        return jsonify(
            active=True,
            clientId=app.get("appId"),
            instanceId=token["instanceId"],
            exp=int(token["expires"]),
        )

    # -- Payment links -----------------------------------------------------------------------------

    @routes.post(PATH_LINKS)
    def create_link() -> Response:
        """Create Payment Link."""
        return jsonify(paymentLink=world.create_link(g.instance_id, body_json()))

    @routes.post(f"{PATH_LINKS}/query")
    def query_links() -> Response:
        """Query Payment Links."""
        return _paged("paymentLinks", world.links_page(g.instance_id, body_json()))

    @routes.post(f"{PATH_LINKS}/search")
    def search_links() -> Response:
        """Search Payment Links."""
        return _paged("paymentLinks", world.links_page(g.instance_id, body_json(), is_search=True))

    @routes.get(f"{PATH_LINKS}/<link_id>")
    def get_link(link_id: str) -> Response:
        """Get Payment Link."""
        return jsonify(paymentLink=world.link_answer(world.link(g.instance_id, link_id)))

    @routes.delete(f"{PATH_LINKS}/<link_id>")
    def delete_link(link_id: str) -> Response:
        """Delete Payment Link."""
        world.delete_link(g.instance_id, link_id)
        return jsonify({})

    @routes.post(f"{PATH_LINKS}/<link_id>/activate")
    def activate(link_id: str) -> Response:
        """Activate Payment Link."""
        return jsonify(paymentLink=world.set_active(g.instance_id, link_id, is_active=True))

    @routes.post(f"{PATH_LINKS}/<link_id>/deactivate")
    def deactivate(link_id: str) -> Response:
        """Deactivate Payment Link."""
        return jsonify(paymentLink=world.set_active(g.instance_id, link_id, is_active=False))

    @routes.post(f"{PATH_LINKS}/<link_id>/set-note")
    def set_note(link_id: str) -> Response:
        """Set Payment Link Note."""
        return jsonify(paymentLink=world.set_note(g.instance_id, link_id, body_json()))

    @routes.post(f"{PATH_LINKS}/<link_id>/send")
    def send(link_id: str) -> Response:
        """Send Payment Link."""
        world.send_link(g.instance_id, link_id, body_json())
        return jsonify({})

    @routes.post(f"{PATH_LINKS}/<link_id>/initiate-payment")
    def initiate(link_id: str) -> Response:
        """Initiate Payment."""
        return jsonify(world.initiate(g.instance_id, link_id))

    @routes.post(f"{PATH_LINKS}/<link_id>/update-extended-fields")
    def update_extended_fields(link_id: str) -> Response:
        """Update Extended Fields."""
        return jsonify(paymentLink=world.update_extended_fields(g.instance_id, link_id, body_json()))

    @routes.post(f"{PATH_LINKS}/bulk-update-tags")
    def update_tags() -> Response:
        """Bulk Update Payment Link Tags."""
        return jsonify(world.update_tags(g.instance_id, body_json()))

    @routes.post("/payment-links/v1/bulk/payment-links/update-tags-by-filter")
    def update_tags_by_filter() -> Response:
        """Bulk Update Payment Link Tags By Filter; an empty filter means all links."""
        asked = as_object(body_json(), "")
        link_ids = world.link_ids(g.instance_id, as_part(asked.get("filter"), "filter"))
        return jsonify(world.update_tags_of(g.instance_id, link_ids, asked))

    # -- Payments, receipts, settings --------------------------------------------------------------

    @routes.post(f"{PATH_PAYMENTS}/query")
    def query_payments() -> Response:
        """Query Payment Link Payments."""
        return _paged("paymentLinkPayments", world.payments_page(g.instance_id, body_json()))

    @routes.post(f"{PATH_PAYMENTS}/search")
    def search_payments() -> Response:
        """Search Payment Link Payments."""
        page = world.payments_page(g.instance_id, body_json(), is_search=True)
        return _paged("paymentLinkPayments", page)

    @routes.post(f"{PATH_PAYMENTS}/<payment_id>/issue-receipt")
    def issue_receipt(payment_id: str) -> Response:
        """Issue Receipt."""
        return jsonify(world.issue_receipt(g.instance_id, payment_id))

    @routes.get("/receipts/v1/receipts/<receipt_id>")
    def get_receipt(receipt_id: str) -> Response:
        """Get Receipt; its shape is not documented here."""
        return jsonify(receipt=_without_owner(world.owned("receipt", receipt_id, g.instance_id)))

    @routes.get("/payment-links/v1/payment-links-settings")
    def get_settings() -> Response:
        """Get Payment Links Settings; its fields are not documented here."""
        held = documents.get("settings", g.instance_id) or {"revision": "1"}
        return jsonify(paymentLinksSettings=held)

    @routes.patch("/payment-links/v1/payment-links-settings")
    def update_settings() -> Response:
        """Update Payment Links Settings: what is given replaces what was."""
        given = as_object(as_object(body_json(), "").get("paymentLinksSettings"), "paymentLinksSettings")
        with documents.transaction():
            held = documents.get("settings", g.instance_id) or {"revision": "1"}
            changed = {**held, **given, "revision": str(int(held["revision"]) + 1)}
            documents.put("settings", g.instance_id, changed)
        return jsonify(paymentLinksSettings=changed)

    # -- The neighbours that flows need ------------------------------------------------------------

    @routes.get("/contacts/v4/contacts/<contact_id>")
    def get_contact(contact_id: str) -> Response:
        """Get Contact (Contacts V4)."""
        return jsonify(contact=_contact(world.owned("contact", contact_id, g.instance_id)))

    @routes.post("/contacts/v4/contacts/query")
    def query_contacts() -> Response:
        """Query Contacts (Contacts V4), as far as paging goes."""
        offset, limit = _offset_paging(body_json(), CONTACTS_MAX)
        found, total = world.owned_by("contact", g.instance_id, offset, limit)
        paging = {"count": len(found), "offset": offset, "total": total}
        return jsonify(contacts=[_contact(one) for one in found], pagingMetadata=paging)

    @routes.get("/stores-reader/v1/products/<product_id>")
    def get_product(product_id: str) -> Response:
        """Get Product (Wix Stores, Catalog V1)."""
        return jsonify(product=_product(world.owned("product", product_id, g.instance_id)))

    @routes.post("/stores-reader/v1/products/query")
    def query_products() -> Response:
        """Query Products (Wix Stores, Catalog V1), as far as paging goes."""
        offset, limit = _offset_paging(body_json(), PRODUCTS_MAX)
        found, total = world.owned_by("product", g.instance_id, offset, limit)
        return jsonify(
            products=[_product(one) for one in found],
            metadata={"items": len(found), "offset": offset},
            totalResults=total,
        )

    @routes.get("/ecom/v1/orders/<order_id>")
    def get_order(order_id: str) -> Response:
        """Get Order (Wix eCommerce)."""
        return jsonify(order=world.order_answer(g.instance_id, order_id))

    @routes.post("/ecom/v1/orders/search")
    def search_orders() -> Response:
        """Search Orders (Wix eCommerce): the newest ones, as far as one page goes."""
        found = world.newest_orders(g.instance_id, _newest(body_json()))
        return jsonify(orders=found, metadata={"count": len(found), "hasNext": False, "cursors": {}})

    @routes.get("/ecom/v1/payments/orders/<order_id>")
    def order_transactions(order_id: str) -> Response:
        """List Transactions For Single Order (Wix eCommerce)."""
        return jsonify(orderTransactions=world.transactions(g.instance_id, order_id))

    return routes


def _paged(name: str, page: query.Page) -> Response:
    answer: Document = {name: page.items, "pagingMetadata": page.metadata}
    if page.aggregations is not None:
        answer["aggregationData"] = {"results": page.aggregations}
    return jsonify(answer)


def _offset_paging(asked: Any, most: int) -> tuple[int, int]:
    """Offset and limit of a query that pages by them; a filter is refused rather than ignored."""
    wanted = as_part(as_object(asked, "").get("query"), "query")
    if wanted.get("filter") not in (None, {}, "", "{}"):
        raise invalid(Violation("query.filter", "is not imitated by the sandbox"))
    paging = as_part(wanted.get("paging"), "query.paging")
    found = []
    for name, least, largest, usual in (("offset", 0, 1_000_000, 0), ("limit", 1, most, most)):
        value = paging.get(name, usual)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
            raise invalid(Violation(f"query.paging.{name}", f"must be from {least} to {largest}", "MAX"))
        found.append(value)
    return found[0], found[1]


def _newest(asked: Any) -> int:
    """How many are asked for by a search that has neither words nor filter: others are refused, not ignored."""
    wanted = as_part(as_object(asked, "").get("search"), "search")
    if wanted.get("sort") not in (None, [], [{"fieldName": "createdDate", "order": "DESC"}]):
        raise invalid(Violation("search.sort", "is imitated by the sandbox for createdDate, DESC alone"))
    if wanted.get("filter") not in (None, {}) or wanted.get("search") not in (None, {}):
        raise invalid(Violation("search.filter", "is not imitated by the sandbox"))
    value = as_part(wanted.get("cursorPaging"), "search.cursorPaging").get("limit", ORDERS_MAX)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= ORDERS_MAX:
        raise invalid(Violation("search.cursorPaging.limit", f"must be from 1 to {ORDERS_MAX}", "MAX"))
    return value


def _contact(contact: Document) -> Document:
    first, _, last = contact["name"].partition(" ")
    return {
        "id": contact["id"],
        "revision": 1,
        "primaryInfo": {"email": contact["email"]},
        "info": {
            "name": {"first": first, "last": last},
            "emails": {"items": [{"email": contact["email"], "primary": True}]},
        },
    }


def _product(product: Document) -> Document:
    price = {"currency": product["currency"], "price": float(product["price"])}
    return {"id": product["id"], "name": product["name"], "visible": True, "priceData": price}


def _without_owner(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "instanceId"}


def _signed_in(documents: Documents) -> tuple[Document, str | None]:
    """The instance that a call speaks for, and its token, None with an API key. Raises Refused (401, 403)."""
    held = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    if not held:
        raise plain(401, "no Authorization header")
    token = documents.get("token", held)
    if token is not None:
        if token["expires"] <= time.time():
            raise plain(401, "the token has expired")
        return _allowed(documents.get("instance", token["instanceId"])), held
    found = documents.find("instance", {"api_key": held})
    if not found:
        raise plain(401, "neither a token nor an API key of ours")
    if "wix-account-id" in request.headers:
        raise failed(403, "SANDBOX_SITE_LEVEL_ONLY", "payment links need wix-site-id alone")
    if request.headers.get("wix-site-id") != found[0]["siteId"]:
        raise failed(403, "SANDBOX_WRONG_SITE", "wix-site-id is not the site of this key")
    return _allowed(found[0]), None


def _allowed(instance: Document | None) -> Document:
    if instance is None or instance["isRemoved"]:
        raise failed(403, "SANDBOX_APP_NOT_INSTALLED", "the app was removed from the site")
    if not instance["hasPermission"]:
        raise failed(403, "SANDBOX_PERMISSION_MISSING", "the app lacks Manage Paylinks")
    return instance


def _oauth(status: int, error: str, description: str) -> Refused:
    return Refused(status, {"error": error, "error_description": description})


def _dripping(content: bytes, seconds: float, stopping: threading.Event) -> Iterator[bytes]:
    size = max(1, len(content) // DRIPS)
    for start in range(0, len(content), size):
        stopping.wait(seconds / DRIPS)
        yield content[start : start + size]
