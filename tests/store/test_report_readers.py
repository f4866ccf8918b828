"""A role that reads the reports reads its part of them and nothing else: shown by a role that logs in."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import FeatureNotSupported, InsufficientPrivilege
from sqlalchemy import text
from sqlalchemy.engine import make_url

from processor.config import database_url as sqlalchemy_url
from processor.domain.discrepancy import Action, Difference, DiscrepancyType, ProposeWriteOff, Reason, Resolve
from processor.domain.rules import BUILT_IN
from processor.store import discrepancies, migrations, report_readers
from processor.store.database import Database, open_database
from processor.store.report_readers import NotGranted
from processor.store.report_views import REPORTS
from tests.builders import INSTANCE, LINK, NOW, claims, envelope, event, payment_entity
from tests.store.helpers import confirm, receive, rows
from tests.store.test_report_views import found_by_poll

OTHER = UUID("8d1f3e0a-9a55-4a8e-8a2b-1d2e3f405162")
REFUSALS = (
    InsufficientPrivilege,
    # What can never be done to a view or a sequence is told before rights are looked at.
    FeatureNotSupported,
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.WrongObjectType,
)
Login = Callable[[str], psycopg.Connection[Any]]


@pytest.fixture
def roles(database_url: str) -> Iterator[Callable[[], str]]:
    """Names of roles nobody has; the roles go with the test."""
    made: list[str] = []
    with psycopg.connect(database_url) as connection:
        if connection.execute("SHOW is_superuser").fetchone() != ("on",):
            pytest.skip("the test server's role may not make every role")

    def new() -> str:
        made.append(f"Reader \"{secrets.token_hex(4)}' % \\ é")
        return made[-1]

    yield new
    with psycopg.connect(database_url, autocommit=True) as connection:
        for role in reversed(made):
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount:
                name = sql.Identifier(role)
                connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
                connection.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.fixture
def login(database_url: str) -> Iterator[Login]:
    """Logs a role in, each statement a transaction."""
    opened: list[psycopg.Connection[Any]] = []

    def enter(role: str) -> psycopg.Connection[Any]:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD 'p'").format(sql.Identifier(role)))
        opened.append(psycopg.connect(database_url, user=role, password="p", autocommit=True))
        return opened[-1]

    yield enter
    for connection in opened:
        connection.close()


def fill(database: Database) -> None:
    """Each report has lines of both instances, and completeness some of none."""
    for instance_id in (INSTANCE, OTHER):
        confirm(database, instance_id)
        told = claims(envelope(event(), instanceId=str(instance_id)))
        for _ in range(2):
            receive(database, told)
        late = event(payment_entity(revision="0"), slug="updated")
        receive(database, claims(envelope(late, instanceId=str(instance_id))))
        run_id = found_by_poll(database, instance_id=instance_id, payment_id=uuid4())
        decided(database, instance_id, run_id)
        rows(
            database,
            """INSERT INTO silences (silence_id, instance_id, silent_since, patience_seconds, suspected_at, verdict,
                due_at)
            VALUES (gen_random_uuid(), :id, :now, 7200, :now, 'unverified', :now) RETURNING 1""",
            id=instance_id,
            now=NOW,
        )
    with database.begin() as connection:
        connection.exec_driver_sql("INSERT INTO rejection_counts VALUES ('2026-11-24', 'bad_signature', 3)")


def decided(database: Database, instance_id: UUID, run_id: UUID) -> None:
    """An item whose write-off waits, and one that was resolved."""
    found = [
        Difference(type=type_, payment_link_id=LINK)
        for type_ in (DiscrepancyType.COUNT_DIFFERS, DiscrepancyType.OVER_LIMIT)
    ]
    with database.begin() as connection:
        discrepancies.note(connection, instance_id, found, run_id=run_id, now=NOW)
        held = discrepancies.lock(
            connection,
            connection.execute(
                text("SELECT discrepancy_id FROM discrepancies WHERE instance_id = :id"), {"id": instance_id}
            )
            .scalars()
            .all(),
        )
        actions: tuple[Action, ...] = (ProposeWriteOff(Reason.ROUNDING), Resolve(Reason.TEST_DATA))
        for one, action in zip(held, actions, strict=True):
            discrepancies.act(connection, one, action, actor="ada", rules=BUILT_IN, now=NOW)


def seen(connection: psycopg.Connection[Any], view: str) -> set[UUID | None]:
    return {instance_id for (instance_id,) in connection.execute(f"SELECT instance_id FROM report.{view}")}


def test_a_role_restricted_to_an_instance_reads_its_lines_alone_through_every_view(
    database: Database, roles: Callable[[], str], login: Login
) -> None:
    fill(database)
    role = roles()
    report_readers.run(database, report_readers.granting(role, [OTHER]))

    reader = login(role)

    assert {view: seen(reader, view) for view in REPORTS} == {view: {OTHER} for view in REPORTS}
    for view in REPORTS:
        mine = rows(database, f"SELECT count(*) AS n FROM report.{view} WHERE instance_id = :id", id=OTHER)
        [(number,)] = reader.execute(f"SELECT count(*) FROM report.{view}").fetchall()
        assert number == mine[0].n > 0


def test_a_role_without_a_restriction_sees_everything(
    database: Database, roles: Callable[[], str], login: Login
) -> None:
    fill(database)
    role = roles()
    report_readers.run(database, report_readers.granting(role))

    reader = login(role)

    for view in REPORTS:
        assert seen(reader, view) == {INSTANCE, OTHER, *([None] if view == "completeness" else [])}


def test_who_read_every_report_reads_those_an_upgrade_adds(
    empty_database_url: str, roles: Callable[[], str]
) -> None:
    url = sqlalchemy_url(empty_database_url)
    migrations.upgrade(url, "0010")
    opened = open_database(url, name="test", pool_size=2, pool_seconds=10, statement_seconds=30)
    restricted, shut_out, of_some = roles(), roles(), roles()
    gone = f"gone_{uuid4().hex}"
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        for role in (restricted, shut_out, of_some, gone):
            report_readers.run(opened, report_readers.granting(role, [OTHER]))
        report_readers.run(opened, report_readers.revoking(shut_out))
        owner.execute(f"DROP OWNED BY {gone}")
        owner.execute(f"DROP ROLE {gone}")
        who = sql.Identifier(of_some)
        owner.execute(sql.SQL("REVOKE SELECT ON report.payments FROM {}").format(who))

        migrations.upgrade(url)

        fill(opened)
        opened.dispose()
        for role in (restricted, shut_out, of_some):
            owner.execute(sql.SQL("ALTER ROLE {} PASSWORD 'p'").format(sql.Identifier(role)))
    added = ("open_items", "roll_forward", "resolutions", "write_offs", "silences")
    with psycopg.connect(empty_database_url, user=restricted, password="p", autocommit=True) as reader:
        assert {view: seen(reader, view) for view in added} == {view: {OTHER} for view in added}
    for role in (shut_out, of_some):
        with psycopg.connect(empty_database_url, user=role, password="p", autocommit=True) as reader:
            for view in added:
                with pytest.raises(InsufficientPrivilege):
                    seen(reader, view)
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        for role in (restricted, of_some):
            owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))


def test_a_reader_chooses_the_zone_of_its_days(
    database: Database, roles: Callable[[], str], login: Login
) -> None:
    fill(database)
    role = roles()
    report_readers.run(database, report_readers.granting(role))
    reader = login(role)

    reader.execute("SET processor.report_time_zone = 'Pacific/Kiritimati'")

    days = reader.execute(
        "SELECT DISTINCT reporting_day::text, reporting_zone FROM report.payments"
    ).fetchall()
    assert days == [("2026-11-25", "Pacific/Kiritimati")]


def test_a_later_grant_takes_the_place_of_an_earlier_and_a_role_shut_out_reads_nothing(
    database: Database, roles: Callable[[], str], login: Login
) -> None:
    fill(database)
    role = roles()
    report_readers.run(database, report_readers.granting(role))
    reader = login(role)

    report_readers.run(database, report_readers.granting(role, [INSTANCE]))
    assert seen(reader, "payments") == {INSTANCE}
    report_readers.run(database, report_readers.granting(role, [INSTANCE, OTHER, OTHER]))
    assert seen(reader, "payments") == {INSTANCE, OTHER}
    report_readers.run(database, report_readers.revoking(role))
    with pytest.raises(InsufficientPrivilege):
        seen(reader, "payments")


def test_without_a_row_for_it_a_role_sees_no_line_whatever_it_was_granted(
    database: Database, roles: Callable[[], str], login: Login
) -> None:
    fill(database)
    role = roles()
    report_readers.run(database, report_readers.granting(role))
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM report_readers")

    reader = login(role)

    assert {view: seen(reader, view) for view in REPORTS} == {view: set() for view in REPORTS}


def test_a_member_of_a_role_that_reads_sees_what_that_role_sees(
    database: Database, roles: Callable[[], str], login: Login
) -> None:
    fill(database)
    group, member = roles(), roles()
    report_readers.run(database, report_readers.granting(group, [OTHER]))
    with database.begin() as connection:
        connection = connection.execution_options(no_parameters=True)
        connection.exec_driver_sql(
            f"CREATE ROLE {report_readers.identifier(member)} LOGIN IN ROLE {report_readers.identifier(group)}"
        )

    assert seen(login(member), "payments") == {OTHER}


def test_a_reader_reaches_no_table_no_person_no_token_and_changes_nothing(
    database: Database, roles: Callable[[], str], login: Login
) -> None:
    fill(database)
    role = roles()
    report_readers.run(database, report_readers.granting(role, [OTHER]))
    reader = login(role)
    relations = rows(
        database,
        """SELECT c.oid::regclass::text AS name, c.relkind FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')""",
    )

    names = {relation.name for relation in relations}
    assert names > {"payments", "payment_buyers", "webhook_event_tokens", "report_readers", "report_reach"}
    asked = [f"SELECT * FROM {relation.name}" for relation in relations]
    asked += [f"INSERT INTO {name} DEFAULT VALUES" for name in names]
    asked += [f"DELETE FROM {relation.name}" for relation in relations if relation.relkind != "S"]
    asked += [f"DELETE FROM report.{view}" for view in REPORTS]
    asked += [
        "UPDATE report_readers SET instance_id = NULL",
        "INSERT INTO report_readers (role_name) VALUES (current_user)",
        "UPDATE report.payments SET amount = 0",
        "INSERT INTO report.duplicates (event_id) VALUES (gen_random_uuid())",
        "CREATE TABLE report.mine (a int)",
        "CREATE TABLE public.mine (a int)",
        "CREATE OR REPLACE VIEW report.payments AS SELECT 1 AS a",
        "ALTER VIEW report.payments RESET (security_barrier)",
        "ALTER VIEW report.payments OWNER TO CURRENT_USER",
        "DROP VIEW report.payments",
        "TRUNCATE payments",
    ]
    for statement in asked:
        try:
            reader.execute(statement)
        except REFUSALS:
            continue
        raise AssertionError(statement)
    acl = "SELECT relacl::text FROM pg_class WHERE oid = 'report.payments'::regclass"
    before = rows(database, acl)
    reader.execute("GRANT SELECT ON report.payments TO PUBLIC")  # a warning only, and nothing is granted
    assert rows(database, acl) == before
    assert seen(reader, "payments") == {OTHER}
    assert rows(database, "SELECT count(*) AS n FROM payments")[0].n == 4


