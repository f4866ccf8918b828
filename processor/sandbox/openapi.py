"""The sandbox's REST API as an OpenAPI 3.1 document, built from the limits and fields the server itself uses.

Everything says how sure it is of Wix (`x-wix-certainty`): `confirmed` by Wix's documentation, `third-party` in a
program that calls Wix, `inferred` from one of Wix's sister APIs, `unknown` where the sandbox had to choose.
What carries no mark of its own is as sure as what surrounds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from processor.sandbox import links, query
from processor.sandbox.api import CONTACTS_MAX, ORDERS_MAX, PRODUCTS_MAX, TOKEN_SECONDS
from processor.sandbox.checkout import VAT_TYPES
from processor.sandbox.core import AMOUNT_MAX
from processor.wix.wire import (
    PATH_CONTACTS,
    PATH_LINKS,
    PATH_ORDER_PAYMENTS,
    PATH_ORDERS,
    PATH_PAYMENTS,
    PATH_PRODUCTS,
    PATH_RECEIPTS,
    PATH_SETTINGS,
    PATH_TAGS_BY_FILTER,
    PATH_TOKEN,
    SETTINGS,
    WIX_STORES_APP_ID,
)

USUAL_URL = "http://127.0.0.1:8100"
Schema = dict[str, Any]
Certainty = Literal["confirmed", "third-party", "inferred", "unknown"]
CERTAINTIES: tuple[Certainty, ...] = get_args(Certainty)

_ABOUT = """\
What `processor sandbox` answers of Wix's REST API: payment links, their payments, and what their flows touch.
Point a program at the sandbox's base URL instead of at Wix's; paths, bodies and errors are the same.

`x-wix-certainty` says how sure each operation and field is of Wix: `confirmed` by Wix's documentation,
`third-party` in a program that calls Wix, `inferred` from a sister API of Wix, `unknown` where the sandbox had to
choose. What has no mark is as sure as what surrounds it. Error codes that begin with `SANDBOX_` are the sandbox's
own: Wix does not document a name. The status with which a code comes is `inferred`.
Answers of Wix may hold fields that are not described here; read them leniently.

Described is a sandbox with its usual assumptions and 200 calls a minute. `--assume` makes it answer otherwise:

{assumed}

Other assumptions change webhooks and values alone, or are described both ways.

Not described: webhooks, whose body is a signed token and no JSON; 404 for any other path, 405 for any other method,
and what fault switches do to an answer."""

ASSUMED = {
    "refusal_status": "refusals with 428 come with that status; those of Initiate Payment stay",
    "gift_card_field": "`giftCardPaymentLinkPayment` has that name",
    "contact_id_field": "`contactDetails` of a payment has that member as well: the id of the buyer's contact",
    "page_default": "a page has so many items when the query does not say",
    "in_max": "`$in` and `$hasSome` take so many values",
    "other_filters_ignored": "a filter on a field that is not described is ignored instead of refused",
}
"""What of the sandbox's Rules would make the document wrong, and how."""


def text(base_url: str = USUAL_URL) -> str:
    """The document as JSON for people: indented, in reading order."""
    return json.dumps(document(base_url), indent=2, ensure_ascii=False) + "\n"


def document(base_url: str = USUAL_URL) -> Schema:
    """The OpenAPI document. base_url: where the sandbox serves, without a trailing slash."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Wix Payment Links, as the sandbox imitates them",
            "version": "v1",
            "description": _ABOUT.format(
                assumed="\n".join(f"- `{name.replace('_', '-')}`: {what}" for name, what in ASSUMED.items())
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base_url, "description": "the sandbox"}],
        "security": [{"accessToken": []}, {"bearer": []}, {"apiKey": [], "siteId": []}],
        "tags": [{"name": name} for name in dict.fromkeys(one.tag for one in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "headers": _HEADERS,
            "responses": _responses(),
            "securitySchemes": _SECURITY,
        },
    }


# -- Words for schemas -----------------------------------------------------------------------------


def _ref(name: str, kind: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(
    properties: Mapping[str, Schema],
    required: str = "",
    *,
    is_closed: bool = False,
    sure: Certainty | None = None,
    **more: Any,
) -> Schema:
    """required: names, divided by spaces. is_closed: whether other members are refused."""
    if sure is not None:
        more["x-wix-certainty"] = sure
    schema: Schema = {"type": "object", **more, "properties": dict(properties)}
    if required:
        schema["required"] = required.split()
    if is_closed:
        schema["additionalProperties"] = False
    return schema


def _wrapped(name: str, schema: str, sure: Certainty | None = None) -> Schema:
    """An object with that one member. schema: by the name of the component; sure: of the member's name."""
    return _object({name: _ref(schema)}, name, sure=sure)


def _text(longest: int | None = None, shortest: int = 0, **more: Any) -> Schema:
    schema: Schema = {"type": "string"}
    if shortest:
        schema["minLength"] = shortest
    if longest is not None:
        schema["maxLength"] = longest
    return schema | more


def _whole(least: int | None = None, most: int | None = None, **more: Any) -> Schema:
    schema: Schema = {"type": "integer"}
    if least is not None:
        schema["minimum"] = least
    if most is not None:
        schema["maximum"] = most
    return schema | more


def _list(items: Schema, most: int | None = None, least: int = 0, **more: Any) -> Schema:
    schema: Schema = {"type": "array", "items": items}
    if least:
        schema["minItems"] = least
    if most is not None:
        schema["maxItems"] = most
    return schema | more


def _enum(*values: str, **more: Any) -> Schema:
    return {"type": "string", "enum": list(values), **more}


def _const(value: str) -> Schema:
    return {"type": "string", "const": value}


def _or_null(schema: Schema) -> Schema:
    """What may be null as well, which means the same as leaving it out."""
    if "type" in schema and "enum" not in schema:
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _sure(certainty: Certainty, schema: Schema, note: str | None = None) -> Schema:
    """A schema with how sure it is."""
    return schema | {"x-wix-certainty": certainty} | ({"description": note} if note else {})


_FREE: Schema = {"type": "object", "additionalProperties": True}
_EMPTY: Schema = {"type": "object", "maxProperties": 0}
_FLAG: Schema = {"type": "boolean"}
_GUID: Schema = {"type": "string", "format": "uuid"}
_DATE: Schema = {"type": "string", "format": "date-time"}
_CURRENCY: Schema = {"type": "string", "pattern": "^[A-Z]{3}$", "description": "ISO 4217", "example": "USD"}
_MONEY: Schema = {
    "type": "string",
    "pattern": r"^-?[0-9]+(\.[0-9]{1,3})?$",
    "description": "decimal text in main units, with the currency's digits",
}
_MONEY_GIVEN: Schema = {
    "type": "string",
    "pattern": r"^[0-9]{1,15}(\.[0-9]{1,3})?$",
    "description": "decimal text in main units, with no more decimals than the currency has",
}
_REVISION: Schema = {
    "type": "string",
    "pattern": "^[0-9]+$",
    "description": "+1 per update: compare as a number",
}
_EXAMPLE_ID = "6a206d71-52f5-4012-b3dd-8a283fea052e"


