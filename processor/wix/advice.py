"""What to do about a refusal of Wix, for a person who asked for something to be done with a link."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from processor.errors import WixError

_OPERATION = re.compile(r"^[a-z_]+: ")  # how the client's messages begin

# By Wix's code (Wix's recipe "Create Payment Links") or else, for a failed precondition, by what was asked for.
_BY_CODE = {
    "UNPUBLISHED_SITE": "publish the site first",
    "MISSING_ACCEPT_PAYMENTS": "let the site accept payments first, in its dashboard",
    "FAILED_TO_INSTALL_ECOM": "add Wix eCommerce to the site first",
    "RECIPIENT_NOT_FOUND": "a recipient is no contact of the site",
    "ORDER_NOT_FOUND": "the site has no such order",
    "INVALID_PAYMENTS_LIMIT_FOR_ECOM_ORDER_PAYMENT_LINK": "an order's link has a limit of 1 payment",
}
_BY_ACTION = {
    "create": "the site must be published, able to take payments, and have a premium plan",
    "delete": "only a link that nothing was paid by can be deleted; any can be deactivated",
    "initiate": "the link takes no payment now: look at its status and its limit",
    "activate": "its status does not allow it",
    "deactivate": "its status does not allow it",
}
_LACKS_PERMISSION = (
    "the app lacks the permission Manage Paylinks (SCOPE.PAYLINKS.MANAGE), or is not on this site any more"
)


def in_words(
    why: WixError,
    action: str,
    *,
    link_id: UUID | None = None,
    payment_id: UUID | None = None,
) -> str:
    """What Wix's error means to whoever asked for `action`: what is wrong and what to do.

    action: the name of a command of `processor links`. link_id, payment_id: of what it was asked about.
    """
    said = _OPERATION.sub("", str(why))
    answer = said.removeprefix("Wix answered ")
    if answer == said:  # none, or one that says by itself what is wrong, as when a token is refused
        return said
    if advice := _BY_CODE.get(why.code or ""):
        return f"Wix refuses it: {advice} ({answer})"
    if why.status == 404:
        for id_, thing in ((link_id, "payment link"), (payment_id, "payment")):
            if id_ is not None:
                return f"Wix knows no {thing} {id_} ({answer})"
    if why.status == 403:
        return f"Wix forbids it: {_LACKS_PERMISSION} ({answer})"
    # Of a creation, a code that is not known may mean anything, such as an amount above what is open of an order.
    if why.status == 428 and action in _BY_ACTION and not (action == "create" and why.code):
        return f"Wix refuses it: {_BY_ACTION[action]} ({answer})"
    return said
