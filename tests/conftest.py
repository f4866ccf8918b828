"""Real servers for the tests.

One PostgreSQL and one Valkey serve the whole run: the first process starts them (the controller of xdist,
or the only process, when first asked) and passes their addresses on. They forget the disk, which makes them
quick; `durable_servers` are for tests of crashes.

TEST_DATABASE_URL   use this PostgreSQL instead (superuser or CREATEDB); databases are added and removed
TEST_REDIS_URL      use this Redis instead; its databases 0, 1, … (one for each process) are emptied
"""

from __future__ import annotations

import fcntl
import gc
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import flask
import hypothesis
import jinja2
import psycopg
import pytest
import redis
from werkzeug.routing import Rule

from processor import embedded
from processor.config import database_url as sqlalchemy_url
from processor.config import declared_settings
from processor.errors import ProcessorError
from processor.sandbox.keys import SigningKey
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


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Thousands of tests stay to the end: garbage is not looked for among them."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The end of this process' part."""
    if OWNER in config.stash:
        config.stash[OWNER].close()


@pytest.fixture(scope="session", autouse=True)
def _few_keys() -> Iterator[None]:
    """The sandbox's RSA keys are made a few times and taken in turn, so that neighbours differ; one takes 80 ms."""
    generate = SigningKey.generate
    keys = cycle([generate() for _ in range(3)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SigningKey, "generate", lambda: next(keys))
        yield


class _Compiled(jinja2.BytecodeCache):
    """Templates as they were compiled for the first application of this process; the same text is the same code."""

    def __init__(self) -> None:
        self._code: dict[tuple[str, str], Any] = {}

    def load_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        bucket.code = self._code.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        self._code[bucket.key, bucket.checksum] = bucket.code


@pytest.fixture(scope="session", autouse=True)
def _compiled_templates() -> Iterator[None]:
    """Most tests of pages make an application of their own, and each would compile every template anew."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(flask.Flask, "jinja_options", {"bytecode_cache": _Compiled()})
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled_routes() -> Iterator[None]:
    """What builds the URL of a route is compiled once for the same rule, not once for each application.

    A fifth of a page's test went there. The name is the library's own: should it go, tests are slower and no worse.
    """
    compile_anew: Callable[[Rule, bool], Any] | None = getattr(Rule, "_compile_builder", None)
    if compile_anew is None:
        yield
        return
    made: dict[tuple[Any, ...], Any] = {}

    def compile_once(self: Rule, append_unknown: bool = True) -> Any:
        if self.defaults:
            return compile_anew(self, append_unknown)
        key = (self.rule, tuple(self._trace), append_unknown)
        if key not in made:
            made[key] = compile_anew(self, append_unknown)
        return made[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Rule, "_compile_builder", compile_once)
        yield


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
            one.connection.close()
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
        database.connection.close()
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


# Up to so many pages, a table is emptied by deletion, which takes a quarter of what new files take.
_PAGES_MAX = 32
# Tables that hold rows or held some, and whether that is little: few pages, and no tree of an index was split (a BRIN
# index has three pages from its first row on).
_FILLED = f"""
SELECT c.oid::regclass::text, pg_relation_size(c.oid) <= {_PAGES_MAX} * 8192 AND NOT EXISTS (
    SELECT FROM pg_index i WHERE i.indrelid = c.oid AND pg_relation_size(i.indexrelid) > 3 * 8192)
FROM pg_class c
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'alembic_version'
    AND pg_relation_size(c.oid) > 0 ORDER BY 1
"""
# What the planner knows of sizes; a table that was emptied is not one of which nothing is known.
_SIZES = "SELECT oid, relpages, reltuples, relallvisible FROM pg_class WHERE oid >= 16384 ORDER BY oid"
_RESTORE = """
UPDATE pg_class c SET relpages = w.pages, reltuples = w.tuples, relallvisible = w.visible
FROM unnest(%s::oid[], %s::integer[], %s::real[], %s::integer[]) w (oid, pages, tuples, visible)
WHERE c.oid = w.oid AND (c.relpages, c.reltuples, c.relallvisible) IS DISTINCT FROM (w.pages, w.tuples, w.visible)
"""
_RESTART = """
SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL
"""


@dataclass
class Emptied:
    """A database that is emptied after a test, for a tenth of what a new one takes.

    shape: what it was made as. sizes: columns of what the planner knew then. connection: kept, since a new one has to
    learn the catalogue anew.
    """

    name: str
    shape: str
    sizes: list[list[Any]]
    connection: psycopg.Connection[Any]

    @classmethod
    def new(cls, admin_url: str, name: str) -> Emptied:
        """A database just made of the template. Only the version of its migrations is a row in it."""
        connection = psycopg.connect(with_database(admin_url, name), autocommit=True)
        try:
            tables = connection.execute(_FILLED).fetchall()
            assert tables == [], f"migrations make rows that would be lost: {tables}"
            sizes = [list(column) for column in zip(*connection.execute(_SIZES).fetchall(), strict=True)]
            # Append-only tables refuse to be emptied otherwise.
            connection.execute("SET session_replication_role = replica")
            return cls(name, _one(connection, _SHAPE), sizes, connection)
        except BaseException:
            connection.close()
            raise

    def empty(self, admin_url: str) -> bool:
        """Make it as new. False when the test changed more than rows, so that it must go."""
        try:
            return self._empty()
        except psycopg.OperationalError:  # a test may have ended our connection
            self.connection.close()
            return False

    def _empty(self) -> bool:
        connection = self.connection
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        if _one(connection, _SHAPE) != self.shape:
            return False
        filled = connection.execute(_FILLED).fetchall()
        tables = ", ".join(name for name, _ in filled)
        if not all(is_little for _, is_little in filled):
            connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        elif filled:
            connection.execute("; ".join(f"DELETE FROM {name}" for name, _ in filled))
            connection.execute(f"VACUUM {tables}")
            connection.execute(_RESTART)
            connection.execute(_RESTORE, self.sizes)
            if connection.execute(_FILLED).rowcount:  # somebody still looks at what was there
                return False
        connection.execute("SELECT pg_stat_reset()")
        return True


def _one(connection: psycopg.Connection[Any], sql: str) -> str:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return str(row[0])


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


# A system of files in memory makes and removes them in a tenth of the time, and most of what a test's database costs is
# files. A run takes up to a gigabyte of it, so that only a machine that has plenty is asked.
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 * 1024**3
PREFIX = "processor-tests-"


def start_servers(*, durable: bool) -> embedded.Servers:
    """Servers in a folder that goes with them, in memory where they may forget. Raises ProcessorError."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=None if durable else memory()))
    folder.chmod(0o755)  # root's servers run as another user
    try:
        return embedded.start(folder, durable=durable)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def memory() -> Path | None:
    """A folder of files in memory, None when there is no room for servers. Removes what killed runs left there."""
    if sys.platform != "linux" or not os.access(MEMORY, os.W_OK):
        return None
    for left in MEMORY.glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone by now
            if time.time() - left.stat().st_mtime > 3_600:
                with (left / "lock").open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a run that goes on holds it
                    shutil.rmtree(left)
    system = os.statvfs(MEMORY)
    # Programs that the servers' user cannot reach are copied to the folder, and run from there.
    can_execute = not system.f_flag & os.ST_NOEXEC
    return MEMORY if can_execute and system.f_bavail * system.f_frsize >= MEMORY_BYTES_MIN else None


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
