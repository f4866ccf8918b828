"""The schema: what models say is what migrations make, in both directions."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, text

from processor.config import database_url as sqlalchemy_url
from processor.store import migrations
from processor.store.tables import Base

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = """
SELECT 'column' AS kind, c.relname || '.' || a.attname AS name,
    format('%s|%s|%s|%s|%s', format_type(a.atttypid, a.atttypmod), a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated) AS definition
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relname <> 'alembic_version'
UNION ALL
SELECT 'constraint', r.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid
    JOIN pg_namespace n ON n.oid = r.relnamespace AND n.nspname = 'public'
WHERE r.relname <> 'alembic_version' AND NOT r.relispartition
UNION ALL
SELECT 'index', indexname, indexdef FROM pg_indexes JOIN pg_class i ON i.relname = indexname
WHERE schemaname = 'public' AND tablename <> 'alembic_version' AND NOT i.relispartition
ORDER BY 1, 2
"""


@pytest.fixture
def url(empty_database_url: str) -> str:
    return sqlalchemy_url(empty_database_url)


def catalogue(engine: Engine) -> dict[tuple[str, str], str]:
    with engine.connect() as connection:
        return {(row.kind, row.name): row.definition for row in connection.execute(text(CATALOGUE))}


def test_models_and_migrated_schema_are_the_same_catalogue(url: str) -> None:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    modelled = catalogue(engine)
    Base.metadata.drop_all(engine)
    assert catalogue(engine) == {}

    migrations.upgrade(url)

    migrated = catalogue(engine)
    assert migrated == modelled
    assert len(migrated) > 200
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": migrations.is_of_models})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_up_down_and_up_again(url: str) -> None:
    engine = create_engine(url)
    migrations.upgrade(url)
    first = catalogue(engine)

    migrations.downgrade(url, "base")

    assert catalogue(engine) == {}
    migrations.upgrade(url)
    assert catalogue(engine) == first
    engine.dispose()


# 0005 is left out: nobody has to begin it anew any more.
IN_STEPS = [
    revision
    for path in sorted((ROOT / "migrations" / "versions").glob("*.py"))
    if (revision := path.name.partition("_")[0]) != "0005" and "autocommit_block" in path.read_text()
]


@pytest.mark.parametrize("revision", IN_STEPS)
def test_a_migration_that_failed_between_two_transactions_may_be_run_again(
    url: str, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = MigrationContext.autocommit_block

    @contextlib.contextmanager
    def cut(self: MigrationContext) -> Iterator[None]:
        with block(self):
            yield
            raise TimeoutError("a lock was not to be had")

    migrations.upgrade(url, f"{int(revision) - 1:04}")
    with monkeypatch.context() as patched:
        patched.setattr(MigrationContext, "autocommit_block", cut)
        with pytest.raises(TimeoutError):
            migrations.upgrade(url, revision)

    migrations.upgrade(url)

    assert len(IN_STEPS) >= 6
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": migrations.is_of_models})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_two_migrations_at_once_wait_for_each_other(url: str, empty_database_url: str) -> None:
    command = [sys.executable, "-m", "processor", "migrate"]
    environ = {**os.environ, "DATABASE_URL": empty_database_url}
    running = [subprocess.Popen(command, cwd=ROOT, env=environ) for _ in range(3)]

    assert [process.wait(60) for process in running] == [0, 0, 0]
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [
            migrations.head()
        ]
    engine.dispose()


def test_the_newest_migration_and_those_known_are_what_alembic_reads() -> None:
    scripts = ScriptDirectory.from_config(migrations.configuration())

    assert migrations.head() == scripts.get_current_head()
    assert all(migrations.is_known(one.revision) for one in scripts.walk_revisions())
    assert not migrations.is_known("9999")


def test_migrations_run_with_time_limits(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def look(config: Any, _revision: str) -> None:
        from alembic import command
        from alembic.runtime.environment import EnvironmentContext

        def note(self: Any, **kwargs: Any) -> None:
            connection = config.attributes["connection"]
            for name in ("lock_timeout", "statement_timeout"):
                seen[name] = connection.execute(text(f"SHOW {name}")).scalar_one()
            seen["locks"] = connection.execute(
                text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
            ).scalar_one()
            original(self, **kwargs)

        original = EnvironmentContext.run_migrations
        monkeypatch.setattr(EnvironmentContext, "run_migrations", note)
        command.upgrade(config, "head")

    migrations._run(url, "head", look)

    assert seen == {"lock_timeout": "5s", "statement_timeout": "10min", "locks": 1}


@pytest.mark.parametrize("revision", ["0021", "0024", "0026"])
def test_indexes_wait_for_a_transaction_that_outlasts_the_limit_of_a_statement(
    url: str, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a backup: a migration that gave up would begin anew with each deploy, and never end."""
    block = MigrationContext.autocommit_block

    @contextlib.contextmanager
    def hurried(self: MigrationContext) -> Iterator[None]:
        with block(self):
            assert self.connection is not None
            self.connection.execute(text("SET statement_timeout = '300ms'"))
            yield

    migrations.upgrade(url, f"{int(revision) - 1:04}")
    engine = create_engine(url)
    with (
        engine.connect().execution_options(isolation_level="REPEATABLE READ") as backup,
        monkeypatch.context() as patched,
    ):
        backup.execute(text("SELECT count(*) FROM payments, discrepancies"))
        patched.setattr(MigrationContext, "autocommit_block", hurried)
        after = threading.Timer(1.5, backup.rollback)
        after.start()
        migrations.upgrade(url, revision)
        after.join()
    engine.dispose()


