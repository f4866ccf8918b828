"""The sandbox is as its OpenAPI document says, and the document is as the sandbox is."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import jsonschema_rs
import msgspec
import pytest
import requests
import schemathesis
from click.testing import CliRunner
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.openapi.checks import AllowHeaderMismatch, UnsupportedMethodResponse
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.specs.openapi.checks import ignored_auth
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from processor.sandbox import openapi
from processor.sandbox.cli import sandbox
from processor.sandbox.core import CHOICES, Rules
from processor.sandbox.server import BODY_BYTES_MAX
from processor.wix import wire
from tests.sandbox.wixlike import LINKS, PAYMENTS, Site, a_site

ROOT = Path(__file__).parents[2]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DOCUMENT = openapi.document()


def resolved(node: Any) -> Any:
    """A part of the document, references replaced by what they mean. For answers: they do not refer to themselves."""
    if isinstance(node, list):
        return [resolved(one) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        _, _, kind, name = node["$ref"].split("/")
        return resolved(DOCUMENT["components"][kind][name])
    return {name: resolved(value) for name, value in node.items()}


def closed(schema: Any) -> Any:
    """A schema that takes no member it does not name, so that a test sees what the document forgot."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if isinstance(found.get("properties"), dict) and "additionalProperties" not in found:
        # Of an error with codes, the part that names the codes says nothing of the rest.
        found["unevaluatedProperties"] = False
    return found


def _thin(schemas: dict[str, Any]) -> None:
    """Take out what makes thousands of cases: fields and aggregations like others, filters within filters.

    Every field with every operator is tried below, and test_query.py nests deeply.
    """
    empty = {"type": ["object", "null"], "maxProperties": 0}
    inner = {"type": "object", "maxProperties": 0}
    for name, kept, aggregations in (
        ("Link", ("paymentsLimit",), ("VALUE", "RANGE")),
        ("Payment", ("createdDate", "paymentLinkId"), ("SCALAR", "DATE_HISTOGRAM")),
    ):
        schemas[f"{name}Aggregation"]["oneOf"] = [
            one for one in schemas[f"{name}Aggregation"]["oneOf"] if one["title"] in aggregations
        ]
        filters = schemas[f"{name}Filter"]["properties"]
        several = {**filters["$and"], "items": inner}
        schemas[f"{name}Filter"]["properties"] = {
            **{path: filters[path] for path in kept},
            "$not": inner,
            "$and": several,
            "$or": several,
        }
        for page in schemas[f"{name}Search"]["anyOf"]:
            page["properties"]["filter"] = empty


def strict() -> dict[str, Any]:
    """The document with closed answers."""
    document = copy.deepcopy(DOCUMENT)
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                found = resolved(response)
                if status == "200":
                    content = found["content"]["application/json"]
                    content["schema"] = closed(content["schema"])
                operation["responses"][status] = found
    _thin(document["components"]["schemas"])
    return document


CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "checks": {
            # An id that is nobody's and a link in the wrong state are valid requests, refused for what there is.
            "positive_data_acceptance": {"expected-statuses": ["2xx", "401", "403", "404", "428"]},
        },
    }
)