# -- Errors ----------------------------------------------------------------------------------------


def _error(details: Schema, message: Schema | None = None, **more: Any) -> Schema:
    return _object({"message": message or _text(), "details": details}, "message details", **more)


_ERRORS: dict[str, Schema] = {
    "ApplicationError": _error(
        _object(
            {
                "applicationError": _object(
                    {"code": _text(), "description": _text(), "data": _FREE}, "code description data"
                )
            },
            "applicationError",
        ),
        description="A refusal with a code to act on.",
    ),
    "ValidationError": _error(
        _object(
            {
                "validationError": _object(
                    {
                        "fieldViolations": _list(
                            _object(
                                {
                                    "field": _text(description="where, such as `query.cursorPaging.limit`"),
                                    "description": _text(),
                                    "violatedRule": _text(description="such as `MAX`, `FORMAT`, `CUSTOM`"),
                                    "ruleName": _text(description="of `CUSTOM` rules alone"),
                                    "data": _FREE,
                                },
                                "field description violatedRule data",
                            ),
                            least=1,
                        )
                    },
                    "fieldViolations",
                )
            },
            "validationError",
        ),
        description="One line for each wrong field.",
    ),
    "PlainError": _error(_EMPTY, description="A 4xx without details, which occurs as well."),
    "SystemError": _error(_EMPTY, _const(""), description="Message and details are empty, on purpose."),
    "OAuthError": _sure(
        "inferred",
        _object(
            {
                "error": _enum(
                    "invalid_request", "unsupported_grant_type", "invalid_client", "invalid_grant"
                ),
                "error_description": _text(),
            },
            "error error_description",
        ),
        "In the manner of the IETF's OAuth 2.",
    ),
}

_SITE_CODES = {code: why for _, code, why in links.SITE_FLAGS}
_BALANCE = {"SANDBOX_AMOUNT_EXCEEDS_BALANCE": "the order's balance is less"}


def _no(what: str) -> dict[str, str]:
    """The code of 404 for what a site does not have: the sandbox makes it of the thing's name."""
    return {f"SANDBOX_{what.upper().replace(' ', '_')}_NOT_FOUND": f"the site has no such {what}"}


_NO_LINK = _no("payment link")
_NO_RECIPIENT = {"RECIPIENT_NOT_FOUND": "a recipient is not a contact of the site"}
_STATUS = {"SANDBOX_INVALID_STATUS": "the link is PAID or EXPIRED"}
_FORBIDDEN = {
    "SANDBOX_APP_NOT_INSTALLED": "the app was removed from the site",
    "SANDBOX_PERMISSION_MISSING": "the app lacks Manage Paylinks",
    "SANDBOX_WRONG_SITE": "`wix-site-id` is not the site of this API key",
    "SANDBOX_SITE_LEVEL_ONLY": "`wix-account-id` was sent",
}


def _coded(codes: Mapping[str, str]) -> Schema:
    """An application error with one of these codes."""
    wanted = _object({"code": _enum(*codes)})
    return {"allOf": [_ref("ApplicationError"), _object({"details": _object({"applicationError": wanted})})]}


def _response(description: str, schema: Schema, headers: tuple[str, ...] = ()) -> Schema:
    shown = {"x-wix-request-id": _ref("RequestId", "headers")}
    shown |= {name: _ref(name.replace("-", ""), "headers") for name in headers}
    return {
        "description": description,
        "headers": shown,
        "content": {"application/json": {"schema": schema}},
    }


def _refusal(description: str, codes: Mapping[str, str], *, or_invalid: bool = False) -> Schema:
    """A response of application errors; each code with when it comes, and whether Wix documents it."""
    schema = _coded(codes)
    if or_invalid:
        schema = {"anyOf": [_ref("ValidationError"), schema]}
    told = {
        code: {"when": why, "x-wix-certainty": "unknown" if code.startswith("SANDBOX_") else "confirmed"}
        for code, why in codes.items()
    }
    return _response(description, schema) | {"x-wix-error-codes": told}


_HEADERS: dict[str, Schema] = {
    "RequestId": {
        "description": "Identifies the call: log it.",
        "required": True,
        "schema": _GUID,
        "x-wix-certainty": "confirmed",
    },
    "RetryAfter": {
        "description": "Seconds; only by a fault switch or if assumed so. Do not rely on it.",
        "schema": {"type": "string", "pattern": "^[0-9][0-9.e-]*$"},
        "x-wix-certainty": "unknown",
    },
}

_SECURITY: dict[str, Schema] = {
    "accessToken": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "An access token as it is, without a scheme word. It names the site.",
        "x-wix-certainty": "confirmed",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The same token, or an API key, after `Bearer`.",
        "x-wix-certainty": "third-party",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "An API key of the site, as it is or after `Bearer`; `wix-site-id` goes with it.",
        "x-wix-certainty": "confirmed",
    },
    "siteId": {
        "type": "apiKey",
        "in": "header",
        "name": "wix-site-id",
        "description": "The site of an API key. Never together with `wix-account-id`.",
        "x-wix-certainty": "confirmed",
    },
}


def _responses() -> dict[str, Schema]:
    """What many operations answer."""
    return {
        "Invalid": _response("The request is wrong.", _ref("ValidationError")),
        "Unauthenticated": _response(
            "No `Authorization`, or neither a token nor a key that is still good.", _ref("PlainError")
        ),
        "Forbidden": _refusal("The app may not do that on this site.", _FORBIDDEN),
        "TooLarge": _response("The body is longer than 1 MiB.", _ref("PlainError"))
        | {"x-wix-certainty": "unknown"},
        "TooMany": _response(
            "More than 200 calls of the app instance within a minute; signing in is not counted.",
            _ref("PlainError"),
            ("Retry-After",),
        ),
        "Unavailable": _response(
            "Wix fails: 500, 501, 503 or 504. The sandbox does only by a fault switch.",
            _ref("SystemError"),
            ("Retry-After",),
        ),
    }


# -- Queries ---------------------------------------------------------------------------------------

_WHOLE_64 = _whole(-(2**63 - 1), 2**63 - 1)
_VALUES: dict[str, Schema] = {"date": _DATE, "number": _WHOLE_64, "text": _text()}


def _condition(known: query.Field) -> Schema:
    """What a filter may ask of a field: a value, which means `$eq`, or operators."""
    value = _VALUES[known.type]
    operators: dict[str, Schema] = {}
    for name in sorted(known.operators):
        match name:
            case "$exists":
                operators[name] = _FLAG
            case "$in" | "$hasSome":
                operators[name] = _list(_or_null(value), query.IN_MAX)
            case "$eq" | "$ne":
                operators[name] = _or_null(value)
            case _:
                operators[name] = value
    return {"anyOf": [_or_null(value), _object(operators, is_closed=True)]}


def _filter(name: str, resource: query.Resource) -> Schema:
    properties = {path: _condition(known) for path, known in resource.fields.items()}
    properties |= {word: _list(_ref(name), least=1) for word in ("$and", "$or")} | {"$not": _ref(name)}
    return _sure(
        "confirmed",
        _object(properties, is_closed=True),
        "Exactly the documented fields and operators; others are refused, though Wix does not say what it does. "
        f"The sandbox takes at most {query.CONDITIONS_MAX} conditions, nested at most {query.NESTED_MAX} deep, "
        f"in {query.FILTER_MAX:,} characters.",
    )


