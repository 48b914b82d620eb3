"""late: the exit code that an alarm can hang on."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.cli.conftest import Cli
from tests.cli.flow_files import configure, put


def just_passed() -> str:
    """A minute that ended already, whatever the time of day."""
    return f"{datetime.now(UTC) - timedelta(minutes=1):%H:%M}"


def came_before(folder: Path, seconds: int) -> None:
    connection = sqlite3.connect(folder / "crossdock.db")
    with connection:
        connection.execute("UPDATE transfers SET added_at = added_at - ?", (seconds,))
    connection.close()


def test_to_ask_makes_no_ledger(cli: Cli, tmp_path: Path) -> None:
    """It would be the asker's, not that of who runs the flows."""
    configure(tmp_path, expect={"match": "statement_*.csv", "by": just_passed()})
    assert cli("late").code == 1
    assert not (tmp_path / "crossdock.db").exists()


def test_late_and_in_time(cli: Cli, tmp_path: Path) -> None:
    expect = {"match": "statement_*.csv", "by": just_passed(), "min_count": 2}
    configure(tmp_path, expect=expect)
    put(tmp_path, {"statement_1.csv": "1", "other.csv": "x"})
    assert cli("run", "--once").code == 0
    result = cli("late", "--json")
    assert result.code == 1
    (row,) = result.rows
    assert (row["flow"], row["match"], row["min_count"], row["arrived"], row["after"]) == (
        "pull", "statement_*.csv", 2, 0, 1,
    )  # fmt: skip
    assert "pull is late: 0 of 2 files 'statement_*.csv' came by" in cli("late").out
    came_before(tmp_path, 300)
    assert cli("late", "--json").rows[0]["arrived"] == 1
    put(tmp_path, {"statement_2.csv": "2"})
    assert cli("run", "--once").code == 0
    assert cli("late", "--json").rows[0]["after"] == 1, "what comes after the deadline is late"
    came_before(tmp_path, 300)
    result = cli("late")
    assert (result.code, result.out) == (0, "")
    assert "pull: nothing is late" in result.err


def test_before_anything_ran(cli: Cli, tmp_path: Path) -> None:
    configure(
        tmp_path,
        expect={"match": "*.csv", "by": just_passed()},
        more={"quiet": {"source": "staging:", "to": "lake:s/"}},
    )
    assert cli("late").code == 1
    assert cli("late", "pull").code == 1
    result = cli("late", "quiet")
    assert (result.code, result.out) == (0, "")
    assert "no flow expects anything" in result.err
    assert cli("late", "pul").code == 3
