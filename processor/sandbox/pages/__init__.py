"""What people see of the pretend Wix: plain HTML that works without scripting.

start.py     the app, its sites, the stories     deliveries.py  the delivery log
buyers.py    links, checkouts, orders, thanks    faults.py      the switches
merchant.py  the site's owner                    common.py      forms, refusals, what templates print with
keyset.py    pages of rows                       routes.py      all of them together

A form posts to the page it stands on; `do` says what its button does. Done, it redirects (303); refused, the
page comes again with the words beside the form. What is done is done by the world, as by the control API.
"""

from processor.sandbox.pages.routes import blueprint, is_wanted, refused

__all__ = ["blueprint", "is_wanted", "refused"]