def _sort(resource: query.Resource, most: int) -> Schema:
    one = _object(
        {"fieldName": _enum(*resource.fields), "order": _enum("ASC", "DESC", default="ASC")}, "fieldName"
    )
    note = f"At most {most}, and the newest first without it: both inferred."
    return _sure("confirmed", _or_null(_list(one, most)), note)


def _paging(*, is_further: bool) -> Schema:
    limit = _whole(1, query.PAGE_MAX, description=f"usually {query.PAGE_DEFAULT} (inferred)")
    if is_further:
        cursor = _sure(
            "inferred",
            _text(query.CURSOR_MAX),
            "As it was answered: opaque, holding filter, sort and place.",
        )
        return _object({"limit": _or_null(limit), "cursor": cursor}, "cursor", is_closed=True)
    cursorless = {"limit": _or_null(limit), "cursor": {"type": "null"}}
    return _or_null(_object(cursorless, is_closed=True))


def _asked(name: str, resource: query.Resource) -> dict[str, Schema]:
    """Schemas of what Query and Search of a resource take. name: begins their names."""
    first = {"filter": _or_null(_ref(f"{name}Filter")), "cursorPaging": _paging(is_further=False)}
    nothing = {
        "filter": {"type": ["object", "null"], "maxProperties": 0},
        "sort": {"type": ["array", "null"], "maxItems": 0},
    }
    further = {"cursorPaging": _paging(is_further=True), **nothing}
    always = {
        "aggregations": _or_null(_list(_ref(f"{name}Aggregation"), query.AGGREGATIONS_MAX)),
        "timeZone": _sure("confirmed", _or_null(_enum("UTC")), "Wix knows others; the sandbox does not."),
    }
    words = _object(
        {
            "expression": _text(query.EXPRESSION_MAX),
            "mode": _enum("AND", "OR", default="OR"),
            "fields": _sure("unknown", _list(_enum(*resource.searched), 20), "Without it, all of them."),
            "fuzzy": {"type": "boolean", "default": False},
        },
        sure="inferred",
    )
    return {
        f"{name}Filter": _filter(f"{name}Filter", resource),
        f"{name}Query": {
            "anyOf": [
                _object(
                    first | {"sort": _sort(resource, query.SORTS_MAX)}, is_closed=True, title="first page"
                ),
                _object(further, "cursorPaging", is_closed=True, title="further page"),
            ]
        },
        f"{name}Search": {
            "anyOf": [
                _object(
                    {
                        **first,
                        "sort": _sort(resource, query.SEARCH_SORTS_MAX),
                        "search": _or_null(words),
                        **always,
                    },
                    is_closed=True,
                    title="first page",
                ),
                _object(
                    {**further, "search": {"type": "null"}, **always},
                    "cursorPaging",
                    is_closed=True,
                    title="further page",
                ),
            ]
        },
        f"{name}Aggregation": _aggregation(resource),
    }


def _aggregation(resource: query.Resource) -> Schema:
    def of(
        kind: str, type_: str | None, options: str, schema: Schema, *, is_required: bool = False
    ) -> Schema:
        paths = [path for path, known in resource.fields.items() if type_ in (None, known.type)]
        return _object(
            {
                "name": _text(100, 1),
                "type": _const(kind),
                "fieldPath": _enum(*paths),
                options: schema if is_required else _or_null(schema),
            },
            f"name type fieldPath {options}" if is_required else "name type fieldPath",
            title=kind,
        )

    values = _object(
        {
            "sortType": _enum("COUNT", "VALUE", default="COUNT"),
            "limit": _whole(1, query.BUCKETS_MAX, default=query.BUCKETS_MAX),
        }
    )
    bucket = _object({"from": _or_null(_WHOLE_64), "to": _or_null(_WHOLE_64)}, is_closed=True)
    kinds = [
        of("VALUE", None, "value", values),
        of("SCALAR", None, "scalar", _object({"type": _enum(*query.SCALARS)}, "type"), is_required=True),
        of(
            "DATE_HISTOGRAM",
            "date",
            "dateHistogram",
            _object({"interval": _enum(*query.INTERVALS)}, "interval"),
            is_required=True,
        ),
    ]
    if any(known.type == "number" for known in resource.fields.values()):
        buckets = _or_null(_list(bucket, query.AGGREGATIONS_MAX))
        kinds.append(of("RANGE", "number", "range", _object({"buckets": buckets})))
    return {
        "oneOf": kinds,
        "description": "Over all that the search finds, not over a page alone. `NESTED` is not imitated.",
        "x-wix-certainty": "inferred",
    }


def _counted(value: Schema) -> Schema:
    found = _list(_object({"value": value, "count": _whole(0)}, "value count"))
    return _object({"results": found}, "results")


_PAGES: dict[str, Schema] = {
    "PagingMetadata": _sure(
        "inferred",
        _object(
            {
                "count": _whole(0, query.PAGE_MAX, description="items of this page"),
                "cursors": _object({"next": _text(), "prev": _text()}),
                "hasNext": _FLAG,
            },
            "count cursors hasNext",
        ),
        "There is no `next` on the last page.",
    ),
    "AggregationResult": _sure(
        "inferred",
        _object(
            {
                "name": _text(),
                "type": _enum("VALUE", "SCALAR", "DATE_HISTOGRAM", "RANGE"),
                "fieldPath": _text(),
                "values": _counted({"type": ["string", "integer"]}),
                "scalar": _object(
                    {"type": _enum(*query.SCALARS), "value": {"type": ["string", "integer", "null"]}},
                    "type value",
                ),
                "dateHistogram": _counted(_text(description="such as `2026-11`, as the interval is long")),
                "ranges": _object(
                    {
                        "results": _list(
                            _object(
                                {
                                    "from": {"type": ["integer", "null"]},
                                    "to": {"type": ["integer", "null"]},
                                    "count": _whole(0),
                                },
                                "count",
                            )
                        )
                    },
                    "results",
                ),
            },
            "name type fieldPath",
        ),
        "The one of `values`, `scalar`, `dateHistogram`, `ranges` that the type calls for.",
    ),
}


# -- Payment links ---------------------------------------------------------------------------------

# What is left when all that cannot be seen is trimmed must not be empty.
_VISIBLE = r"[^\p{C}\p{Z}]"

_QUANTITY = _sure("third-party", _whole(1, links.QUANTITY_MAX))
_TAG_LIST = _object({"tagIds": _or_null(_list(_text(100, 1), links.TAG_MAX))})
_NAMED_TAGS = _object({"tagIds": {"type": "array", "minItems": 1}}, "tagIds")


def _names_tags(member: str) -> Schema:
    """That `member` names a tag in either list."""
    either = [_object({name: _NAMED_TAGS}, name) for name in links.TAG_LISTS]
    return _object({member: {"type": "object", "anyOf": either}}, member)