def test_a_reader_cannot_become_another(database: Database, roles: Callable[[], str], login: Login) -> None:
    fill(database)
    role, all_seeing = roles(), roles()
    report_readers.run(database, report_readers.granting(role, [OTHER]))
    report_readers.run(database, report_readers.granting(all_seeing))
    reader = login(role)
    [owner] = rows(database, "SELECT current_user AS name")

    for other in (all_seeing, owner.name):
        who = report_readers.identifier(other)
        mine = report_readers.identifier(role)
        for statement in (f"SET ROLE {who}", f"SET SESSION AUTHORIZATION {who}", f"GRANT {who} TO {mine}"):
            with pytest.raises(InsufficientPrivilege):
                reader.execute(statement)
    with pytest.raises(REFUSALS):
        reader.execute(f"ALTER ROLE {report_readers.identifier(role)} RENAME TO another")
    assert seen(reader, "payments") == {OTHER}


def test_a_leaky_function_of_the_readers_own_sees_no_line_of_others(
    database: Database, roles: Callable[[], str], login: Login
) -> None:
    fill(database)
    role = roles()
    report_readers.run(database, report_readers.granting(role, [OTHER]))
    reader = login(role)
    leaked: list[str] = []
    reader.add_notice_handler(lambda notice: leaked.append(str(notice.message_primary)))
    # As cheap as can be, so that the planner would ask it first if it might.
    reader.execute("""
        CREATE FUNCTION pg_temp.leak(line anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
        BEGIN RAISE NOTICE '%', line; RETURN true; END $$""")

    for view in REPORTS:
        leaked.clear()
        reader.execute(f"SELECT count(*) FROM report.{view} v WHERE pg_temp.leak(v.instance_id)")
        assert set(leaked) == {str(OTHER)}, view
        leaked.clear()
        reader.execute(f"SELECT count(*) FROM report.{view} v WHERE pg_temp.leak(v)")
        assert leaked
        assert not [line for line in leaked if str(INSTANCE) in line], view
    # It does leak where there is no barrier, so the test can see it.
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER VIEW report.duplicates SET (security_barrier = false)")
    leaked.clear()
    reader.execute("SELECT count(*) FROM report.duplicates v WHERE pg_temp.leak(v.instance_id)")
    assert str(INSTANCE) in leaked
    # Nor does an error tell of them: the instance of others would divide by zero.
    reader.execute(
        "SELECT 1 / (CASE WHEN instance_id = %s THEN 0 ELSE 1 END) FROM report.payments"
        " WHERE 1 / (CASE WHEN instance_id = %s THEN 0 ELSE 1 END) = 1",
        [INSTANCE, INSTANCE],
    )


