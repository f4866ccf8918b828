"""Why work failed, for people: what is written down of it is the name of an error and what that says."""

from __future__ import annotations

import re

_NAME = re.compile(r"(?:[\w.]+\.)?(\w+)(?::|$)", re.ASCII)
_AGAIN = "It is tried again by itself"
_CREDENTIALS = (
    "Wix does not accept the app's credentials for this instance, or the app is not on the site any more. An operator"
    " should compare them with the app's page at Wix; the command “processor doctor” says whether they are accepted."
)

_DIED = "Its worker ended without a word, as when a machine restarts. What it was at is begun anew by itself."
# By what is written down of those that end otherwise than by an error.
_SAID = {
    "worker died": _DIED,
    "unknown: the worker may have died": _DIED,
    "taken over by another worker": "It took so long that another worker went on with it: look at the next run.",
    "taken over or cancelled": "Somebody cancelled it, or another worker went on with it after it took too long.",
}
_BY_NAME = {
    "WixUnavailable": (
        f"Wix did not answer, or asked us to wait. {_AGAIN}; what Wix lists is booked once it answers. If it lasts,"
        " look whether Wix has an outage and whether this machine reaches it."
    ),
    "WixUnauthorized": _CREDENTIALS,
    "WixNotFound": "Wix does not know what it was asked about (any more).",
    "WixRefused": (
        "Wix refused what it was asked, so trying again does not help. An operator should report it with the words"
        " below."
    ),
    "StoreUnavailable": f"The database did not answer in time. {_AGAIN}.",
    "OperationalError": f"The database did not answer in time. {_AGAIN}.",
    "ConfigurationError": "A setting is wrong. An operator must change it, as the words below say.",
    "NotDelivered": "The receiver did not take the message, for the reason below.",
    "TooManyPages": "Wix lists more than may be read at once: give a shorter span.",
    "SystemExit": f"Its worker was stopped. {_AGAIN}.",
    "KeyboardInterrupt": f"Its worker was stopped. {_AGAIN}.",
    "JobTimeoutException": f"It took longer than a job may. {_AGAIN}; what was done stays done.",
}
_OTHERWISE = "An error of this service ended it. An operator finds more in the log of that time."
_REMOVED = (
    "The app was removed from this site, so Wix tells nothing about it. Installed again, it is checked again."
)


def failure(reason: str) -> str:
    """What the reason of a failed run or job means, and what to do; itself it is shown beside it."""
    if reason in _SAID:
        return _SAID[reason]
    if "the app was removed from this site" in reason:
        return _REMOVED
    found = _NAME.match(reason)
    return _BY_NAME.get(found[1], _OTHERWISE) if found else _OTHERWISE