def _tag_change(given: Mapping[str, Schema], required: str = "") -> Schema:
    change = _or_null(_ref("TagChange"))
    return {
        **_object({**given, "assignTags": change, "unassignTags": change}, required),
        "anyOf": [_names_tags("assignTags"), _names_tags("unassignTags")],
    }


def _one_of_two(member: str, other: str, type_: str, **more: Schema) -> Schema:
    """That the object `type` speaks of is there, and the other is not."""
    return {
        "properties": {"type": _const(type_), member: {"type": "object"}, other: {"type": "null"}, **more},
        "required": ["type", member],
        "title": type_,
    }


_GIVEN: dict[str, Schema] = {
    "NewPaymentLink": {
        **_object(
            {
                "title": _sure(
                    "third-party",
                    _text(links.TITLE_MAX, 1, pattern=_VISIBLE),
                    "What cannot be seen is trimmed (confirmed).",
                ),
                "description": _sure("third-party", _or_null(_text(links.DESCRIPTION_MAX))),
                "currency": _CURRENCY,
                "type": _enum("ECOM", "ECOM_ORDER", description="must agree with the one object sent"),
                "ecomPaymentLink": _or_null(_ref("NewEcomPaymentLink")),
                "ecomOrderPaymentLink": _or_null(_ref("NewEcomOrderPaymentLink")),
                "paymentsLimit": _or_null(
                    _whole(
                        1,
                        links.PAYMENTS_LIMIT_MAX,
                        description="how often the link can be paid; Wix does not name the largest",
                    )
                ),
                "expirationDate": _or_null(_DATE | {"description": "in the future, with an offset"}),
                "recipients": _sure(
                    "third-party", _or_null(_list(_ref("NewRecipient"), links.RECIPIENTS_MAX))
                ),
            },
            "title currency type",
            sure="confirmed",
        ),
        "oneOf": [
            _one_of_two("ecomPaymentLink", "ecomOrderPaymentLink", "ECOM"),
            _one_of_two(
                "ecomOrderPaymentLink", "ecomPaymentLink", "ECOM_ORDER", paymentsLimit={"enum": [1, None]}
            ),
        ],
    },
    "NewEcomPaymentLink": _object(
        {
            "lineItems": _sure(
                "third-party",
                _list(_ref("NewLineItem"), least=1),
                f"Together they cost at most {AMOUNT_MAX:f}, the most that a payment can be (inferred).",
            )
        },
        "lineItems",
        sure="confirmed",
    ),
    "NewLineItem": {
        **_object(
            {
                "type": _enum("CUSTOM", "CATALOG"),
                "customItem": _or_null(
                    _object(
                        {
                            "name": _sure("third-party", _text(links.TITLE_MAX, 1)),
                            "quantity": _QUANTITY,
                            "price": _MONEY_GIVEN,
                            "description": _sure("third-party", _or_null(_text(links.ITEM_DESCRIPTION_MAX))),
                        },
                        "name quantity price",
                    )
                ),
                "catalogItem": _or_null(
                    _object(
                        {
                            "quantity": _QUANTITY,
                            "catalogReference": _object(
                                {
                                    "appId": _GUID
                                    | {"description": "Wix Stores", "example": WIX_STORES_APP_ID},
                                    "catalogItemId": _GUID,
                                    "options": _or_null(_FREE),
                                },
                                "appId catalogItemId",
                            ),
                        },
                        "quantity catalogReference",
                    )
                ),
            },
            "type",
            sure="confirmed",
        ),
        "oneOf": [
            _one_of_two("customItem", "catalogItem", "CUSTOM"),
            _one_of_two("catalogItem", "customItem", "CATALOG"),
        ],
    },
    "NewEcomOrderPaymentLink": _object(
        {
            "orderId": _GUID,
            "amount": _or_null(_MONEY_GIVEN | {"description": "at most the order's balance, which is usual"}),
        },
        "orderId",
        sure="confirmed",
    ),
    "NewRecipient": _object(
        {
            "contactId": _GUID,
            "sendMethods": _list(
                _enum("EMAIL_METHOD"), 1, description="Wix may know others; their names are not documented"
            ),
        },
        "contactId",
        sure="confirmed",
    ),
    "TagChange": _object(
        {name: _or_null(_TAG_LIST) for name in links.TAG_LISTS},
        is_closed=True,
        sure="inferred",
    ),
    "TokenRequest": _object(
        {
            "grant_type": _const("client_credentials"),
            "client_id": _text(description="the app's id"),
            "client_secret": _text(),
            "instance_id": _text(description="the installation that the token is for"),
        },
        "grant_type client_id client_secret instance_id",
        sure="confirmed",
    ),
}


def _answered_link() -> Schema:
    item = _object(
        {
            "type": _enum("CUSTOM", "CATALOG"),
            "customItem": _object(
                {"name": _text(), "quantity": _whole(1), "price": _MONEY, "description": _text()},
                "name quantity price",
            ),
            "catalogItem": _object(
                {
                    "quantity": _whole(1),
                    "catalogReference": _object(
                        {"appId": _text(), "catalogItemId": _text(), "options": _FREE}, "appId catalogItemId"
                    ),
                },
                "quantity catalogReference",
            ),
        },
        "type",
    )
    url = _object({"url": _text(), "base": _text(), "path": _text()}, "url base path", sure="third-party")
    recipient = _object({"contactId": _GUID, "sendMethods": _list(_enum("EMAIL_METHOD"))}, "contactId")
    return _object(
        {
            "id": _GUID,
            "revision": _REVISION,
            "createdDate": _DATE,
            "updatedDate": _DATE,
            "title": _sure("third-party", _text(links.TITLE_MAX, 1)),
            "description": _sure("third-party", _text(links.DESCRIPTION_MAX)),
            "currency": _CURRENCY,
            "type": _enum("ECOM", "ECOM_ORDER"),
            "ecomPaymentLink": _object({"lineItems": _list(item, least=1)}, "lineItems"),
            "ecomOrderPaymentLink": _object({"orderId": _GUID, "amount": _MONEY}, "orderId amount"),
            "status": _enum(
                "ACTIVE",
                "INACTIVE",
                "PAID",
                "EXPIRED",
                description="never use PAID as `has money`: a link without a limit stays ACTIVE",
            ),
            "paymentsLimit": _whole(1),
            "totalReceived": _object(
                {"paymentCount": _whole(0), "amount": _sure("third-party", _MONEY)}, "paymentCount amount"
            ),
            "lastPaymentDate": _DATE,
            "expirationDate": _DATE,
            "links": _object({"url": url}, "url", description="where buyers pay"),
            "recipients": _sure("third-party", _list(recipient, links.RECIPIENTS_MAX)),
            "note": _sure("third-party", _object({"text": _text(links.NOTE_MAX)}, "text")),
            "source": _object({"appId": _text()}, "appId"),
            "tags": _sure(
                "inferred",
                _object(
                    {
                        name: _object({"tagIds": _list(_text(), links.TAG_MAX)}, "tagIds")
                        for name in links.TAG_LISTS
                    }
                ),
            ),
            "extendedFields": _sure("inferred", _object({"namespaces": _FREE}, "namespaces")),
        },
        "id revision createdDate updatedDate title currency type status totalReceived links source",
        sure="confirmed",
    )


