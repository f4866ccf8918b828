"""Typed models of what travels between Wix and us, and the names Wix gives to things.

Every name here is Wix's own (docs of the Payment Links APIs, read 2026-11; `docs/wix.md` marks what is
confirmed, inferred or unknown). All payment-link pages carry a developer-preview notice, so reading is
lenient: unknown fields are allowed, and what a buyer may leave out is optional. Pure: no I/O, no clock.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

# -- Names -----------------------------------------------------------------------------------------

PAYMENT_FQDN = "wix.paymentlinks.payments.v1.payment_link_payment"
PAYMENT_CREATED = f"{PAYMENT_FQDN}_created"  # inferred from the confirmed sibling
PAYMENT_UPDATED = f"{PAYMENT_FQDN}_updated"
# The FQDN of payment LINK events is unknown; they are matched by the last segment of the event type.
LINK_FQDN_GUESS = "wix.paymentlinks.v1.payment_link"
LINK_EVENT_PREFIX = "payment_link_"
PAYMENT_EVENT_PREFIX = "payment_link_payment_"
# An event about a LINK whose name would otherwise read as one about a payment.
LINK_PAYMENT_INITIATED = "payment_link_payment_initiated"
APP_INSTALLED = "AppInstalled"
APP_REMOVED = "AppRemoved"

WIX_STORES_APP_ID = "215238eb-22a5-4c36-9e7b-e7c08025e04e"

PATH_TOKEN = "/oauth2/token"
PATH_LINKS = "/payment-links/v1/payment-links"
PATH_PAYMENTS = "/payment-links/v1/payment-link-payments"

PATH_TAGS_BY_FILTER = "/payment-links/v1/bulk/payment-links/update-tags-by-filter"
PATH_SETTINGS = "/payment-links/v1/payment-links-settings"
PATH_RECEIPTS = "/receipts/v1/receipts"
PATH_CONTACTS = "/contacts/v4/contacts"
PATH_PRODUCTS = "/stores-reader/v1/products"
PATH_ORDERS = "/ecom/v1/orders"
PATH_ORDER_PAYMENTS = "/ecom/v1/payments/orders"
SETTINGS = "paymentLinksSettings"

PAGE_MAX = 100  # "Query Payment Link Payments": at most 100 items a page

# -- JSON ------------------------------------------------------------------------------------------


class NotJson(ValueError):
    """The text is not a JSON document; the message says why, never with the text itself."""


def _refuse_constant(name: str) -> Any:
    raise NotJson(f"{name} is not JSON")


def _mend(value: Any) -> Any:
    """`value` with lone surrogates replaced by U+FFFD, so that it can be encoded and stored."""
    match value:
        case str():
            return (
                value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                if not value.isascii()
                else value
            )
        case list():
            return [_mend(item) for item in value]
        case dict():
            return {_mend(key): _mend(item) for key, item in value.items()}
        case _:
            return value


def decode_json(text: str | bytes) -> Any:
    """`text` as Python values. Raises NotJson.

    A lone surrogate escape (`"\\ud800"`) is refused by the fast decoder, yet a buyer's name may hold
    one: such text is read again by the standard library and the surrogate becomes U+FFFD, since one
    odd name must not cost a payment. NaN, infinities and nesting beyond the interpreter's limit are
    refused.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return _mend(json.loads(text, parse_constant=_refuse_constant))
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except UnicodeDecodeError:
        raise NotJson("not UTF-8") from None
    except ValueError as why:
        raise NotJson(why.msg if isinstance(why, json.JSONDecodeError) else str(why)) from None


Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # as Wix has them, and our columns


# -- Webhook delivery ------------------------------------------------------------------------------


class AccountInfo(Struct, rename="camel"):
    """`accountInfo` of the envelope: an object, not a string."""

    account_id: str | None = None
    parent_account_id: str | None = None
    site_id: str | None = None


