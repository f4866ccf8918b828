"""Who reads the reports: SQL that lets a role of the database read the schema `report`, and nothing else.

What a role sees is decided by `report_readers`, which only the owner of the tables may touch. The statements refuse a
role that could see more than the reports anyway, since a restriction of it would only seem to be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from processor.errors import ProcessorError
from processor.store.database import Database, first_line

ROLE_BYTES_MAX = 63  # PostgreSQL cuts longer names off
_RESERVED = ("public", "none", "current_user", "current_role", "session_user")


class NotGranted(ProcessorError):
    """The role cannot be let in, or shut out; the message says why."""


def granting(role: str, instance_ids: Sequence[UUID] = ()) -> list[str]:
    """Statements that make the role if need be, and let it read the reports of these instances alone; of all without.

    Run them in one transaction, as the owner of the tables. They take the place of what was granted before. Raises
    NotGranted.
    """
    _check(role)
    who, name = identifier(role), literal(role)
    reach = [f"{literal(str(one))}::uuid" for one in dict.fromkeys(instance_ids)] or ["NULL"]
    return [
        f"""DO $do$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {name}) THEN
        CREATE ROLE {who} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
    END IF;
END $do$""",
        f"""DO $do$
DECLARE
    owned oid;
    ours oid;
    open text;
BEGIN
    SELECT relowner, relnamespace INTO owned, ours FROM pg_catalog.pg_class WHERE oid = 'report_readers'::regclass;
    IF pg_catalog.pg_has_role({name}::name, owned, 'MEMBER') THEN
        RAISE EXCEPTION 'role % is a superuser, or may act as the owner of the tables: it sees everything', {name};
    END IF;
    SELECT c.oid::regclass::text INTO open FROM pg_catalog.pg_class c
    WHERE c.relnamespace = ours AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
        AND CASE WHEN c.relkind = 'S' THEN
                pg_catalog.has_sequence_privilege({name}::name, c.oid, 'USAGE, SELECT, UPDATE')
            ELSE pg_catalog.has_table_privilege({name}::name, c.oid,
                    'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                OR pg_catalog.has_any_column_privilege({name}::name, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') END
    ORDER BY 1 LIMIT 1;
    IF open IS NOT NULL THEN
        RAISE EXCEPTION 'role % has rights to % itself, by a grant to it, to PUBLIC or to a role it is in: revoke them',
            {name}, open;
    END IF;
END $do$""",
        f"GRANT USAGE ON SCHEMA report TO {who}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA report TO {who}",
        f"DELETE FROM report_readers WHERE role_name = {name}",
        f"INSERT INTO report_readers (role_name, instance_id) VALUES {', '.join(f'({name}, {one})' for one in reach)}",
    ]


def revoking(role: str) -> list[str]:
    """Statements that shut the role out. The role itself stays. Raises NotGranted."""
    _check(role)
    who, name = identifier(role), literal(role)
    return [
        f"DELETE FROM report_readers WHERE role_name = {name}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA report FROM {who}",
        f"REVOKE ALL ON SCHEMA report FROM {who}",
    ]


def run(database: Database, statements: Sequence[str]) -> None:
    """Run these in one transaction. Raises NotGranted when PostgreSQL refuses one."""
    try:
        with database.begin() as connection:
            connection = connection.execution_options(no_parameters=True)  # a percent sign is one
            for statement in statements:
                connection.exec_driver_sql(statement)
    except DBAPIError as why:
        raise NotGranted(first_line(why)) from why


def identifier(name: str) -> str:
    """`name` as a name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """`value` as a text in SQL."""
    quoted = "'" + value.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted


def _check(role: str) -> None:
    if not 0 < len(role.encode(errors="replace")) <= ROLE_BYTES_MAX:
        raise NotGranted(f"the name of a role has 1 to {ROLE_BYTES_MAX} bytes")
    if not role.isprintable() or "$do$" in role:
        raise NotGranted("the name of a role has printable characters only, and no $do$")
    if role in _RESERVED or role.startswith("pg_"):
        raise NotGranted(f"{role} is no name of a role of yours: PostgreSQL keeps it for itself")
