"""What products of a catalog are called: Wix's links name them by their ids alone. Each process remembers some."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from processor.errors import ConfigurationError, WixError, WixNotFound
from processor.web.pages import link_view
from processor.web.pages.site import Site

ASKED_MAX = 5  # products that one look asks Wix about; each is a call
LIFE = timedelta(hours=1)  # shops call them otherwise now and then
HELD_MAX = 2_000


class ProductNames:
    """Names of products, by app instance and id."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._held: OrderedDict[tuple[UUID, str], tuple[str, datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, instance_id: UUID, product_ids: Iterable[str], *, asks: bool = True) -> dict[str, str]:
        """Names by id, of those that are known. asks: Wix about those that are not, ASKED_MAX at most.

        What Wix does not know, or cannot be asked about now, is left out.
        """
        found: dict[str, str] = {}
        left = ASKED_MAX if asks else 0
        for product_id in dict.fromkeys(product_ids):
            name = self._known(instance_id, product_id)
            if name is None and left:
                left -= 1
                name = self._asked(instance_id, product_id)
                left = left if name is not None else 0
            if name:
                found[product_id] = name
        return found

    def _known(self, instance_id: UUID, product_id: str) -> str | None:
        """An empty text for what Wix does not know, None when it is to be asked."""
        with self._lock:
            held = self._held.get((instance_id, product_id))
        return held[0] if held is not None and self._site.services.now() < held[1] else None

    def _asked(self, instance_id: UUID, product_id: str) -> str | None:
        """An empty text for what Wix does not know, None when it cannot be asked now."""
        if not self._site.may_display(instance_id):
            return None
        try:
            name = link_view.product(self._site.services.wix.get_product(instance_id, product_id)).name or ""
        except WixNotFound:
            name = ""
        except (WixError, ConfigurationError):
            return None
        with self._lock:
            self._held[instance_id, product_id] = name, self._site.services.now() + LIFE
            while len(self._held) > HELD_MAX:
                self._held.popitem(last=False)
        return name
