"""A pretend Wix on this machine: the Payment Links API, checkout pages, signed webhooks and fault switches.

documents.py  its memory, in SQLite       world.py      what Wix knows and its rules
events.py     webhook bodies              query.py      filters, sorts, pages, search
delivery.py   resends and deadlines       faults.py     what goes wrong
api.py        Wix's REST paths            control.py    `/_sandbox/`, for tests and stories
pages/        for buyers and merchants    scenarios.py  stories to play, in `scenarios/`
keys.py       signing                     seed.py       a past of any size
cli.py        its commands                server.py     everything put together

It shares nothing with the service but the wire models, so that a mistake is not made on both sides.
"""
