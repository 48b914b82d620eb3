"""Where a program is that the harness runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.servers import Missing


def program(name: str, hint: str) -> str:
    """Beside this Python first (a virtual environment), then on the PATH. Raises Missing, with the hint."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Missing(f"no {name} beside this Python or on the PATH; {hint}")
    return found
