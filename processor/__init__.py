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

__version__ = "0.1.0"