# -- Payments and neighbours -----------------------------------------------------------------------

_ECOM_ORDER_ID = _object({"ecomOrderId": _GUID}, "ecomOrderId")


def _answered_payment() -> Schema:
    vat_id = _object({"id": _text(), "type": _enum(*VAT_TYPES)}, "id type")
    contact = {
        name: _text() for name in ("firstName", "lastName", "fullName", "phone", "company", "email")
    } | {"vatId": vat_id}
    street = _object({"number": _text(), "name": _text(), "apt": _text()})
    address = {
        name: _text() for name in ("country", "subdivision", "city", "postalCode", "formattedAddress")
    } | {"streetAddress": street}
    card = {name: _text() for name in ("network", "maskedCreditCard", "holderName")}
    regular = _object(
        {
            "method": _sure("confirmed", _text(), "`CREDIT_CARD`; `OFFLINE` is the sandbox's word."),
            "paymentMethod": _text(description="free text, such as `creditCard`"),
            "paymentProvider": _text(),
            "contactDetails": _object(contact, description="personal; gone after a privacy request"),
            "billingAddress": _object(address, description="personal; gone after a privacy request"),
            "creditCardPaymentMethodData": _object(card, description="of cards only"),
            "order": _object({"type": _const("ECOM"), "ecomOrder": _ECOM_ORDER_ID}, "type ecomOrder"),
        },
        "method paymentMethod paymentProvider order",
        description="any method but Wix eCommerce gift cards",
    )
    gift_card = _object({"giftCardPaymentId": _GUID, "maskedCode": _text()}, "giftCardPaymentId maskedCode")
    return {
        **_object(
            {
                "id": _GUID | {"description": "the transaction's, or the gift card payment's"},
                "revision": _REVISION,
                "createdDate": _DATE,
                "transactionDate": _DATE,
                "amount": _MONEY,
                "currency": _CURRENCY,
                "currencyCode": _CURRENCY
                | {"description": "instead of `currency`, as Wix's sample has it, if the sandbox is told so"},
                "paymentLinkId": _GUID,
                "receiptId": _GUID | {"description": "absent until a receipt is issued"},
                "type": _sure(
                    "confirmed", _text(), "`REGULAR`; `GIFT_CARD` is inferred and can be chosen otherwise."
                ),
                "regularPaymentLinkPayment": regular,
                "giftCardPaymentLinkPayment": _sure("inferred", gift_card),
                "ecomCheckout": _object({"ecomCheckoutId": _GUID}, "ecomCheckoutId"),
                "ecomOrder": _sure("inferred", _ECOM_ORDER_ID),
            },
            "id revision createdDate transactionDate amount paymentLinkId type",
            sure="confirmed",
        ),
        "description": "Money received: there is no status, and refunds do not show here.",
        "anyOf": [{"required": ["currency"]}, {"required": ["currencyCode"]}],
    }


def _neighbours() -> dict[str, Schema]:
    price = _object({"amount": _MONEY}, "amount")
    email = _text()
    regular = _object(
        {
            "gatewayTransactionId": _GUID,
            "paymentMethod": _text(),
            "status": _enum("APPROVED", "REFUNDED", "PARTIALLY_REFUNDED"),
            "offlinePayment": _FLAG,
        },
        "gatewayTransactionId paymentMethod status offlinePayment",
    )
    gift_card = _object({"giftCardPaymentId": _GUID, "voided": _FLAG}, "giftCardPaymentId voided")
    paid = _object(
        {
            "id": _GUID,
            "paymentId": _GUID,
            "createdDate": _DATE,
            "amount": price,
            "refundDisabled": _FLAG,
            "regularPaymentDetails": regular,
            "giftcardPaymentDetails": gift_card,
        },
        "id paymentId createdDate amount refundDisabled",
    )
    refunded = _object(
        {"paymentId": _GUID, "amount": price, "refundStatus": _const("SUCCEEDED")},
        "paymentId amount refundStatus",
    )
    refund = _object(
        {"id": _GUID, "createdDate": _DATE, "transactions": _list(refunded)}, "id createdDate transactions"
    )
    return {
        "Receipt": _sure(
            "unknown",
            _object(
                {
                    "id": _GUID,
                    "number": _text(),
                    "createdDate": _DATE,
                    "paymentId": _GUID,
                    "amount": _MONEY,
                    "currency": _CURRENCY,
                },
                "id number createdDate paymentId amount currency",
            ),
            "Wix's own shape is not known.",
        ),
        "Settings": _sure(
            "unknown",
            {**_object({"revision": _REVISION}, "revision"), "additionalProperties": True},
            "Wix's own fields are not known: the sandbox keeps whatever it is given.",
        ),
        "Contact": _object(
            {
                "id": _GUID,
                "revision": _whole(1),
                "primaryInfo": _object({"email": email}, "email"),
                "info": _object(
                    {
                        "name": _object({"first": _text(), "last": _text()}, "first last"),
                        "emails": _object(
                            {"items": _list(_object({"email": email, "primary": _FLAG}, "email primary"))},
                            "items",
                        ),
                    },
                    "name emails",
                ),
            },
            "id revision primaryInfo info",
        ),
        "Product": _object(
            {
                "id": _GUID,
                "name": _text(),
                "visible": _FLAG,
                "priceData": _object({"currency": _CURRENCY, "price": {"type": "number"}}, "currency price"),
            },
            "id name visible priceData",
        ),
        "Order": _object(
            {
                "id": _GUID,
                "number": _text(),
                "buyerInfo": _object({"email": _text()}, "email"),
                "billingInfo": _object(
                    {
                        "contactDetails": _object(
                            {"firstName": _text(), "lastName": _text()}, "firstName lastName"
                        )
                    },
                    "contactDetails",
                ),
                "createdDate": _DATE,
                "currency": _CURRENCY,
                "status": _const("APPROVED"),
                "paymentStatus": _enum(
                    "UNPAID", "PARTIALLY_PAID", "PAID", "PARTIALLY_REFUNDED", "FULLY_REFUNDED"
                ),
                "priceSummary": _object({"total": price}, "total"),
                "balanceSummary": _object(
                    {"balance": price, "paid": price, "refunded": price}, "balance paid refunded"
                ),
            },
            "id createdDate currency status paymentStatus priceSummary balanceSummary",
        ),
        "OrderTransactions": _object(
            {"orderId": _GUID, "payments": _list(paid), "refunds": _list(refund)},
            "orderId payments refunds",
            description="the only place where refunds show",
        ),
    }


def _schemas() -> dict[str, Schema]:
    return {
        "PaymentLink": _answered_link(),
        "PaymentLinkPayment": _answered_payment(),
        **_neighbours(),
        **_GIVEN,
        **_asked("Link", query.LINKS),
        **_asked("Payment", query.PAYMENTS),
        **_PAGES,
        **_ERRORS,
    }


