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
    reports,
    rules,
    runs,
)

ALL = (overview, payments, links, discrepancies, reports, runs, events, jobs, health, audit, pay, rules)
