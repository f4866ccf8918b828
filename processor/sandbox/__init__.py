"""A pretend Wix on this machine: the Payment Links API, checkout pages, signed webhooks and fault switches.

keys.py       signing                     world.py      what Wix knows and its rules
events.py     webhook bodies              query.py      filters, sorts, pages
delivery.py   resends and deadlines       faults.py     what goes wrong
api.py        Wix's REST paths            control.py    `/_sandbox/`, for tests and stories
pages.py      link, checkout and order    server.py     everything put together

It shares nothing with the service but the wire models, so that a mistake is not made on both sides.
"""

from processor.sandbox.server import Options, Sandbox, running_sandbox, serve

__all__ = ["Options", "Sandbox", "running_sandbox", "serve"]