# As the release before left them: a row for each time a difference came up. (type, payment, hour opened, closed, seen)
LIVES = """
INSERT INTO app_instances (instance_id, installed_at) VALUES (gen_random_uuid(), now());
INSERT INTO reconciliation_runs (run_id, instance_id, kind, status, started_at, finished_at, code_version)
SELECT gen_random_uuid(), instance_id, 'check', 'succeeded', now(), now(), '0' FROM app_instances;
INSERT INTO discrepancies (discrepancy_id, instance_id, type, severity, state, payment_link_id, payment_id, sides,
    first_seen_at, last_seen_at, times_seen, first_run_id, last_run_id, closed_at, resolution)
SELECT gen_random_uuid(), r.instance_id, v.type, 'error', CASE WHEN v.ended IS NULL THEN 'open' ELSE 'resolved' END,
    CAST('00000000-0000-0000-0000-000000000001' AS uuid), CAST(v.payment AS uuid), '{}',
    timestamptz '2026-11-01Z' + v.began * interval '1 h', timestamptz '2026-11-01Z' + v.began * interval '1 h', v.times,
    r.run_id, r.run_id, timestamptz '2026-11-01Z' + v.ended * interval '1 h',
    CASE WHEN v.ended IS NOT NULL THEN 'no longer differs' END
FROM reconciliation_runs r CROSS JOIN (VALUES
    ('total_differs', NULL, 1, 2, 3),
    ('total_differs', NULL, 4, 6, 2),
    ('total_differs', NULL, 8, NULL, 1),
    ('amount_differs', '00000000-0000-0000-0000-000000000009', 1, 5, 4)) AS v (type, payment, began, ended, times)
"""
MERGED = """
SELECT type, state, times_seen, times_reopened, CAST(extract(hour FROM first_seen_at AT TIME ZONE 'UTC') AS int),
    reason,    array(SELECT kind FROM discrepancy_steps s WHERE s.discrepancy_id = d.discrepancy_id ORDER BY step_id)
FROM discrepancies d ORDER BY type
"""


def test_rows_of_one_difference_become_one_with_a_step_for_each_time(url: str) -> None:
    migrations.upgrade(url, "0008")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(LIVES))

    migrations.upgrade(url)

    with engine.connect() as connection:
        amount, total = connection.execute(text(MERGED)).all()
    assert tuple(amount) == ("amount_differs", "resolved", 4, 0, 1, "caught_up", ["opened", "resolved"])
    steps = ["opened", "resolved", "reopened", "resolved", "reopened"]
    assert tuple(total) == ("total_differs", "open", 6, 2, 1, None, steps)
    migrations.downgrade(url, "0008")
    migrations.upgrade(url)
    engine.dispose()


DATED = """
INSERT INTO payments (instance_id, payment_id, payment_link_id, revision, amount, currency, first_origin, origin,
    run_id, stored_at, changed_at, last_verdict, last_told_at, transaction_at, created_at)
SELECT instance_id, CAST(v.payment AS uuid), gen_random_uuid(), 1, 1, 'EUR', 'poll', 'poll', run_id, now(), now(),
    'new', now(), CAST(v.paid AS timestamptz), CAST(v.created AS timestamptz)
FROM reconciliation_runs CROSS JOIN (VALUES
    ('00000000-0000-0000-0000-000000000001', '2026-10-01Z', '2026-09-01Z'),
    ('00000000-0000-0000-0000-000000000002', NULL, '2026-09-02Z'),
    ('00000000-0000-0000-0000-000000000003', NULL, NULL)) AS v (payment, paid, created);
INSERT INTO discrepancies (discrepancy_id, instance_id, type, severity, state, payment_link_id, payment_id, sides,
    first_seen_at, last_seen_at, opened_at, first_run_id, last_run_id)
SELECT CAST(v.id AS uuid), instance_id, 'amount_differs', 'error', 'open', gen_random_uuid(), CAST(v.id AS uuid), '{}',
    timestamptz '2026-11-01Z', timestamptz '2026-11-01Z', timestamptz '2026-11-03Z', run_id, run_id
FROM reconciliation_runs CROSS JOIN (VALUES
    ('00000000-0000-0000-0000-000000000001'), ('00000000-0000-0000-0000-000000000002'),
    ('00000000-0000-0000-0000-000000000003'), ('00000000-0000-0000-0000-000000000004')) AS v (id);
"""


def test_what_was_open_before_is_as_old_as_it_was(url: str) -> None:
    migrations.upgrade(url, "0020")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(LIVES[: LIVES.index("INSERT INTO discrepancies")] + DATED))
        before = connection.execute(
            text("SELECT discrepancy_id, aged_from FROM report.open_items ORDER BY 1")
        ).all()

    migrations.upgrade(url)

    with engine.connect() as connection:
        after = connection.execute(
            text("SELECT discrepancy_id, aged_from FROM discrepancies ORDER BY 1")
        ).all()
    assert [tuple(row) for row in after] == [tuple(row) for row in before]
    assert [f"{row.aged_from:%m-%d}" for row in after] == ["10-01", "09-02", "11-03", "11-03"]
    migrations.downgrade(url, "0020")
    migrations.upgrade(url)
    engine.dispose()