def test_a_role_that_sees_more_anyway_is_not_restricted_in_appearance(
    database: Database, roles: Callable[[], str]
) -> None:
    powerful, granted, inheriting = roles(), roles(), roles()
    with database.begin() as connection:
        connection = connection.execution_options(no_parameters=True)
        for role, more in ((powerful, "SUPERUSER"), (granted, ""), (inheriting, "IN ROLE pg_read_all_data")):
            connection.exec_driver_sql(f"CREATE ROLE {report_readers.identifier(role)} {more}")
        connection.exec_driver_sql(
            f"GRANT SELECT (personal) ON payment_buyers TO {report_readers.identifier(granted)}"
        )

    for role, why in (
        (powerful, "superuser"),
        (granted, "payment_buyers"),
        (inheriting, "has rights to"),
    ):
        with pytest.raises(NotGranted, match=why):
            report_readers.run(database, report_readers.granting(role, [OTHER]))
    assert rows(database, "SELECT * FROM report_readers") == []


@pytest.mark.parametrize(
    "role",
    ["", "é" * 32, "public", "none", "pg_monitor", "line\nbreak", "nul\0", "a$do$b", "\udcff"],
)
def test_a_name_that_no_role_of_ours_can_have_is_refused(role: str) -> None:
    with pytest.raises(NotGranted):
        report_readers.granting(role)
    with pytest.raises(NotGranted):
        report_readers.revoking(role)