class Envelope(Struct, rename="camel"):
    """Level 3: `claims.data` parsed. `data` and `identity` are strings holding JSON."""

    event_type: str
    data: str
    instance_id: str | None = None
    identity: str | None = None
    account_info: AccountInfo | None = None


class DomainEvent(Struct, rename="camel"):
    """Level 4: `envelope.data` parsed, for events about an entity. `id` is the key for duplicates."""

    id: str
    entity_fqdn: str | None = None
    slug: str | None = None
    entity_id: str | None = None
    event_time: str | None = None
    triggered_by_anonymize_request: bool | None = None
    originated_from: str | None = None
    entity_event_sequence: str | int | None = None
    created_event: dict[str, Any] | None = None
    updated_event: dict[str, Any] | None = None
    deleted_event: dict[str, Any] | None = None
    action_event: dict[str, Any] | None = None


class Refund(Struct, rename="camel"):
    """A refund of Wix Payments. amount: decimal text with up to eight decimals."""

    id: str
    charge_id: str | None = None
    amount: str | None = None
    currency_code: str | None = None
    status: str | None = None


class AppEvent(Struct, rename="camel"):
    """Level 4 of AppInstalled and AppRemoved: flat, with no event id."""

    app_id: str | None = None
    origin_instance_id: str | None = None


# -- Payments --------------------------------------------------------------------------------------

Instant = Annotated[datetime, Meta(tz=True)]
"""RFC 3339 with an offset; Wix sends UTC with milliseconds and `Z`."""


def instant_text(moment: datetime) -> str:
    """An aware time as Wix writes it: UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class EcomOrderRef(Struct, rename="camel"):
    ecom_order_id: str | None = None


class OrderRef(Struct, rename="camel"):
    type: str | None = None
    ecom_order: EcomOrderRef | None = None


class RegularPayment(Struct, rename="camel"):
    """`regularPaymentLinkPayment`: any method except Wix eCommerce gift cards. The last three are personal."""

    method: str | None = None
    payment_method: str | None = None
    payment_provider: str | None = None
    order: OrderRef | None = None
    contact_details: dict[str, Any] | None = None
    billing_address: dict[str, Any] | None = None
    credit_card_payment_method_data: dict[str, Any] | None = None


class EcomCheckoutRef(Struct, rename="camel"):
    ecom_checkout_id: str | None = None


class PaymentLinkPayment(Struct, rename="camel"):
    """The payment link payment object. `revision` is an int64 as a string, `amount` a decimal string."""

    id: str
    revision: str | int
    amount: str
    payment_link_id: str
    currency: str | None = None
    currency_code: str | None = None
    created_date: Instant | None = None
    transaction_date: Instant | None = None
    receipt_id: str | None = None
    type: str | None = None
    regular_payment_link_payment: RegularPayment | None = None
    gift_card_payment_link_payment: dict[str, Any] | None = None
    ecom_checkout: EcomCheckoutRef | None = None
    ecom_order: EcomOrderRef | None = None
    extended_fields: dict[str, Any] | None = None


# -- Payment links ---------------------------------------------------------------------------------


class CatalogReference(Struct, rename="camel", omit_defaults=True):
    app_id: str
    catalog_item_id: str
    options: dict[str, Any] | None = None


class CatalogItem(Struct, rename="camel", omit_defaults=True):
    catalog_reference: CatalogReference
    quantity: int


class CustomItem(Struct, rename="camel", omit_defaults=True):
    """`price` is a decimal string in main units of the link's currency."""

    name: str
    quantity: int
    price: str
    description: str | None = None


class LineItem(Struct, rename="camel", omit_defaults=True):
    """`type` is CUSTOM or CATALOG, and says which of the two is present."""

    type: str
    custom_item: CustomItem | None = None
    catalog_item: CatalogItem | None = None


class EcomPaymentLink(Struct, rename="camel", omit_defaults=True):
    line_items: list[LineItem]


