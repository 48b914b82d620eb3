"""Real servers as session fixtures, each by its name (`openssh`, `vsftpd`, …), a clean environment, and a summary.

A server that cannot be had skips its tests and is named in the summary; `CROSSDOCK_REQUIRE=openssh,s3` (or `all`)
makes that a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import Ceph, Gpg, Missing, Moto, OpenSSH, Postgres, Proftpd, PureFtpd, Vsftpd
from tests.servers.pool import REQUIRE, Pool, parse_required
from tests.servers.server import Server

S = TypeVar("S", bound=Server)
POOL = pytest.StashKey[Pool]()
_STRIPPED = ("AWS_", "CROSSDOCK_")

# A busy machine fails nobody, and every run has the same examples; others: pytest --hypothesis-profile=default.
settings.register_profile("crossdock", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("crossdock")


def _worker_input(config: pytest.Config) -> dict[str, Any] | None:
    """What pytest-xdist's controller told this worker; None in the controller, or without pytest-xdist."""
    return getattr(config, "workerinput", None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Tests wait for servers half of their time: twice as many as there are processors, and not too many servers."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors + min(processors, 4)


def pytest_configure(config: pytest.Config) -> None:
    told = _worker_input(config)
    try:
        required = parse_required(os.environ.get(REQUIRE, ""))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if told is None:
        config.stash[POOL] = Pool(required, owner=os.getpid())
    else:
        config.stash[POOL] = Pool(required, owner=told["servers_owner"], folder=Path(told["servers_folder"]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    pool = node.config.stash[POOL]
    node.workerinput["servers_owner"] = pool.owner
    node.workerinput["servers_folder"] = str(pool.folder)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # A worker that crashed has left no output.
    node.config.stash[POOL].merge(getattr(node, "workeroutput", {}).get("servers", {}))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    pool = session.config.stash[POOL]
    if _worker_input(session.config) is not None:
        session.config.workeroutput["servers"] = pool.report()  # type: ignore[attr-defined]
    elif pool.unmet() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.section("servers")
    for line in config.stash[POOL].summary():
        terminalreporter.line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _worker_input(config) is None and POOL in config.stash:
        config.stash[POOL].close()


def _unavailable(pool: Pool, name: str, error: Missing) -> NoReturn:
    if name in pool.required:
        pytest.fail(f"{name} is required by {REQUIRE} and missing: {error}", pytrace=False)
    pytest.skip(f"{name} is missing: {error}")


@contextmanager
def running(config: pytest.Config, server: S) -> Iterator[S]:
    """Skips the test, or fails it where the server is required, if the server cannot be had."""
    pool = config.stash[POOL]
    try:
        pool.start(server)
    except Missing as error:
        _unavailable(pool, server.name, error)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def openssh(pytestconfig: pytest.Config) -> Iterator[OpenSSH]:
    """OpenSSH's sshd with its defaults; a test that wants other settings starts its own `OpenSSH(config=…)`."""
    with running(pytestconfig, OpenSSH()) as server:
        yield server


@pytest.fixture(scope="session")
def vsftpd(pytestconfig: pytest.Config) -> Iterator[Vsftpd]:
    """vsftpd under explicit TLS, session reuse required; a test that wants another mode starts its own."""
    with running(pytestconfig, Vsftpd("explicit")) as server:
        yield server


@pytest.fixture(scope="session")
def proftpd(pytestconfig: pytest.Config) -> Iterator[Proftpd]:
    """ProFTPD under explicit TLS, session reuse required; a test that wants another mode starts its own."""
    with running(pytestconfig, Proftpd("explicit")) as server:
        yield server


@pytest.fixture(scope="session")
def pureftpd(pytestconfig: pytest.Config) -> Iterator[PureFtpd]:
    """Pure-FTPd under explicit TLS; a test that wants another mode starts its own."""
    with running(pytestconfig, PureFtpd("explicit")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(pytestconfig: pytest.Config) -> Iterator[Moto]:
    """moto's S3; make buckets with names of your own, the server lives as long as the session."""
    with running(pytestconfig, Moto()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """PostgreSQL; make schemas with names of your own, the server lives as long as the session."""
    with running(pytestconfig, Postgres()) as server:
        yield server


@pytest.fixture(scope="session")
def gpg(pytestconfig: pytest.Config) -> Iterator[Gpg]:
    """GnuPG with a keyring of its own; nothing of the developer's is touched."""
    with running(pytestconfig, Gpg()) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(pytestconfig: pytest.Config) -> Ceph:
    """The Ceph gateway, one for all workers of the run: bucket names must be unique across them."""
    pool = pytestconfig.stash[POOL]
    try:
        return pool.shared_ceph()
    except Missing as error:
        _unavailable(pool, Ceph.name, error)


@pytest.fixture(autouse=True)
def _clean_environment(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """No test sees the developer's credentials, agent, settings or home."""
    for name in list(os.environ):
        if name.startswith(_STRIPPED) or name == "SSH_AUTH_SOCK":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    yield
    # By its fixture, or by what a suite's `server` gave.
    used = {*request.fixturenames, *(each.name for each in request.node.funcargs.values() if isinstance(each, Server))}
    for name, status in request.config.stash[POOL].status.items():
        if status.version and name in used:
            status.tests += 1
