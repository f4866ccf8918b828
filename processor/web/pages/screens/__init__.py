"""The screens, each a module with a `blueprint`; their order is that of the navigation."""

from __future__ import annotations

from processor.web.pages.screens import (
    audit,
    discrepancies,
    events,
    health,
    jobs,
    links,
    overview,
    pay,
    payments,
    rules,
    runs,
)

ALL = (overview, payments, links, discrepancies, runs, events, jobs, health, audit, pay, rules)