class EcomOrderPaymentLink(Struct, rename="camel", omit_defaults=True):
    """`amount` is a decimal string; it may be less than the order's total (a deposit or a balance)."""

    order_id: str
    amount: str | None = None


class Recipient(Struct, rename="camel", omit_defaults=True):
    contact_id: str
    send_methods: list[str] = []


class Note(Struct):
    text: str


class NewPaymentLink(Struct, rename="camel", omit_defaults=True):
    """What Create Payment Link takes. Exactly one sub-object, agreeing with `type`."""

    title: str
    currency: str
    type: str
    description: str | None = None
    ecom_payment_link: EcomPaymentLink | None = None
    ecom_order_payment_link: EcomOrderPaymentLink | None = None
    payments_limit: int | None = None
    expiration_date: datetime | None = None
    recipients: list[Recipient] | None = None


class TotalReceived(Struct, rename="camel"):
    payment_count: Int64 | None = None
    amount: str | None = None


class ShareUrl(Struct, rename="camel"):
    url: str | None = None


class ShareLinks(Struct, rename="camel"):
    url: ShareUrl | None = None


class Source(Struct, rename="camel"):
    """The app that made a link."""

    app_id: str | None = None


class PaymentLink(Struct, rename="camel"):
    """The payment link object as Wix returns it; money fields are decimal strings."""

    id: str
    revision: str | int | None = None
    created_date: Instant | None = None
    updated_date: Instant | None = None
    title: str | None = None
    description: str | None = None
    currency: str | None = None
    type: str | None = None
    status: str | None = None
    payments_limit: Int64 | None = None
    total_received: TotalReceived | None = None
    last_payment_date: Instant | None = None
    expiration_date: Instant | None = None
    links: ShareLinks | None = None
    recipients: list[Recipient] | None = None
    ecom_payment_link: dict[str, Any] | None = None
    ecom_order_payment_link: EcomOrderPaymentLink | None = None
    note: Note | None = None
    source: Source | None = None


class TagIds(Struct, rename="camel", omit_defaults=True):
    tag_ids: list[str] = []


class Tags(Struct, rename="camel", omit_defaults=True):
    """Ids of tags, in two lists: those of the app alone, and those of the site."""

    private_tags: TagIds | None = None
    tags: TagIds | None = None


class BulkError(Struct):
    code: str | None = None
    description: str | None = None


class ItemMetadata(Struct, rename="camel"):
    """`original_index`: place in the request, from 0."""

    id: str | None = None
    original_index: int | None = None
    success: bool | None = None
    error: BulkError | None = None


class BulkResult(Struct, rename="camel"):
    item_metadata: ItemMetadata


class BulkMetadata(Struct, rename="camel"):
    total_successes: int | None = None
    total_failures: int | None = None
    undetailed_failures: int | None = None


class BulkAnswer(Struct, rename="camel"):
    results: list[BulkResult] = []
    bulk_action_metadata: BulkMetadata | None = None


class JobAnswer(Struct, rename="camel"):
    job_id: str


# -- Initiate Payment ------------------------------------------------------------------------------


class EcomCheckoutTarget(Struct, rename="camel"):
    checkout_url: str
    checkout_id: str | None = None


class EcomOrderTarget(Struct, rename="camel"):
    order_url: str


class InitiatedPayment(Struct, rename="camel"):
    """Where to lead the buyer: `ecom_checkout` for ECOM links, `ecom_order` for ECOM_ORDER links."""

    ecom_checkout: EcomCheckoutTarget | None = None
    ecom_order: EcomOrderTarget | None = None


# -- Answers, paging, errors -----------------------------------------------------------------------


class Cursors(Struct, rename="camel"):
    next: str | None = None
    prev: str | None = None


class PagingMetadata(Struct, rename="camel"):
    count: int | None = None
    has_next: bool | None = None
    cursors: Cursors | None = None


