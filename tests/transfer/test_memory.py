"""A file of any size is moved at flat memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.servers import Ceph, OpenSSH
from tests.storage.s3 import places as s3_places

SIZE = 2 * 1024**3 + 12_345
CEILING = 256 * 1024**2
BLOCK = hashlib.shake_256(b"block").digest(1024 * 1024)


MEASURED = """
import re
from crossdock.cli.main import main
try:
    main()
finally:
    with open("/proc/self/status") as status:
        print(re.search(r"VmHWM:\\s*(\\d+) kB", status.read())[1])
"""


def moved(config: Path, source: str, target: str) -> int:
    """Run `crossdock cp`; the largest resident size of the process, in bytes.

    As the process itself finds it: what `wait4` tells of a child includes what its parent held when it forked.
    """
    command = [sys.executable, "-c", MEASURED, "--config", str(config), "cp", "-q", source, target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) * 1024


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.timeout(1200)
def test_two_gibibytes_under_a_fixed_ceiling(openssh: OpenSSH, ceph: Ceph, tmp_path: Path) -> None:
    """2 GiB from SFTP to S3 and back, the whole process within 256 MiB, every byte the same."""
    original, back = openssh.folder / "memory.bin", openssh.folder / "memory.back"
    with original.open("wb") as file:
        # Mostly holes, with blocks that differ, so that a misplaced part shows.
        for at in range(0, SIZE - len(BLOCK), 64 * len(BLOCK)):
            file.seek(at)
            file.write(at.to_bytes(8, "big") + BLOCK)
        file.truncate(SIZE)
    config = tmp_path / "crossdock.yaml"
    with s3_places.bucket(ceph) as peer:
        endpoints = {
            "partner": openssh.settings(),
            "lake": {
                "type": "s3",
                "bucket": peer.bucket,
                "endpoint_url": ceph.endpoint_url,
                "region": "us-east-1",
                "access_key_id": ceph.access_key,
                "secret_access_key": "env:LAKE_SECRET",
            },
        }
        config.write_text(yaml.safe_dump({"endpoints": endpoints}))
        os.environ["LAKE_SECRET"] = ceph.secret_key
        try:
            there = moved(config, "partner:memory.bin", "lake:memory.bin")
            here = moved(config, "lake:memory.bin", "partner:memory.back")
            assert back.stat().st_size == SIZE
            assert digest(back) == digest(original)
        finally:
            del os.environ["LAKE_SECRET"]
            for path in (original, back):
                path.unlink(missing_ok=True)
    assert max(there, here) < CEILING, f"{there / 1024**2:.0f} and {here / 1024**2:.0f} MiB"
