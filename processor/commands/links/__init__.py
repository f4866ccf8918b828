"""`processor links`: the flows of the Payment Links API.

creating.py  create                   showing.py  show, list, sends
sending.py   send, initiate           changing.py activate, deactivate, note, delete, receipt
"""

from __future__ import annotations

# Each adds its commands to the group; `--help` lists them in this order.
from processor.commands.links import changing, creating, sending, showing
from processor.commands.links.shared import METHOD, links

__all__ = ["METHOD", "changing", "creating", "links", "sending", "showing"]
