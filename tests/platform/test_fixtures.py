"""The fixtures of tests/conftest.py keep what they promise."""

from __future__ import annotations

import psycopg
import pytest
import redis

from processor import embedded
from processor.store import migrations


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_a_fresh_migrated_database(database_url: str, turn: int) -> None:
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        left = connection.execute("SELECT FROM pg_tables WHERE tablename = 'left_behind'").fetchone()
        connection.execute("CREATE TABLE left_behind ()")

    assert found == (migrations.head(),)
    assert left is None


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("rows", [3, 20_000])  # which are deleted afterwards, or truncated
def test_rows_of_a_test_leave_no_trace_in_the_next(database_url: str, rows: int, turn: int) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        with_pages = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            " AND (pg_relation_size(oid) > 0 OR reltuples >= 0) AND relname <> 'alembic_version'"
        ).fetchall()
        first = connection.execute(
            "INSERT INTO check_requests (instance_id, payment_link_id, requested_at)"
            " SELECT gen_random_uuid(), gen_random_uuid(), now() FROM generate_series(1, %s) RETURNING request_id",
            [rows],
        ).fetchone()
        connection.execute("VACUUM check_requests")

    assert with_pages == []
    assert first == (1,)


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_an_empty_redis(redis_url: str, turn: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        found = client.dbsize()
        client.set("left", "behind")

    assert found == 0


def test_durable_servers_keep_what_was_committed_over_a_kill(
    durable_servers: embedded.Servers, durable_database_url: str
) -> None:
    with psycopg.connect(durable_database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 300) AS number")

    durable_servers.postgres.kill()
    durable_servers.postgres.start()

    with psycopg.connect(durable_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (300,)