def test_the_owner_of_the_tables_need_be_no_superuser(
    database_url: str, empty_database_url: str, roles: Callable[[], str]
) -> None:
    owner, role = roles(), roles()
    name = urlsplit(empty_database_url).path[1:]
    who = sql.Identifier(owner)
    with psycopg.connect(empty_database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'p'").format(who))
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), who))
    url = make_url(sqlalchemy_url(empty_database_url)).set(username=owner, password="p")
    migrations.upgrade(url.render_as_string(hide_password=False))
    owned = open_database(
        url.render_as_string(hide_password=False),
        name="test",
        pool_size=2,
        pool_seconds=10,
        statement_seconds=30,
    )
    try:
        fill(owned)
        report_readers.run(owned, report_readers.granting(role, [OTHER]))

        with psycopg.connect(empty_database_url, autocommit=True) as admin:
            admin.execute(sql.SQL("ALTER ROLE {} PASSWORD 'p'").format(sql.Identifier(role)))
        with psycopg.connect(empty_database_url, user=role, password="p") as reader:
            assert seen(reader, "payments") == {OTHER}
        assert {row.instance_id for row in rows(owned, "SELECT instance_id FROM report.payments")} == {
            INSTANCE,
            OTHER,
        }
    finally:
        owned.dispose()
        with psycopg.connect(empty_database_url, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
            admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(who))
