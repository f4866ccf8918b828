"""The screens, each a module with a `blueprint`; their order is that of the navigation."""

from __future__ import annotations

from processor.web.pages.screens import (
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

ALL = (overview, payments, links, discrepancies, rules, runs, events, jobs, health, pay)
