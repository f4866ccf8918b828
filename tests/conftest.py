"""Real servers for the tests.

One PostgreSQL and one Valkey serve the whole run: the first process starts them (the controller of xdist,
or the only process, when first asked) and passes their addresses on. They forget the disk, which makes them
quick; `durable_servers` are for tests of crashes.

TEST_DATABASE_URL   use this PostgreSQL instead (superuser or CREATEDB); databases are added and removed
TEST_REDIS_URL      use this Redis instead; its databases 0, 1, … (one for each process) are emptied
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import psycopg
import pytest
import redis

from processor import embedded
from processor.config import database_url as sqlalchemy_url
from processor.config import declared_settings
from processor.errors import ProcessorError
from processor.store import migrations

# The boxes are shared and slow at times: a slow example is not a failure.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")


@dataclass
class Backends:
    """The servers of this run. prefix: begins the name of every database this run makes."""

    database_url: str
    redis_url: str
    prefix: str


@dataclass
class Owner:
    """Starts the servers at most once and cleans up after the run."""

    backends: Backends | None = None
    servers: embedded.Servers | None = None
    is_ours: bool = False
    number: int = 0
    _counter: Iterator[int] = field(default_factory=count)

    def get(self) -> Backends:
        """The servers, started now if need be."""
        if self.backends is not None:
            return self.backends
        database_url = os.environ.get("TEST_DATABASE_URL")
        redis_url = os.environ.get("TEST_REDIS_URL")
        if not (database_url and redis_url):
            try:
                self.servers = start_servers(durable=False)
            except ProcessorError as why:
                pytest.exit(f"The servers for the tests cannot be started: {why}", returncode=3)
            database_url = database_url or self.servers.postgres.url_of("postgres")
            redis_url = redis_url or self.servers.redis_url
        self.backends = Backends(database_url, redis_url, f"test_{secrets.token_hex(4)}")
        self.is_ours = True
        return self.backends

    def new_database(self) -> str:
        """The name of a database nobody has."""
        return f"{self.get().prefix}_{self.number}_{next(self._counter)}"

    def close(self) -> None:
        """Remove what this run made."""
        if self.servers is not None:
            stop_servers(self.servers)
        elif self.is_ours and self.backends is not None:
            with psycopg.connect(self.backends.database_url, autocommit=True) as connection:
                rows = connection.execute(
                    "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [self.backends.prefix]
                ).fetchall()
                for (name,) in rows:
                    connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


OWNER = pytest.StashKey[Owner]()


def pytest_configure(config: pytest.Config) -> None:
    """Take the addresses from the controller, and keep the developer's own settings away from the tests."""
    for declared in declared_settings().values():
        os.environ.pop(declared.variable, None)
    for name in [name for name in os.environ if name.startswith("PG")]:  # libpq would read them
        del os.environ[name]
    owner = config.stash[OWNER] = Owner()
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is not None:
        owner.backends = Backends(*given["backends"])
        owner.number = int(given["workerid"].removeprefix("gw"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a third of the time tests wait for processes and clocks."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist's controller is about to start a worker."""
    backends = node.config.stash[OWNER].get()
    node.workerinput["backends"] = (backends.database_url, backends.redis_url, backends.prefix)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The end of this process' part."""
    if OWNER in config.stash:
        config.stash[OWNER].close()


@pytest.fixture(scope="session")
def _owner(request: pytest.FixtureRequest) -> Owner:
    return request.config.stash[OWNER]


@pytest.fixture
def empty_database_url(_owner: Owner) -> Iterator[str]:
    """A fresh database without migrations, for tests of migrations."""
    with a_database(_owner.get().database_url, _owner.new_database()) as url:
        yield url


@pytest.fixture(scope="session")
def _template(_owner: Owner) -> str:
    backends = _owner.get()
    name = f"{backends.prefix}_template"
    migrated_template(backends.database_url, name)
    return name


@pytest.fixture(scope="session")
def _emptied(_owner: Owner, _template: str) -> Iterator[list[Emptied]]:
    """Databases of this process that are as new."""
    free: list[Emptied] = []
    yield free
    with psycopg.connect(_owner.get().database_url, autocommit=True) as connection:
        for one in free:
            connection.execute(f"DROP DATABASE IF EXISTS {one.name} WITH (FORCE)")


@pytest.fixture
def database_url(_owner: Owner, _template: str, _emptied: list[Emptied]) -> Iterator[str]:
    """A migrated database of this test alone, as new. For psycopg as for SQLAlchemy."""
    admin_url = _owner.get().database_url
    if _emptied:
        database = _emptied.pop()
    else:
        name = _owner.new_database()
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {_template}")
        database = Emptied.new(admin_url, name)
    yield with_database(admin_url, database.name)
    if database.empty(admin_url):
        _emptied.append(database)
    else:
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE)")


# Everything of a database that a test may change beside the rows of its tables, as one digest.
_SHAPE = """
SELECT md5(concat_ws(' ',
    (SELECT string_agg(concat_ws(',', c.oid, c.relname, c.relkind, c.relowner, c.relacl, c.reloptions), ';'
            ORDER BY c.oid)
        FROM pg_class c WHERE c.relnamespace = ANY (n.oids)),
    (SELECT string_agg(concat_ws(',', t.oid, t.tgenabled), ';' ORDER BY t.oid) FROM pg_trigger t),
    (SELECT string_agg(concat_ws(',', s.oid, s.nspname, s.nspacl, s.nspowner), ';' ORDER BY s.oid) FROM pg_namespace s
        WHERE s.nspname !~ '^pg_(temp|toast_temp)'),
    (SELECT string_agg(concat_ws(',', p.oid, p.xmin), ';' ORDER BY p.oid) FROM pg_proc p
        WHERE p.pronamespace = ANY (n.oids)),
    (SELECT string_agg(concat_ws(',', k.oid, k.conname, k.convalidated), ';' ORDER BY k.oid) FROM pg_constraint k),
    (SELECT concat_ws(',', count(*), sum(a.attnum), count(*) FILTER (WHERE a.attisdropped)) FROM pg_attribute a
        WHERE a.attrelid >= 16384),
    (SELECT string_agg(concat_ws(',', i.indexrelid, i.indisvalid), ';' ORDER BY i.indexrelid) FROM pg_index i
        WHERE i.indexrelid >= 16384),
    (SELECT count(*) FROM pg_statistic s WHERE s.starelid >= 16384),
    (SELECT string_agg(x.extname, ',' ORDER BY x.oid) FROM pg_extension x),
    (SELECT string_agg(s.setconfig::text, ',') FROM pg_db_role_setting s
        WHERE s.setdatabase = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())),
    (SELECT string_agg(v.version_num, ',') FROM alembic_version v)))
FROM (SELECT array_agg(oid) AS oids FROM pg_namespace WHERE nspname IN ('public', 'report')) n
"""


@dataclass
class Emptied:
    """A database that is emptied after a test, for a tenth of what a new one takes. shape: what it was made as."""

    name: str
    shape: str

    @classmethod
    def new(cls, admin_url: str, name: str) -> Emptied:
        """A database just made of the template. Only the version of its migrations is a row in it."""
        with psycopg.connect(with_database(admin_url, name), autocommit=True) as connection:
            shape = _one(connection, _SHAPE)
            tables = _filled(connection)
        assert tables == ["alembic_version"], f"migrations make rows that would be lost: {tables}"
        return cls(name, shape)

    def empty(self, admin_url: str) -> bool:
        """Make it as new. False when the test changed more than rows, so that it must go."""
        with psycopg.connect(with_database(admin_url, self.name), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            if _one(connection, _SHAPE) != self.shape:
                return False
            tables = [name for name in _filled(connection) if name != "alembic_version"]
            # Append-only tables refuse it otherwise.
            connection.execute("SET session_replication_role = replica")
            if tables:
                connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
            connection.execute("SELECT pg_stat_reset()")
        return True


def _one(connection: psycopg.Connection[Any], sql: str) -> str:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return str(row[0])


def _filled(connection: psycopg.Connection[Any]) -> list[str]:
    """Tables that have a page, so that they hold rows or held some."""
    rows = connection.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        " AND pg_relation_size(oid) > 0 ORDER BY 1"
    )
    return [name for (name,) in rows]


@pytest.fixture
def redis_url(_owner: Owner) -> str:
    """An empty Redis database of this process."""
    url = urlsplit(_owner.get().redis_url)._replace(path=f"/{_owner.number}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="session")
def durable_servers() -> Iterator[embedded.Servers]:
    """Servers of this process alone that keep their promises over a crash. Stop, kill and start them at will.

    A test that stops one starts it again (`start()` does nothing when it runs).
    """
    servers = start_servers(durable=True)
    yield servers
    stop_servers(servers)


@pytest.fixture
def durable_database_url(durable_servers: embedded.Servers) -> Iterator[str]:
    """A fresh, migrated database on `durable_servers`, which are running."""
    durable_servers.postgres.start()
    durable_servers.valkey.start()
    admin_url = durable_servers.postgres.url_of("postgres")
    migrated_template(admin_url, "template_ours")
    with a_database(admin_url, f"test_{secrets.token_hex(6)}", template="template_ours") as url:
        yield url


def start_servers(*, durable: bool) -> embedded.Servers:
    """Servers in a folder that goes with them. Raises ProcessorError."""
    folder = Path(tempfile.mkdtemp(prefix="processor-tests-"))
    folder.chmod(0o755)  # root's servers run as another user
    try:
        return embedded.start(folder, durable=durable)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def stop_servers(servers: embedded.Servers) -> None:
    """Stop them and remove their data."""
    servers.stop()
    for folder in {servers.folder, servers.asked_folder}:
        shutil.rmtree(folder, ignore_errors=True)


def migrated_template(admin_url: str, name: str) -> None:
    """Make the database `name` with every migration, unless another process of this run has."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [name])
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount:
            return
        connection.execute(f"DROP DATABASE IF EXISTS {name}_part WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}_part")
        migrations.upgrade(sqlalchemy_url(with_database(admin_url, f"{name}_part")))
        connection.execute(f"ALTER DATABASE {name}_part RENAME TO {name}")


@contextmanager
def a_database(admin_url: str, name: str, *, template: str = "template1") -> Iterator[str]:
    """The URL of a new database, removed at the end with whoever is still connected."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield with_database(admin_url, name)
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def with_database(url: str, name: str) -> str:
    """`url` with another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()
