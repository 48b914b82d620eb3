"""What the user may write, and what is said when it is wrong."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import ConfigError
from crossdock.transfer.transforms import registry, step, steps, transform_class, transform_names, written
from crossdock.transfer.transforms.base import Splitter, Transform
from tests.transfer.transforms.running import run


@dataclass(frozen=True)
class Spec:
    name: str
    options: dict[str, Any] = field(default_factory=dict)


OWN = """
from crossdock.transfer.transforms import Options, Transform

class MaskOptions(Options):
    digits: int = 8

class Mask(Transform):
    Options = MaskOptions

    def feed(self, data: bytes) -> bytes:
        return data.replace(b"4" * self.options.digits, b"*" * self.options.digits)

class Nothing:
    pass

class Unfinished(Transform):
    pass

class NoModel(Mask):
    Options = dict

class UnknownType(Options):
    digits: "Digits" = 8

class NoType(Mask):
    Options = UnknownType
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own; its name."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("name", sorted(transform_names()))
def test_every_name_is_a_class_with_options_that_are_documented(name: str) -> None:
    kind = transform_class(name)
    assert issubclass(kind, (Transform, Splitter))
    assert kind.__doc__
    assert kind.Options.model_json_schema()["additionalProperties"] is False
    with pytest.raises(ConfigError, match=rf"transform {name}: .*colour: no such option.*Next: it"):
        step(name, {"colour": "red"})


def test_what_stands_in_a_list() -> None:
    assert written("gunzip") == ("gunzip", {})
    assert written({"charset": {"from": "latin-1"}}) == ("charset", {"from": "latin-1"})
    assert written({"gunzip": None}) == ("gunzip", {})
    several: tuple[object, ...] = (3, {}, {"gunzip": {}, "charset": {}}, {"charset": "latin-1"}, {1: {}}, ["gunzip"])
    for wrong in several:
        with pytest.raises(ValueError, match=r"write|options"):
            written(wrong)


def test_a_class_of_the_users_own(own: str) -> None:
    assert run(f"python:{own}:Mask", b"4444 44444444 4") == b"4444 ******** 4"
    assert run(f"python:{own}:Mask", b"444", {"digits": 2}) == b"**4"
    with pytest.raises(ConfigError, match="digits: Input should be a valid integer"):
        step(f"python:{own}:Mask", {"digits": "many"})


def test_a_transform_that_is_installed_has_a_name(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mask", f"{own}:Mask", "crossdock.transforms")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "crossdock.transforms" else [])
    transform_names.cache_clear()
    try:
        assert run("mask", b"44444444") == b"********"
    finally:
        transform_names.cache_clear()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gzipp", r"unknown transform 'gzipp'.*charset.*python:module:Class"),
        ("python:nowhere:X", "no module nowhere"),
        ("python:{own}", "no class is named"),
        ("python:{own}:Missing", r"no attribute 'Missing'.*a class Missing into /.*{own}\.py; if that is not yours"),
        ("python:calendar:Mask", r"a class Mask into /.*/calendar\.py; if that is not yours, give your module another"),
        ("python:time:Mask", "a class Mask into time, which Python has built in; if that is not yours"),
        ("python:{own}:Nothing", "not a transform"),
        ("python::X", "no class is named"),
    ],
)
def test_names_that_lead_nowhere(name: str, said: str, own: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("{own}", own)):
        transform_class(name.format(own=own))


def test_a_module_that_says_itself_what_it_lacks(own: str, tmp_path: Path) -> None:
    """As Python's calendar does, from 3.12 on."""
    (tmp_path / f"{own}.py").write_text("def __getattr__(name):\n    raise AttributeError(f'there is no {name} here')")
    said = rf"there is no Mask here.*a class Mask into /.*{own}\.py; if that is not yours"
    with pytest.raises(ConfigError, match=said):
        transform_class(f"python:{own}:Mask")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("x = (", r"SyntaxError: .* \(broken_\d+\.py, line 1\)\."),
        ("x = 1\nx.y", r"AttributeError: .* \(broken_\d+\.py, line 2\)\."),
        ("1 / 0", r"ZeroDivisionError: division by zero \(broken_\d+\.py, line 1\)\."),
        ("raise SystemExit(2)", "SystemExit: 2"),
    ],
)
def test_a_module_that_cannot_be_imported(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"broken_{abs(hash(code))}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"transform python:{module}:Mask cannot be imported: {said}.* Next: "):
        transform_class(f"python:{module}:Mask")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "crossdock.transfer.transforms.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs the package pyarrow.*pip install 'crossdock\[parquet\]'"):
        step("csv_to_parquet")


def test_steps_of_a_rule() -> None:
    found = steps([Spec("gunzip"), Spec("charset", {"from": "latin-1"}), Spec("unzip")])
    assert [(one.name, one.many) for one in found] == [("gunzip", False), ("charset", False), ("unzip", True)]
    with pytest.raises(ConfigError, match="archives in archives"):
        steps([Spec("unzip"), Spec("unzip")])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Unfinished", "it lacks feed"),
        ("NoModel", "its options cannot be read"),
        ("NoType", r"UnknownType.*Next: derive"),
    ],
)
def test_a_class_that_is_not_as_it_should_be(own: str, name: str, said: str) -> None:
    """It is told before the first file comes."""
    with pytest.raises(ConfigError, match=said):
        step(f"python:{own}:{name}", {})


def test_every_mistake_at_once() -> None:
    with pytest.raises(ConfigError, match=r"to: .*from: |from: .*to: "):
        step("charset", {"to": "klingon"})
    with pytest.raises(ConfigError, match="from: is missing; too: no such option"):
        step("charset", {"too": "utf-8"})
    with pytest.raises(ConfigError, match="level"):
        step("gzip", {"level": 10})


def test_paths_start_at_the_folder_of_the_configuration(tmp_path: Path) -> None:
    found = step("pgp_decrypt", {"home": "keys", "passphrase": "file:secret"}, folder=tmp_path)
    assert found.options.home == tmp_path / "keys"  # type: ignore[attr-defined]
    assert found.options.passphrase.path == tmp_path / "secret"  # type: ignore[attr-defined]
