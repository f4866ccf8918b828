"""Commands for people and programs: links, events, payments, instances, reconcile, replay.

common.py   options, tables, JSON, following      books.py   events, payments, instances
links/      the flows of payment links            work.py    reconcile, replay

Everything heavy is imported inside a command, so that `processor --help` answers at once.
"""