# -- Operations ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One of Wix's methods. name: as Wix documents it. answer: of 200. body: None where none is read.

    invalid, missing, unready: application codes of 400, 404 and 428, with when they come. leads_to: operations
    that take an id out of this answer, by operation id: the parameter, and where its value is.
    """

    method: Literal["get", "post", "patch", "delete"]
    path: str
    name: str
    tag: str
    summary: str
    certainty: Certainty
    answer: Schema
    note: str = ""
    body: Schema | None = None
    example: Any = None
    invalid: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    unready: Mapping[str, str] = field(default_factory=dict)
    leads_to: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`operationId`: the name as programs write it."""
        first, *rest = self.name.split()
        return first.lower() + "".join(rest)

    @property
    def is_sign_in(self) -> bool:
        """Whether it is asked without being signed in."""
        return self.tag == "Sign-in"

    @property
    def takes_nothing(self) -> bool:
        """Whether the body may be left out: an empty one means `{}`."""
        return self.body is not None and not {"required", "anyOf", "$ref"} & set(self.body)


def _operation(known: Operation) -> Schema:
    built: Schema = {
        "operationId": known.id,
        "summary": known.summary,
        "description": f"Wix's method: {known.name}." + (f" {known.note}" if known.note else ""),
        "tags": [known.tag],
        "x-wix-method": known.name,
        "x-wix-certainty": known.certainty,
    }
    if "{" in known.path:
        name = known.path.partition("{")[2].partition("}")[0]
        built["parameters"] = [{"name": name, "in": "path", "required": True, "schema": _GUID}]
    if known.body is not None:
        content: Schema = {"schema": known.body, "example": known.example}
        built["requestBody"] = {"required": not known.takes_nothing, "content": {"application/json": content}}
    if known.is_sign_in:
        built["security"] = []
    built["responses"] = _answers(known)
    return built


def _answers(known: Operation) -> Schema:
    success = _response("Done.", known.answer)
    if known.leads_to:
        success["links"] = {
            other: {"operationId": other, "parameters": {parameter: f"$response.body#{place}"}}
            for other, (parameter, place) in known.leads_to.items()
        }
    answers: dict[str, Schema] = {"200": success}
    if known.path == PATH_TOKEN:
        answers["400"] = _response("The request is wrong, or the app not installed.", _ref("OAuthError"))
        answers["401"] = _response("Unknown app or wrong secret.", _ref("OAuthError"))
    else:
        if known.invalid:
            answers["400"] = _refusal("The request is wrong.", known.invalid, or_invalid=True)
        elif known.body is not None:
            answers["400"] = _ref("Invalid", "responses")
        if not known.is_sign_in:
            answers["401"] = _ref("Unauthenticated", "responses")
            answers["403"] = _ref("Forbidden", "responses")
    if known.missing:
        answers["404"] = _refusal("There is no such thing on this site.", known.missing)
    if known.body is not None:
        answers["413"] = _ref("TooLarge", "responses")
    if known.unready:
        answers["428"] = _refusal("Not as things are.", known.unready)
    return answers | {"429": _ref("TooMany", "responses"), "5XX": _ref("Unavailable", "responses")}


_LINK = f"{PATH_LINKS}/{{paymentLinkId}}"
_A_LINK = _wrapped("paymentLink", "PaymentLink", "inferred")
_OF_NEW_LINK = (
    *("getPaymentLink", "deactivatePaymentLink", "activatePaymentLink"),
    *("setPaymentLinkNote", "initiatePayment", "deletePaymentLink"),
)
_FILTER_EXAMPLE = {"createdDate": {"$gte": "2026-01-01T00:00:00Z"}}
_TAGS_EXAMPLE = {"assignTags": {"privateTags": {"tagIds": ["wholesale"]}}}


# What Issue Receipt answers with, by what may be assumed of it. The usual one comes first.
RECEIPT_ANSWERS: dict[str, Schema] = {
    "receiptId": _object({"receiptId": _GUID}, "receiptId"),
    "receipt": _wrapped("receipt", "Receipt"),
    "paymentLinkPayment": _wrapped("paymentLinkPayment", "PaymentLinkPayment"),
    "nothing": _EMPTY,
}


@dataclass(frozen=True, slots=True)
class _Listed:
    """What can be queried and searched. asked: how the components of its requests begin; of: its own component.

    sure: of the name under which an answer holds it.
    """

    path: str
    tag: str
    asked: str
    of: str
    sure: Certainty

    @property
    def items(self) -> str:
        """The member of an answer that holds them."""
        return f"{self.of[0].lower()}{self.of[1:]}s"


_LINKS = _Listed(PATH_LINKS, "Payment links", "Link", "PaymentLink", "inferred")
_PAYMENTS = _Listed(PATH_PAYMENTS, "Payment link payments", "Payment", "PaymentLinkPayment", "confirmed")


def _finding(
    verb: Literal["Query", "Search"], listed: _Listed, summary: str, example: Schema, **more: Any
) -> Operation:
    """Query or Search. example: what stands in the body under the verb."""
    word = verb.lower()
    found = {
        listed.items: _sure(listed.sure, _list(_ref(listed.of), query.PAGE_MAX)),
        "pagingMetadata": _ref("PagingMetadata"),
    }
    if verb == "Search":
        results = _object({"results": _list(_ref("AggregationResult"))}, "results")
        found["aggregationData"] = _sure("inferred", results)
    return Operation(
        method="post",
        path=f"{listed.path}/{word}",
        name=f"{verb} {listed.tag.title()}",
        tag=listed.tag,
        summary=summary,
        certainty="confirmed",
        body=_wrapped(word, f"{listed.asked}{verb}"),
        example={word: example},
        answer=_object(found, f"{listed.items} pagingMetadata"),
        **more,
    )


def _neighbour_query(
    path: str, name: str, summary: str, most: int, answer: Schema, *, unfiltered: str
) -> Operation:
    """A query that pages by offset; its filters are not imitated. unfiltered: how Wix writes an empty one."""
    nothing: Schema = {"enum": [None, {}, "", "{}"], "description": unfiltered}
    paging = _object({"offset": _whole(0, 1_000_000, default=0), "limit": _whole(1, most, default=most)})
    return Operation(
        method="post",
        path=f"{path}/query",
        name=name,
        tag="Neighbours",
        summary=summary,
        certainty="confirmed",
        note="The sandbox refuses filters.",
        body=_object({"query": _or_null(_object({"filter": nothing, "paging": _or_null(paging)}))}),
        example={"query": {"paging": {"offset": 0, "limit": 50}}},
        answer=answer,
    )


def _link_operation(name: str, path: str, summary: str, certainty: Certainty, **more: Any) -> Operation:
    """An operation on one link, by POST."""
    return Operation(
        **{
            "method": "post",
            "path": f"{_LINK}/{path}",
            "name": name,
            "tag": "Payment links",
            "summary": summary,
            "certainty": certainty,
            "answer": _A_LINK,
            "missing": _NO_LINK,
            **more,
        }
    )


