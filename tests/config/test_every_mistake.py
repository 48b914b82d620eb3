"""One run of `check` finds all that is wrong: no mistake waits for another one to be mended."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from crossdock.config import Mistakes, load
from tests.cli.conftest import Cli, cli
from tests.config.conftest import Write
from tests.config.test_mistakes import CASES, SHORT

__all__ = ["cli"]

PAGE = Path(__file__).with_name("every_mistake.yaml")


def annotated() -> list[tuple[int, str]]:
    """(line, what it is told of), from the comments above each line."""
    found: list[tuple[int, str]] = []
    waiting: list[str] = []
    for number, line in enumerate(PAGE.read_text("utf-8").splitlines(), 1):
        if line.lstrip().startswith("#!"):
            waiting.append(line.lstrip().removeprefix("#! "))
        else:
            found += [(number, one) for one in waiting]
            waiting = []
    return found


def test_a_file_full_of_mistakes(cli: Cli) -> None:
    expected = annotated()
    assert len(expected) >= 74
    assert len({line for line, _ in expected}) >= 44
    result = cli("check", "--json", PAGE)
    assert result.code == 3
    told = [(row["line"], f"{row['key']}: {row['message']}") for row in result.rows]
    assert all(row["next"] for row in result.rows), "each says what to write instead"
    assert len(told) == len(expected)
    for line, start in expected:
        assert any(line == at and text.startswith(start) for at, text in told), (line, start)
    assert "hunter2" not in result.out


def _alone() -> dict[str, tuple[str, str]]:
    """Mistakes that are one line of a flow: the key, the line, what is told of it."""
    found = {}
    for text, expected in CASES:
        line = text.removeprefix(SHORT)
        if text.startswith(SHORT) and line.count("\n") == 1 and expected.startswith("9: "):
            found[line] = (line.strip().partition(":")[0], expected.removeprefix("9: "))
    return found


def test_no_mistake_hides_another(write: Write) -> None:
    alone = _alone()
    assert len(alone) > 30
    for (one, (key, first)), (other, (another, second)) in combinations(alone.items(), 2):
        if key == another:
            continue
        path = write(SHORT + one + other)
        with pytest.raises(Mistakes) as caught:
            load(path)
        told = {str(mistake).replace(f"{path}:", "") for mistake in caught.value.mistakes}
        assert told == {f"9: {first}", f"10: {second}"}, (one, other)


def test_the_remedy_of_an_unknown_key_is_looked_into(write: Write) -> None:
    flow = "    sorce: b:x\n    to: 'a:{nme}'\n    triger: {evry: 0}\n"
    path = write(f"endpoints: {{a: {{type: memory}}}}\nflows:\n  f:\n{flow}")
    with pytest.raises(Mistakes) as caught:
        load(path)
    assert [re.sub(r"^.*?:(\d+: .*?)\. Next.*", r"\1", str(one)) for one in caught.value.mistakes] == [
        "4: flows.f.sorce: unknown key",
        "4: flows.f.sorce: no endpoint is called 'b'",
        "5: flows.f.to: {nme} means nothing here",
        "6: flows.f.triger: unknown key",
        "6: flows.f.triger.evry: unknown key",
        "6: flows.f.triger.evry: input should be greater than or equal to 1",
    ]