def counts(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure counts. GET and DELETE of `…/query` speak of a link whose id is `query`: 404, not 405."""
    is_about_methods = isinstance(failure, AllowHeaderMismatch | UnsupportedMethodResponse)
    return not (is_about_methods and case.path.endswith(("/query", "/search", "/bulk-update-tags")))


API = schemathesis.openapi.from_dict(strict(), config=CONFIG)
API.hook("filter_failure")(counts)
load_all_checks()


class World:
    """A site on which everything happened once, and the ids that requests can be filled with."""

    def __init__(self, site: Site, session: requests.Session) -> None:
        self.site, self.session = site, session
        self.number = count()
        split = [{"type": "GIFT_CARD", "amount": "1.00"}, {"type": "CARD", "amount": "20.00"}]
        gift, card = site.pay(site.link()["id"], tenders=split)
        site.control(f"payments/{card['id']}/refund", {"amount": "5.00"})
        payments = [self.new_payment() for _ in range(4)]
        truth = site.control("truth", method="GET")["instances"][0]
        self.ids: dict[str, list[str]] = {
            "paymentLinkId": [*(site.link(title="tea")["id"] for _ in range(3)), truth["links"][0]["id"]],
            "paymentLinkPaymentId": payments,
            "receiptId": [site.post(f"{PAYMENTS}/{gift['id']}/issue-receipt")["receiptId"]],
            "contactId": site.instance["contactIds"],
            "productId": site.instance["productIds"],
            "orderId": [one["orderId"] for one in truth["payments"]],
        }
        app = site.control("app", method="GET")
        self.token_request = {
            "grant_type": "client_credentials",
            "client_id": app["appId"],
            "client_secret": app["appSecret"],
            "instance_id": site.instance["instanceId"],
        }
        self.cursors = {
            path: site.query(path, cursorPaging={"limit": 1})["pagingMetadata"]["cursors"]["next"]
            for path in (LINKS, PAYMENTS)
        }

    def new_payment(self) -> str:
        return str(self.site.pay(self.site.link()["id"])[0]["id"])

    def id_for(self, parameter: str, *, is_fresh: bool = False) -> str:
        """A real id for a parameter of a path. is_fresh: of something nobody has touched."""
        match parameter:
            case "paymentLinkId" if is_fresh:
                return str(self.site.link()["id"])
            case "paymentLinkPaymentId" if is_fresh:
                return self.new_payment()
        ids = self.ids[parameter]
        return ids[next(self.number) % len(ids)]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with a_site(calls_per_minute=1_000_000) as site, requests.Session() as session:
        session.trust_env = False
        yield World(site, session)


def make_true(case: Any, world: World) -> None:
    """Put into a valid request what no schema can say: ids of what is there (two times of three), a cursor that was
    answered, a date in the future, amounts that every currency has and a payment can be.
    """
    is_real = next(world.number) % 3 > 0
    if is_real and not case.meta.is_negative_at(ParameterLocation.PATH):
        for name in case.path_parameters:
            case.path_parameters[name] = world.id_for(name, is_fresh=case.method == "DELETE")
    if case.meta.is_negative_at(ParameterLocation.BODY):
        return
    if case.path.endswith("/send") and not (isinstance(case.body, dict) and case.body.get("recipients")):
        # Without, those of the link's creation are taken, and these links have none.
        case.body = {"recipients": [{"contactId": world.id_for("contactId")}]}
    if not isinstance(case.body, dict):
        return
    if is_real and case.path == wire.PATH_TOKEN:
        case.body = world.token_request
    if "paymentLinkId" in case.body:
        case.body["paymentLinkId"] = case.path_parameters["paymentLinkId"]
    if is_real and "paymentLinkIds" in case.body:
        case.body["paymentLinkIds"][0] = world.id_for("paymentLinkId")
    for path, cursor in world.cursors.items():
        asked: Any = case.body.get("query", case.body.get("search"))
        if case.path.startswith(f"{path}/") and isinstance(wire_value(asked, "cursorPaging", "cursor"), str):
            asked["cursorPaging"]["cursor"] = cursor
    link = case.body.get("paymentLink", {})
    for recipient in [*(link.get("recipients") or []), *(case.body.get("recipients") or [])]:
        if is_real:
            recipient["contactId"] = world.id_for("contactId")
    if link.get("expirationDate") is not None:
        link["expirationDate"] = "2099-01-01T00:00:00Z"
    for item in wire_value(link, "ecomPaymentLink", "lineItems") or []:
        if item.get("customItem"):
            # All of them together must not cost more than a payment can be.
            item["customItem"]["price"] = item["customItem"]["price"].partition(".")[0][:6]
    if (amount := wire_value(link, "ecomOrderPaymentLink", "amount")) is not None:
        link["ecomOrderPaymentLink"]["amount"] = amount.partition(".")[0]


def wire_value(body: Any, *names: str) -> Any:
    for name in names:
        body = body.get(name) if isinstance(body, dict) else None
    return body


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in operations()])
def test_whatever_is_asked_is_answered_as_described(world: World, method: str, path: str) -> None:
    @settings(max_examples=10, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        make_true(case, world)
        case.call_and_validate(
            base_url=world.site.sandbox.url,
            session=world.session,
            headers=world.site.headers,
            # It asks everything again without signing in; 401 is tried of every operation below.
            excluded_checks=[ignored_auth] if next(world.number) % 8 else [],
        )

    # As `API.parametrize` does, but not before the test runs: making the cases of every operation takes seconds,
    # which each process of a parallel run would spend.
    build_operation_test(
        config=API.config,
        operation=API[path][method],
        test_func=ask,
        given_kwargs={},
        feedback=FeedbackSources(),
    )()


# -- The document ----------------------------------------------------------------------------------


def test_the_document_is_openapi() -> None:
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)] == []
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid({**schema, "$schema": DIALECT}), name


def test_the_committed_file_is_what_is_built() -> None:
    assert (ROOT / "docs/sandbox.openapi.json").read_text() == openapi.text(), (
        "write it anew: processor sandbox openapi > docs/sandbox.openapi.json"
    )


def test_it_is_served_with_its_own_address_and_printed(world: World) -> None:
    served = world.site.http.get("/_sandbox/openapi.json")
    printed = CliRunner().invoke(sandbox, ["openapi"])

    assert served.headers["Content-Type"] == "application/json"
    assert served.text == openapi.text(world.site.sandbox.url)
    assert (printed.exit_code, printed.output) == (0, openapi.text())


def test_every_rule_is_described_and_nothing_else(world: World) -> None:
    rules = {
        (method, re.sub("<.*?>", "{}", rule.rule))
        for rule in world.site.sandbox.rules()
        for method in (rule.methods or set()) - {"HEAD"}
        if rule.endpoint.startswith("api.")
    }

    assert rules == {(method, re.sub("{.*?}", "{}", path)) for method, path, _ in operations()}


def test_every_operation_says_what_it_is_and_how_sure() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    for _, _, operation in operations():
        assert operation["summary"]
        assert operation["x-wix-method"]
        assert operation["x-wix-certainty"] in openapi.CERTAINTIES


def marks(node: Any) -> Iterator[Any]:
    if isinstance(node, list):
        for one in node:
            yield from marks(one)
    elif isinstance(node, dict):
        if "x-wix-certainty" in node:
            yield node["x-wix-certainty"]
        for one in node.values():
            yield from marks(one)


def test_every_mark_is_one_of_four() -> None:
    assert set(marks(DOCUMENT)) == set(openapi.CERTAINTIES)


def test_what_wix_does_not_name_is_marked_as_ours() -> None:
    for _, _, operation in operations():
        for response in operation["responses"].values():
            for code, told in resolved(response).get("x-wix-error-codes", {}).items():
                assert code.startswith("SANDBOX_") is (told["x-wix-certainty"] == "unknown")


@pytest.mark.parametrize(
    ("model", "schema"),
    [
        (wire.NewPaymentLink, "NewPaymentLink"),
        (wire.PaymentLink, "PaymentLink"),
        (wire.PaymentLinkPayment, "PaymentLinkPayment"),
        (wire.PagingMetadata, "PagingMetadata"),
        (wire.Contact, "Contact"),
        (wire.Product, "Product"),
        (wire.Order, "Order"),
        (wire.OrderTransactions, "OrderTransactions"),
    ],
)
def test_what_our_models_read_is_described(model: type, schema: str) -> None:
    read = {one.encode_name for one in msgspec.structs.fields(model)}

    assert read <= set(DOCUMENT["components"]["schemas"][schema]["properties"]) | {"extendedFields"}


def described(schema: Any, at: str = "") -> Iterator[str]:
    """The paths of every member that a schema names."""
    schema = resolved(schema)
    for name, inner in schema.get("properties", {}).items():
        yield f"{at}{name}"
        yield from described(inner, f"{at}{name}.")
    if "items" in schema:
        yield from described(schema["items"], at)


def occurring(value: Any, at: str = "") -> Iterator[str]:
    """The paths of every member that a value has."""
    if isinstance(value, list):
        for one in value:
            yield from occurring(one, at)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield f"{at}{name}"
            yield from occurring(inner, f"{at}{name}.")


def test_every_member_of_an_answer_that_is_described_occurs() -> None:
    with a_site() as site:
        instance = site.instance
        buyer = {"name": "Ada B", "company": "Engines", "vatId": {"id": "1", "type": "CPF"}}
        sold = {
            "appId": wire.WIX_STORES_APP_ID,
            "catalogItemId": instance["productIds"][0],
            "options": {"a": 1},
        }
        both = {
            "lineItems": [
                {"type": "CATALOG", "catalogItem": {"quantity": 1, "catalogReference": sold}},
                {
                    "type": "CUSTOM",
                    "customItem": {"name": "a", "quantity": 1, "price": "8", "description": "b"},
                },
            ]
        }
        rich = site.link(
            currency="USD",
            description="d",
            paymentsLimit=3,
            expirationDate="2999-01-01T00:00:00Z",
            recipients=[{"contactId": instance["contactIds"][0], "sendMethods": ["EMAIL_METHOD"]}],
            ecomPaymentLink=both,
        )["id"]
        site.post(f"{LINKS}/{rich}/set-note", {"note": {"text": "n"}})
        site.post(f"{LINKS}/{rich}/update-extended-fields", {"namespace": "n", "namespaceData": {}})
        tags = {name: {"tagIds": ["t"]} for name in ("privateTags", "tags")}
        site.post(f"{LINKS}/bulk-update-tags", {"paymentLinkIds": [rich], "assignTags": tags})
        split = [{"type": "GIFT_CARD", "amount": "1.00"}, {"type": "CARD", "amount": "31.00"}]
        _, card = site.pay(rich, tenders=split, buyer=buyer)
        owed = {"orderId": instance["orderIds"][0]}
        to_order = {"title": "t", "currency": "USD", "type": "ECOM_ORDER", "ecomOrderPaymentLink": owed}
        site.pay(site.post(LINKS, {"paymentLink": to_order})["paymentLink"]["id"])
        receipt_id = site.post(f"{PAYMENTS}/{card['id']}/issue-receipt")["receiptId"]
        site.control(f"payments/{card['id']}/refund", {"amount": "1.00"})
        order_id = card["regularPaymentLinkPayment"]["order"]["ecomOrder"]["ecomOrderId"]
        answers = {
            "PaymentLink": site.query(LINKS)["paymentLinks"],
            "PaymentLinkPayment": site.query(PAYMENTS)["paymentLinkPayments"],
            **{
                name: site.call("GET", path).json()
                for name, path in (
                    ("Receipt", f"{wire.PATH_RECEIPTS}/{receipt_id}"),
                    ("Contact", f"{wire.PATH_CONTACTS}/{instance['contactIds'][0]}"),
                    ("Product", f"{wire.PATH_PRODUCTS}/{instance['productIds'][0]}"),
                    ("Order", f"{wire.PATH_ORDERS}/{order_id}"),
                    ("OrderTransactions", f"{wire.PATH_ORDER_PAYMENTS}/{order_id}"),
                )
            },
        }

    for name, answer in answers.items():
        within = answer if isinstance(answer, list) else next(iter(answer.values()))
        missing = set(described(DOCUMENT["components"]["schemas"][name])) - set(occurring(within))
        # Of the two names of a currency the other is tried below.
        assert missing == ({"currencyCode"} if name == "PaymentLinkPayment" else set()), name


# -- Filters: exactly those of Wix's two "Filtering and Sorting" pages -----------------------------

ALWAYS = {"$eq", "$ne", "$exists", "$in", "$hasSome"}
ORDERED = ALWAYS | {"$lt", "$lte", "$gt", "$gte"}
PREFIXED = ALWAYS | {"$startsWith"}
FILTERS = {
    LINKS: {
        "createdDate": ORDERED,
        "totalReceived.paymentCount": ORDERED,
        "paymentsLimit": ORDERED,
        "status": ALWAYS,
        "source": ALWAYS,
    },
    PAYMENTS: {
        "createdDate": ORDERED,
        "transactionDate": ORDERED,
        "paymentLinkId": PREFIXED,
        "type": ALWAYS,
        "regularPaymentLinkPayment.method": ALWAYS,
        "regularPaymentLinkPayment.paymentMethod": PREFIXED,
    },
}
OPERATORS = ORDERED | PREFIXED | {"$nin", "$isEmpty", "$hasAll", "$contains"}
OTHERS = ("id", "amount", "currency", "updatedDate", "receiptId", "title", "ecomOrder.ecomOrderId")


@pytest.mark.parametrize(("path", "name"), [(LINKS, "Link"), (PAYMENTS, "Payment")])
def test_filters_and_sorts_are_exactly_those_documented(world: World, path: str, name: str) -> None:
    described = DOCUMENT["components"]["schemas"][f"{name}Filter"]["properties"]
    assert {
        field: set(schema["anyOf"][1]["properties"])
        for field, schema in described.items()
        if not field.startswith("$")
    } == FILTERS[path]
    sort = DOCUMENT["components"]["schemas"][f"{name}Query"]["anyOf"][0]["properties"]["sort"]
    assert set(sort["items"]["properties"]["fieldName"]["enum"]) == set(FILTERS[path])

    for field in (*FILTERS[path], *OTHERS):
        known = FILTERS[path].get(field, set())
        for operator in OPERATORS:
            value: Any = "2026-01-01T00:00:00Z" if field.endswith("Date") else "x"
            value = 1 if field in ("totalReceived.paymentCount", "paymentsLimit") else value
            match operator:
                case "$exists" | "$isEmpty":
                    value = True
                case "$in" | "$nin" | "$hasSome" | "$hasAll":
                    value = [value]
            answer = world.site.call(
                "POST", f"{path}/query", {"query": {"filter": {field: {operator: value}}}}
            )
            assert answer.status_code == (200 if operator in known else 400), (field, operator)
        for order in ("ASC", "DESC"):
            body = {"query": {"sort": [{"fieldName": field, "order": order}]}}
            assert world.site.call("POST", f"{path}/query", body).status_code == (200 if known else 400), (
                field
            )


# -- Every documented status occurs ----------------------------------------------------------------


def validated(answer: httpx2.Response, operation: dict[str, Any], status: str) -> Any:
    """The body of an answer that is as described."""
    response = resolved(operation["responses"][status])
    schema = response["content"]["application/json"]["schema"]
    validator = jsonschema_rs.Draft202012Validator(
        closed(schema) if status == "200" else schema, validate_formats=True
    )
    body = answer.json()
    assert [error.message for error in validator.iter_errors(body)] == []
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["x-wix-request-id"]
    return body


def happy(operation: dict[str, Any], world: World) -> Any:
    """A body that is accepted: the example of the document with real ids."""
    if "requestBody" not in operation:
        return None
    body = copy.deepcopy(operation["requestBody"]["content"]["application/json"]["example"])
    for recipient in body.get("recipients", []):
        recipient["contactId"] = world.id_for("contactId")
    if "paymentLinkIds" in body:
        body["paymentLinkIds"] = [world.id_for("paymentLinkId")]
    return world.token_request if "client_id" in body else body


def order_link(world: World, **change: Any) -> dict[str, Any]:
    order = {"orderId": world.site.instance["orderIds"][0], "amount": "1.00", **change}
    link = {"title": "t", "currency": "USD", "type": "ECOM_ORDER", "ecomOrderPaymentLink": order}
    return {"paymentLink": link}


def unready(operation_id: str, world: World) -> tuple[str, Any]:
    """An id and a body that are refused for the state things are in."""
    site = world.site
    if operation_id == "createPaymentLink":
        return "", order_link(world, amount="100000")
    if operation_id == "issueReceipt":
        payment = site.pay(site.link()["id"])[0]["id"]
        site.post(f"{PAYMENTS}/{payment}/issue-receipt")
        return payment, None
    link = site.link(paymentsLimit=1)
    site.pay(link["id"])
    return link["id"], None


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param(method, path, status, id=f"{operation['operationId']}-{status}")
        for method, path, operation in operations()
        for status in operation["responses"]
    ],
)
def test_every_documented_status_occurs(world: World, method: str, path: str, status: str) -> None:
    site, operation = world.site, DOCUMENT["paths"][path][method.lower()]
    headers, content = dict(site.headers), json.dumps(happy(operation, world)).encode()
    [name] = re.findall("{(.*?)}", path) or [""]
    id_ = world.id_for(name, is_fresh=True) if name else ""
    body: Any = happy(operation, world)
    match status:
        case "400":
            content = b"[]"
        case "401" if name or "security" not in operation:
            headers = {}
        case "401":
            content = json.dumps({**world.token_request, "client_secret": "wrong"}).encode()
        case "403":
            site.control(f"instances/{site.instance['instanceId']}", {"hasPermission": False}, "PATCH")
        case "404":
            id_ = str(uuid4())
            if not name:
                content = json.dumps(order_link(world, orderId=id_)).encode()
        case "413":
            content = b"x" * (BODY_BYTES_MAX + 1)
        case "428":
            id_, body = unready(operation["operationId"], world)
            content = json.dumps(body).encode()
        case "429" | "5XX":
            fault = {"kind": "status", "status": 503 if status == "5XX" else 429, "count": 1}
            site.control("faults", fault)
    try:
        answer = site.http.request(method, path.replace(f"{{{name}}}", id_), content=content, headers=headers)
    finally:
        if status == "403":
            site.control(f"instances/{site.instance['instanceId']}", {"hasPermission": True}, "PATCH")

    assert str(answer.status_code) == status.replace("5XX", "503"), answer.text
    validated(answer, operation, status)


def value_at(body: Any, pointer: str) -> str:
    for part in pointer.removeprefix("$response.body#/").split("/"):
        body = body[int(part)] if isinstance(body, list) else body[part]
    return str(body)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (path, target)
        for _, path, operation in operations()
        for target in operation["responses"]["200"].get("links", {})
    ],
)
def test_links_lead_to_what_they_name(world: World, path: str, target: str) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    link = operation["responses"]["200"]["links"][target]
    new = world.site.link()["id"] if "Link" in target else world.site.pay(world.site.link()["id"])[0]["id"]
    body = world.site.post(
        path.replace("{paymentLinkId}", new).replace("{paymentLinkPaymentId}", new), happy(operation, world)
    )

    [(method, follower, found)] = [one for one in operations() if one[2]["operationId"] == target]
    [(name, pointer)] = link["parameters"].items()
    answer = world.site.call(
        method, follower.replace(f"{{{name}}}", value_at(body, pointer)), happy(found, world)
    )

    assert answer.status_code == 200, answer.text
    validated(answer, found, "200")


# -- What is assumed otherwise ---------------------------------------------------------------------

BOTH_WAYS = {"currency_field", "gift_card_type", "receipt_answer", "retry_after"}
VALUES = {"refund_raises_update", "totals_fall_on_refund", "split_counts_once", "offline_makes_payment"}
WEBHOOKS = {
    *("link_fqdn", "buyer_identity", "link_tells_of_payments", "content_type", "any_2xx_succeeds"),
    *("token_lifetime_seconds", "issuer_and_audience"),
}
OTHERWISE: dict[str, Any] = {
    "refusal_status": 409,
    "gift_card_field": "giftCard",
    "contact_id_field": "contactId",
    "page_default": 1,
    "in_max": 1,
    "other_filters_ignored": True,
}
"""What the document names as not described, each with a choice that is not the usual one."""


def test_every_assumption_is_described_or_named_as_not_described() -> None:
    assert {one.name for one in fields(Rules)} == BOTH_WAYS | VALUES | WEBHOOKS | set(openapi.ASSUMED)
    assert set(OTHERWISE) == set(openapi.ASSUMED)
    for name, what in openapi.ASSUMED.items():
        assert f"- `{name.replace('_', '-')}`: {what}\n" in DOCUMENT["info"]["description"]


@pytest.mark.parametrize("choice", CHOICES["receipt_answer"])
def test_every_answer_of_issue_receipt_is_described(choice: str) -> None:
    path = f"{PAYMENTS}/{{paymentLinkPaymentId}}/issue-receipt"
    with a_site(rules=Rules(receipt_answer=choice)) as site:
        [payment] = site.pay(site.link()["id"])
        answer = site.call("POST", path.format(paymentLinkPaymentId=payment["id"]))

    operation = DOCUMENT["paths"][path]["post"]
    body = validated(answer, operation, "200")
    described = resolved(operation["responses"]["200"])["content"]["application/json"]["schema"]["anyOf"]
    assert [
        one["title"] for one in described if jsonschema_rs.Draft202012Validator(closed(one)).is_valid(body)
    ] == [choice]
    assert {one["title"] for one in described} == set(CHOICES["receipt_answer"])
    assert described[0]["title"] == Rules().receipt_answer


def test_what_is_described_both_ways_is_so_the_other_way_as_well() -> None:
    values: dict[str, Any] = {name: not getattr(Rules(), name) for name in VALUES}
    rules = Rules(currency_field="currencyCode", gift_card_type="CARD_OF_GIFT", retry_after=True, **values)
    with a_site(rules=rules, calls_per_minute=4) as site:
        split = [
            {"type": "GIFT_CARD", "amount": "1.00"},
            {"type": "CARD", "amount": "19.00"},
            {"type": "OFFLINE", "amount": "1.00"},
        ]
        link_id = site.link()["id"]
        _, card = site.pay(link_id, tenders=split)
        site.control(f"payments/{card['id']}/refund", {"amount": "5.00"})
        answers = {path: site.call("POST", f"{path}/query", {"query": {}}) for path in (PAYMENTS, LINKS)}
        one = site.call("GET", f"{LINKS}/{link_id}")
        late = site.call("GET", f"{LINKS}/{link_id}")

    for path, answer in answers.items():
        validated(answer, DOCUMENT["paths"][f"{path}/query"]["post"], "200")
    get = DOCUMENT["paths"][f"{LINKS}/{{paymentLinkId}}"]["get"]
    validated(one, get, "200")
    assert late.status_code == 429
    validated(late, get, "429")
    assert {
        (payment["type"], "currencyCode" in payment)
        for payment in answers[PAYMENTS].json()["paymentLinkPayments"]
    } == {("REGULAR", True), ("CARD_OF_GIFT", True)}


@pytest.mark.parametrize(("name", "value"), OTHERWISE.items())
def test_what_is_named_as_not_described_is_as_the_document_says(name: str, value: Any) -> None:
    rules: dict[str, Any] = {name: value}
    with a_site(rules=Rules(**rules)) as site:
        link = site.link()
        split = [{"type": "GIFT_CARD", "amount": "1.00"}, {"type": "CARD", "amount": "20.00"}]
        gift, card = site.pay(link["id"], tenders=split)
        match name:
            case "refusal_status":
                refused = site.call("DELETE", f"{LINKS}/{link['id']}")
                assert refused.status_code == value
                assert refused.json()["details"]["applicationError"]["code"] == "SANDBOX_LINK_HAS_PAYMENTS"
                site.post(f"{LINKS}/{link['id']}/deactivate")
                assert site.call("POST", f"{LINKS}/{link['id']}/initiate-payment").status_code == 428
            case "gift_card_field":
                assert gift[value]["giftCardPaymentId"] == gift["id"]
                assert "giftCardPaymentLinkPayment" not in gift
            case "contact_id_field":
                contact_id = card["regularPaymentLinkPayment"]["contactDetails"][value]
                assert site.call("GET", f"{wire.PATH_CONTACTS}/{contact_id}").status_code == 200
            case "page_default":
                assert site.query(PAYMENTS)["pagingMetadata"]["count"] == value
            case "in_max":
                wanted = {"query": {"filter": {"type": {"$in": ["REGULAR", "GIFT_CARD"]}}}}
                assert site.call("POST", f"{PAYMENTS}/query", wanted).status_code == 400
            case _:
                assert site.query(PAYMENTS, filter={"amount": "1"})["pagingMetadata"]["count"] == 2


@pytest.mark.parametrize("seconds", [0, 0.00001, 1.5, 120, 3_600])
def test_the_wait_that_a_refusal_tells_is_as_described(world: World, seconds: float) -> None:
    fault = {"kind": "status", "status": 429, "count": 1, "retryAfterSeconds": seconds}
    world.site.control("faults", fault)

    wait = world.site.call("GET", f"{wire.PATH_SETTINGS}").headers["Retry-After"]

    schema = DOCUMENT["components"]["headers"]["RetryAfter"]["schema"]
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(wait), wait
    assert float(wait) == seconds


# -- What the checks above found -------------------------------------------------------------------


def test_another_method_is_refused_in_wixs_words(world: World) -> None:
    for method in ("OPTIONS", "PUT", "TRACE"):
        answer = world.site.call(method, f"{LINKS}/x")

        assert (answer.status_code, answer.headers["Allow"]) == (405, "DELETE, GET, HEAD")
        assert answer.json()["details"] == {}
        assert answer.headers["x-wix-request-id"]


@pytest.mark.parametrize("path", ["/payment-links//v1", f"{LINKS}/", "/nowhere", f"{LINKS}//query"])
def test_another_path_is_refused_in_wixs_words(world: World, path: str) -> None:
    answer = world.site.call("POST", f"{world.site.sandbox.url}{path}")

    assert answer.status_code == 404
    assert answer.json()["details"] == {}
    assert answer.headers["x-wix-request-id"]


def test_whole_numbers_may_be_written_with_a_point(world: World) -> None:
    item = {"type": "CUSTOM", "customItem": {"name": "a", "quantity": 2.0, "price": "8"}}
    link = world.site.link(ecomPaymentLink={"lineItems": [item]}, paymentsLimit=3.0)

    assert link["ecomPaymentLink"]["lineItems"][0]["customItem"]["quantity"] == 2
    assert world.site.query(LINKS, cursorPaging={"limit": 1.0})["pagingMetadata"]["count"] == 1


DEEP: Any = {}
for _ in range(900):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (
            f"{LINKS}/search",
            {
                "search": {
                    "aggregations": [
                        {"name": "a", "type": "VALUE", "fieldPath": "status", "value": {"sortType": "UP"}}
                    ]
                }
            },
            "search.aggregations[0].value.sortType",
        ),
        (
            f"{LINKS}/search",
            {
                "search": {
                    "aggregations": [
                        {"name": "a", "type": "SCALAR", "fieldPath": "status", "scalar": {"type": {}}}
                    ]
                }
            },
            "search.aggregations[0].scalar.type",
        ),
        (
            f"{LINKS}/search",
            {
                "search": {
                    "aggregations": [
                        {
                            "name": "a",
                            "type": "DATE_HISTOGRAM",
                            "fieldPath": "createdDate",
                            "dateHistogram": {"interval": []},
                        }
                    ]
                }
            },
            "search.aggregations[0]",
        ),
        (
            f"{LINKS}/search",
            {"search": {"aggregations": [{"name": "a", "type": "RANGE", "fieldPath": "status"}]}},
            "search.aggregations[0].fieldPath",
        ),
        (f"{LINKS}/query", {"query": {"sort": [{"fieldName": "status"}] * 6}}, "query.sort"),
        (f"{LINKS}/query", {"query": {"cursorPaging": {"offset": 1}}}, "query.cursorPaging.offset"),
        (
            f"{LINKS}/query",
            {"query": {"filter": "", "cursorPaging": {"cursor": "x"}}},
            "query.cursorPaging.cursor",
        ),
        (
            LINKS,
            {"paymentLink": {"title": "\u200b" * 201, "currency": "USD", "type": "ECOM"}},
            "paymentLink.title",
        ),
        (
            f"{LINKS}/bulk-update-tags",
            {"paymentLinkIds": [5], "assignTags": {"tags": {"tagIds": ["a"]}}},
            "paymentLinkIds[0]",
        ),
        (f"{LINKS}/bulk-update-tags", {"paymentLinkIds": ["a"], "assignTags": 0}, "assignTags"),
        (
            f"{LINKS}/bulk-update-tags",
            {"paymentLinkIds": ["a"], "assignTags": {"tags": {"tagIds": ""}}},
            "assignTags.tags.tagIds",
        ),
        (wire.PATH_TAGS_BY_FILTER, {"filter": False, "assignTags": {"tags": {"tagIds": ["a"]}}}, "filter"),
        (f"{wire.PATH_CONTACTS}/query", {"query": False}, "query"),
        (f"{wire.PATH_PRODUCTS}/query", {"query": {"paging": []}}, "query.paging"),
        ("/oauth2/token-info", [], "body"),
        ("/oauth2/token-info", {"token": 5}, "token"),
        (f"{LINKS}/x/update-extended-fields", {"namespace": "a", "namespaceData": DEEP}, "body"),
    ],
)
def test_what_is_not_described_is_refused(world: World, path: str, body: Any, field: str) -> None:
    answer = world.site.call("POST", path, body)

    assert answer.status_code == 400, answer.text
    assert [one["field"] for one in answer.json()["details"]["validationError"]["fieldViolations"]] == [field]


@pytest.mark.parametrize("limit", [0, 2**31, 10**30])
def test_a_payments_limit_is_a_number_the_state_can_hold(world: World, limit: int) -> None:
    item = {"type": "CUSTOM", "customItem": {"name": "a", "quantity": 1, "price": "8"}}
    link = {"title": "t", "currency": "USD", "type": "ECOM", "ecomPaymentLink": {"lineItems": [item]}}

    answer = world.site.call("POST", LINKS, {"paymentLink": {**link, "paymentsLimit": limit}})

    assert answer.status_code == 400


def test_search_sorts_by_more_fields_than_query(world: World) -> None:
    sort = [{"fieldName": "status"}, {"fieldName": "createdDate"}] * 5

    world.site.post(f"{LINKS}/search", {"search": {"sort": sort}})
    refused = world.site.call("POST", f"{LINKS}/search", {"search": {"sort": [*sort, sort[0]]}})

    assert refused.status_code == 400