def _get(path: str, name: str, tag: str, certainty: Certainty, answer: Schema, what: str) -> Operation:
    return Operation(
        method="get",
        path=path,
        name=name,
        tag=tag,
        summary=f"One {what}",
        certainty=certainty,
        answer=answer,
        missing=_no(what),
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="post",
        path=PATH_TOKEN,
        name="Create Access Token",
        tag="Sign-in",
        summary="An access token for one installation of the app",
        certainty="confirmed",
        note="OAuth 2 client credentials, as JSON. There is no refresh token: ask again.",
        body=_ref("TokenRequest"),
        example={
            "grant_type": "client_credentials",
            "client_id": "the app's id",
            "client_secret": "the app's secret",
            "instance_id": _EXAMPLE_ID,
        },
        answer=_object(
            {
                "access_token": _text(),
                "token_type": _const("Bearer"),
                "expires_in": {
                    "type": "integer",
                    "const": TOKEN_SECONDS,
                    "description": "seconds: always 4 hours",
                },
            },
            "access_token token_type expires_in",
        ),
    ),
    Operation(
        method="post",
        path="/oauth2/token-info",
        name="Token Info",
        tag="Sign-in",
        summary="Whose token it is, and until when",
        certainty="confirmed",
        body=_object({"token": _text()}, "token"),
        example={"token": "an access token"},
        answer=_object(
            {
                "active": _sure("inferred", _FLAG),
                "clientId": _text(),
                "instanceId": _text(),
                "exp": _sure("inferred", _whole(0), "Unix seconds."),
            },
            "active",
        ),
    ),
    Operation(
        method="post",
        path=PATH_LINKS,
        name="Create Payment Link",
        tag="Payment links",
        summary="A new link; nothing is sent to anybody",
        certainty="confirmed",
        body=_object({"paymentLink": _ref("NewPaymentLink")}, "paymentLink"),
        example={
            "paymentLink": {
                "title": "Tea",
                "currency": "USD",
                "type": "ECOM",
                "ecomPaymentLink": {
                    "lineItems": [
                        {"type": "CUSTOM", "customItem": {"name": "Tea", "quantity": 1, "price": "4.50"}}
                    ]
                },
            }
        },
        answer=_wrapped("paymentLink", "PaymentLink"),
        invalid={
            "INVALID_PAYMENTS_LIMIT_FOR_ECOM_ORDER_PAYMENT_LINK": "`paymentsLimit` must be 1 for a link to an order"
        },
        missing={
            **_NO_RECIPIENT,
            "ORDER_NOT_FOUND": "the order does not exist",
            "SANDBOX_CATALOG_ITEM_NOT_FOUND": "no such item in the catalog",
        },
        unready={
            **_SITE_CODES,
            "SANDBOX_CURRENCY_MISMATCH": "the item or the order is in another currency",
            **_BALANCE,
        },
        leads_to=dict.fromkeys(_OF_NEW_LINK, ("paymentLinkId", "/paymentLink/id")),
    ),
    _get(_LINK, "Get Payment Link", "Payment links", "confirmed", _A_LINK, "payment link"),
    Operation(
        method="delete",
        path=_LINK,
        name="Delete Payment Link",
        tag="Payment links",
        summary="Delete a link that was never paid",
        certainty="confirmed",
        answer=_sure("inferred", _EMPTY),
        missing=_NO_LINK,
        unready={"SANDBOX_LINK_HAS_PAYMENTS": "a link that received a payment stays"},
    ),
    _finding(
        "Query",
        _LINKS,
        "Links by filter, page by page",
        {"filter": {"status": "ACTIVE"}, "cursorPaging": {"limit": query.PAGE_MAX}},
        note="New and changed links may take a while to show.",
        leads_to={"getPaymentLink": ("paymentLinkId", "/paymentLinks/0/id")},
    ),
    _finding(
        "Search",
        _LINKS,
        "Links by words, with aggregations",
        {
            "search": {"expression": "tea"},
            "aggregations": [{"name": "states", "type": "VALUE", "fieldPath": "status"}],
        },
    ),
    _link_operation(
        "Activate Payment Link",
        "activate",
        "Let an inactive link take payments",
        "confirmed",
        unready=_STATUS,
        leads_to={"deletePaymentLink": ("paymentLinkId", "/paymentLink/id")},
    ),
    _link_operation(
        "Deactivate Payment Link",
        "deactivate",
        "Let a link take no payments",
        "confirmed",
        unready=_STATUS,
        leads_to={"activatePaymentLink": ("paymentLinkId", "/paymentLink/id")},
    ),
    _link_operation(
        "Initiate Payment",
        "initiate-payment",
        "A checkout to lead a buyer to: not a payment",
        "confirmed",
        answer=_object(
            {
                "ecomCheckout": _object(
                    {"checkoutUrl": _text(), "checkoutId": _sure("third-party", _GUID)},
                    "checkoutUrl checkoutId",
                ),
                "ecomOrder": _object({"orderUrl": _text()}, "orderUrl"),
            },
            minProperties=1,
            maxProperties=1,
            description="`ecomCheckout` of ECOM links, `ecomOrder` of ECOM_ORDER links",
        ),
        unready={
            "SANDBOX_LINK_NOT_ACTIVE": "the link is not ACTIVE",
            "SANDBOX_PAYMENTS_LIMIT_REACHED": "the link was paid as often as it may be",
            **_BALANCE,
        },
    ),
    _link_operation(
        "Send Payment Link",
        "send",
        "Send a link to contacts",
        "confirmed",
        note="To those given, else to those of the link's creation. The sandbox notes it and mails nothing.",
        body=_object(
            {
                "paymentLinkId": _GUID | {"description": "if given, that of the path"},
                "recipients": _sure(
                    "third-party", _or_null(_list(_ref("NewRecipient"), links.RECIPIENTS_MAX))
                ),
            }
        ),
        example={"recipients": [{"contactId": _EXAMPLE_ID, "sendMethods": ["EMAIL_METHOD"]}]},
        answer=_sure("unknown", _EMPTY),
        missing={**_NO_LINK, **_NO_RECIPIENT},
    ),
    _link_operation(
        "Set Payment Link Note",
        "set-note",
        "The merchant's own note on a link",
        "third-party",
        body=_object({"note": _object({"text": _text(links.NOTE_MAX, 1)}, "text")}, "note"),
        example={"note": {"text": "ask for the parcel number"}},
    ),
    _link_operation(
        "Update Extended Fields",
        "update-extended-fields",
        "Put data of an app beside a link's own",
        "third-party",
        body=_object(
            {"namespace": _text(100, 1), "namespaceData": _FREE},
            "namespace namespaceData",
            sure="inferred",
        ),
        example={"namespace": "@example/ledger", "namespaceData": {"reference": "R-1"}},
    ),
    Operation(
        method="post",
        path=f"{PATH_LINKS}/bulk-update-tags",
        name="Bulk Update Payment Link Tags",
        tag="Payment links",
        summary="Tags of links by their ids, each by itself",
        certainty="third-party",
        body=_tag_change(
            {"paymentLinkIds": _sure("inferred", _list(_text(100, 1), links.BULK_MAX, 1))}, "paymentLinkIds"
        ),
        example={"paymentLinkIds": [_EXAMPLE_ID], **_TAGS_EXAMPLE},
        answer=_sure(
            "inferred",
            _object(
                {
                    "results": _list(
                        _object(
                            {
                                "itemMetadata": _object(
                                    {
                                        "id": _text(),
                                        "originalIndex": _whole(0),
                                        "success": _FLAG,
                                        "error": _object(
                                            {
                                                "code": _enum(*_NO_LINK, "SANDBOX_TOO_MANY_TAGS"),
                                                "description": _text(),
                                                "data": _FREE,
                                            },
                                            "code description data",
                                        ),
                                    },
                                    "id originalIndex success",
                                )
                            },
                            "itemMetadata",
                        )
                    ),
                    "bulkActionMetadata": _object(
                        {
                            "totalSuccesses": _whole(0),
                            "totalFailures": _whole(0),
                            "undetailedFailures": _whole(0),
                        },
                        "totalSuccesses totalFailures undetailedFailures",
                    ),
                },
                "results bulkActionMetadata",
            ),
        ),
    ),
    Operation(
        method="post",
        path=PATH_TAGS_BY_FILTER,
        name="Bulk Update Payment Link Tags By Filter",
        tag="Payment links",
        summary="Tags of all links that a filter finds; an empty filter finds all",
        certainty="third-party",
        note="At Wix a job runs later; the sandbox's is done when it answers.",
        body=_tag_change({"filter": _or_null(_ref("LinkFilter"))}),
        example={"filter": {"status": "ACTIVE"}, **_TAGS_EXAMPLE},
        answer=_object({"jobId": _GUID}, "jobId"),
        invalid={"SANDBOX_TOO_MANY_TAGS": f"a link has at most {links.TAG_MAX} tags of a list"},
    ),
    _finding(
        "Query",
        _PAYMENTS,
        "Payments by filter, page by page",
        {"filter": _FILTER_EXAMPLE, "cursorPaging": {"limit": query.PAGE_MAX}},
        note="There is no filter by id or by change time. New payments may take a while to show.",
        leads_to={"issueReceipt": ("paymentLinkPaymentId", "/paymentLinkPayments/0/id")},
    ),
    _finding(
        "Search",
        _PAYMENTS,
        "Payments by words, with aggregations",
        {
            "filter": _FILTER_EXAMPLE,
            "aggregations": [
                {
                    "name": "days",
                    "type": "DATE_HISTOGRAM",
                    "fieldPath": "createdDate",
                    "dateHistogram": {"interval": "DAY"},
                }
            ],
        },
    ),
    Operation(
        method="post",
        path=f"{PATH_PAYMENTS}/{{paymentLinkPaymentId}}/issue-receipt",
        name="Issue Receipt",
        tag="Payment link payments",
        summary="A receipt for one payment, once",
        certainty="third-party",
        note="The payment gets `receiptId` and its next revision.",
        answer=_sure(
            "unknown",
            {"anyOf": [schema | {"title": name} for name, schema in RECEIPT_ANSWERS.items()]},
            "The first, unless the sandbox is told otherwise by `--assume receipt-answer`.",
        ),
        missing=_no("payment"),
        unready={"SANDBOX_RECEIPT_EXISTS": "the payment has a receipt already"},
        leads_to={"getReceipt": ("receiptId", "/receiptId")},
    ),
    _get(
        f"{PATH_RECEIPTS}/{{receiptId}}",
        "Get Receipt",
        "Receipts",
        "third-party",
        _wrapped("receipt", "Receipt", "unknown"),
        "receipt",
    ),
    Operation(
        method="get",
        path=PATH_SETTINGS,
        name="Get Payment Links Settings",
        tag="Settings",
        summary="The site's settings of payment links",
        certainty="third-party",
        answer=_wrapped(SETTINGS, "Settings"),
    ),
    Operation(
        method="patch",
        path=PATH_SETTINGS,
        name="Update Payment Links Settings",
        tag="Settings",
        summary="Change settings: what is given replaces what was",
        certainty="third-party",
        body=_object({SETTINGS: _FREE}, SETTINGS),
        example={SETTINGS: {"isReceiptAutomatic": True}},
        answer=_wrapped(SETTINGS, "Settings"),
    ),
    _get(
        f"{PATH_CONTACTS}/{{contactId}}",
        "Get Contact",
        "Neighbours",
        "confirmed",
        _wrapped("contact", "Contact"),
        "contact",
    ),
    _neighbour_query(
        PATH_CONTACTS,
        "Query Contacts",
        "Contacts, oldest first, by offset",
        CONTACTS_MAX,
        _object(
            {
                "contacts": _list(_ref("Contact"), CONTACTS_MAX),
                "pagingMetadata": _object(
                    {"count": _whole(0), "offset": _whole(0), "total": _whole(0)}, "count offset total"
                ),
            },
            "contacts pagingMetadata",
        ),
        unfiltered="an object at Wix; the sandbox takes only an empty one",
    ),
    _get(
        f"{PATH_PRODUCTS}/{{productId}}",
        "Get Product",
        "Neighbours",
        "confirmed",
        _wrapped("product", "Product"),
        "product",
    ),
    _neighbour_query(
        PATH_PRODUCTS,
        "Query Products",
        "Products of Wix Stores, oldest first, by offset",
        PRODUCTS_MAX,
        _object(
            {
                "products": _list(_ref("Product"), PRODUCTS_MAX),
                "metadata": _object({"items": _whole(0), "offset": _whole(0)}, "items offset"),
                "totalResults": _whole(0),
            },
            "products metadata totalResults",
        ),
        unfiltered="JSON as text at Wix; the sandbox takes only an empty one",
    ),
    _get(
        f"{PATH_ORDERS}/{{orderId}}",
        "Get Order",
        "Neighbours",
        "confirmed",
        _wrapped("order", "Order"),
        "order",
    ),
    Operation(
        method="post",
        path=f"{PATH_ORDERS}/search",
        name="Search Orders",
        tag="Neighbours",
        summary="Orders, the newest first",
        certainty="third-party",
        note="One page. The sandbox refuses filters and words.",
        body=_object(
            {
                "search": _or_null(
                    _object(
                        {
                            "filter": {"enum": [None, {}]},
                            "search": {"enum": [None, {}]},
                            "sort": {"enum": [None, [], [{"fieldName": "createdDate", "order": "DESC"}]]},
                            "cursorPaging": _or_null(
                                _object({"limit": _whole(1, ORDERS_MAX, default=ORDERS_MAX)})
                            ),
                        }
                    )
                )
            }
        ),
        example={"search": {"cursorPaging": {"limit": 50}}},
        answer=_object(
            {
                "orders": _list(_ref("Order"), ORDERS_MAX),
                "metadata": _object(
                    {"count": _whole(0), "hasNext": {"const": False}, "cursors": _object({})},
                    "count hasNext cursors",
                ),
            },
            "orders metadata",
        ),
    ),
    Operation(
        method="get",
        path=f"{PATH_ORDER_PAYMENTS}/{{orderId}}",
        name="List Transactions For Single Order",
        tag="Neighbours",
        summary="An order's payments and refunds",
        certainty="confirmed",
        answer=_wrapped("orderTransactions", "OrderTransactions"),
        missing=_no("order"),
    ),
)