class TokenAnswer(Struct):
    """`expires_in` is in seconds; documented as always 14,400."""

    access_token: str
    expires_in: float
    token_type: str = "Bearer"


# -- Neighbours: contacts, products, orders --------------------------------------------------------
#
# Only what our flows read. Sources: Wix's reference of Contacts V4, Stores Catalog V1 and eCommerce Orders.


class ContactName(Struct):
    first: str | None = None
    last: str | None = None


class ContactInfo(Struct):
    name: ContactName | None = None


class PrimaryInfo(Struct):
    email: str | None = None
    phone: str | None = None


class Contact(Struct, rename="camel"):
    """Personal."""

    id: str
    info: ContactInfo | None = None
    primary_info: PrimaryInfo | None = None


class ContactAnswer(Struct):
    contact: Contact


class ContactsPage(Struct):
    contacts: list[Contact] = []


class PriceData(Struct):
    """`price` is a JSON number at Wix; it is shown, never summed."""

    currency: str | None = None
    price: float | None = None


class Product(Struct, rename="camel"):
    id: str
    name: str | None = None
    price_data: PriceData | None = None


class ProductAnswer(Struct):
    product: Product


class ProductsPage(Struct):
    products: list[Product] = []


class Price(Struct):
    """`amount` is a decimal string in main units."""

    amount: str | None = None


class PriceSummary(Struct):
    total: Price | None = None


class BalanceSummary(Struct):
    balance: Price | None = None
    paid: Price | None = None
    refunded: Price | None = None


class OrderContact(Struct, rename="camel"):
    """Personal."""

    first_name: str | None = None
    last_name: str | None = None


class BillingInfo(Struct, rename="camel"):
    contact_details: OrderContact | None = None


class BuyerInfo(Struct):
    """Personal."""

    email: str | None = None


class Order(Struct, rename="camel"):
    """`payment_status`: NOT_PAID, UNPAID, PAID, PARTIALLY_PAID, PARTIALLY_REFUNDED, FULLY_REFUNDED and others.

    `number`: what people call it by. Who bought it is personal.
    """

    id: str
    # Wix writes it as text; programs of others read it as a number too.
    number: str | int | None = None
    created_date: Instant | None = None
    buyer_info: BuyerInfo | None = None
    billing_info: BillingInfo | None = None
    currency: str | None = None
    payment_status: str | None = None
    price_summary: PriceSummary | None = None
    balance_summary: BalanceSummary | None = None


class OrderAnswer(Struct):
    order: Order


class OrdersPage(Struct):
    orders: list[Order]


class RegularPaymentDetails(Struct, rename="camel"):
    gateway_transaction_id: str | None = None
    payment_method: str | None = None
    status: str | None = None
    offline_payment: bool | None = None


class GiftcardPaymentDetails(Struct, rename="camel"):
    gift_card_payment_id: str | None = None
    voided: bool | None = None


class OrderPayment(Struct, rename="camel"):
    """One of the two details is there, as the payment was made."""

    payment_id: str | None = None
    id: str | None = None
    created_date: Instant | None = None
    amount: Price | None = None
    regular_payment_details: RegularPaymentDetails | None = None
    giftcard_payment_details: GiftcardPaymentDetails | None = None


class RefundTransaction(Struct, rename="camel"):
    """`refund_status`: PENDING, SUCCEEDED, FAILED, SCHEDULED or STARTED."""

    payment_id: str | None = None
    amount: Price | None = None
    refund_status: str | None = None


class OrderRefund(Struct, rename="camel"):
    id: str | None = None
    created_date: Instant | None = None
    transactions: list[RefundTransaction] = []


class OrderTransactions(Struct, rename="camel"):
    order_id: str | None = None
    payments: list[OrderPayment] = []
    refunds: list[OrderRefund] = []


class OrderTransactionsAnswer(Struct, rename="camel"):
    order_transactions: OrderTransactions
