"""A rig for the scenarios of one worker of pytest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.flow_observer import Observer
from tests.crash.flow_rig import AT_ONCE, Rig
from tests.crash.flow_worlds import Driver
from tests.servers import Ceph, OpenSSH
from tests.storage.s3 import places as s3_places


@pytest.fixture(scope="session")
def rig(openssh: OpenSSH, ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    keys = {"AWS_ACCESS_KEY_ID": ceph.access_key, "AWS_SECRET_ACCESS_KEY": ceph.secret_key}
    observer = Observer()
    with s3_places.bucket(ceph, versioned=True) as peer:
        found = Rig(openssh, ceph, peer, tmp_path_factory.mktemp("flows"), observer)
        drivers = [Driver(keys) for _ in range(AT_ONCE)]
        for driver in drivers:
            found.drivers.put(driver)
        try:
            yield found
        finally:
            observer.close()
            for driver in drivers:
                driver.close()


@pytest.fixture
def environment(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ceph.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ceph.secret_key)
