"""Payment Link Processor: signed Wix webhooks in, a reconciled PostgreSQL money trail out.

cli, demo         what an operator runs
web, clock        receive webhooks; enqueue what the database says is due
jobs              what the worker runs: checks and sweeps
wiring            the parts of one process, built once
queue, logs, metrics
store, wix        PostgreSQL; the Wix boundary
config
domain            decisions, pure
errors            exceptions, sorted by what the caller does next

sandbox           a pretend Wix
embedded          a private PostgreSQL and Valkey for demo and tests
"""

import gc

__version__ = "0.1.0"

# Nearly all that is made while a process starts stays: looking for garbage among it 400 times, as Python does by
# itself, took a fifth of the start.
gc.set_threshold(10_000, 10, 100)
