"""Globs against a slow matcher that is plainly right, the order of rules, and the bounds."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock.flows.filters import Filters, Rule, compile_glob
from crossdock.storage.base import Entry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def matches(pattern: str, path: str) -> bool:
    return compile_glob(pattern).match(path) is not None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.csv", ["a.csv", "x/y/a.csv", ".csv"], ["a.csv/b", "a.CSV", "acsv", "a.csv.gz"]),
        ("/*.csv", ["a.csv"], ["x/a.csv"]),
        ("in/*.csv", ["in/a.csv"], ["x/in/a.csv", "in/x/a.csv"]),
        ("in/**/*.csv", ["in/a.csv", "in/x/a.csv", "in/x/y/a.csv"], ["a.csv", "in.csv"]),
        ("**/tmp/*", ["tmp/a", "x/tmp/a"], ["x/tmp/y/a", "tmp"]),
        ("in/**", ["in/a", "in/x/y"], ["in", "inn/a"]),
        ("build/", ["build/a", "x/build/y/a"], ["build", "rebuild/a"]),
        ("/build/", ["build/a"], ["x/build/a"]),
        ("a?c", ["abc", "x/a\nc"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "Ax"]),
        ("[!a-c]x", ["dx"], ["ax", "/x"]),
        ("[]]x", ["]x"], ["x"]),
        ("[+--]x", ["+x", ",x", "-x"], ["*x", ".x"]),
        ("[--.]x", ["-x", ".x"], [",x", "/x"]),
        ("[(?>]x", ["(x", "?x", ">x"], [":x", "\\x"]),
        ("[{]x", ["{x"], ["x"]),
        ("{a,bc}.{x,y}", ["a.x", "bc.y"], ["b.x", "a.z"]),
        ("*{a,ab}c", ["ac", "abc", "zzabc"], ["abd"]),
        ("{in,out}/*.csv", ["in/a.csv", "out/b.csv"], ["x/a.csv"]),
        (r"\*.\{x", ["*.{x"], ["a.{x"]),
        ("ab*b", ["abb", "abxb"], ["ab"]),
        ("*", ["a", "x/y"], []),
        ("**", ["a", "x/y"], []),
        # Keys of an object store may have empty names among theirs, and "." and "..".
        ("[.]/[.][.]/a", ["./../a"], ["a", "../a"]),
        ("*.tmp", ["a//b.tmp", "/b.tmp", "//b.tmp"], ["b.tmp/", "b.tmp//"]),
        ("secret/", ["secret//b", "/secret/b", "a//secret/b", "secret/x/"], ["secret"]),
        ("in/**/x", ["in//x", "in/a//x"], ["/in/x"]),
        ("a*/**/b*/**/c", ["a1/b2/c", "a/x/b/y/c", "a/b/b/c"], ["a/c", "x/a/b/c"]),
    ],
)
def test_glob(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not matches(pattern, path)] == []
    assert [path for path in no if matches(pattern, path)] == []


def _slow(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path)
        return any(_slow(pattern[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and _slow_name(pattern[0], path[0]) and _slow(pattern[1:], path[1:])


def _slow_name(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(_slow_name(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and _slow_name(pattern[1:], name[1:])


NAMES = st.text("abX", min_size=1, max_size=6)
PARTS = st.one_of(st.just("**"), st.text("ab*?", min_size=1, max_size=5).filter(lambda part: part != "**"))


@given(st.lists(PARTS, min_size=2, max_size=5), st.lists(NAMES, min_size=1, max_size=5))
def test_globs_agree_with_a_slow_matcher(pattern: list[str], path: list[str]) -> None:
    assert matches("/".join(pattern), "/".join(path)) == _slow(pattern, path)


@given(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=8))
def test_any_pattern_compiles_or_says_why(pattern: str, path: str) -> None:
    try:
        matches(pattern, path)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("pattern", ["a*" * 40 + "b", "**/a/" * 20 + "b", "*a*a*a*a*a*a*a*b/**/*a*a*a*a*c"])
def test_hostile_names_take_no_time(pattern: str) -> None:
    path = "/".join(["a" * 200] * 15)
    started = time.process_time()
    matches(pattern, path)
    matches(pattern, "a/" * 1500 + "a")
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "pattern", ["", "/", "a//b", "./a", "a/../b/", "{./a,b}", ".", "[a", "{a", "a\\", "{a,b}" * 12, "[z-a]"]
)
def test_a_bad_glob_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Rule(True, pattern)


def test_the_first_rule_that_matches_decides() -> None:
    filters = Filters(rules=(Rule(True, "keep.tmp"), Rule(False, "*.tmp"), Rule(True, "*.csv"), Rule(True, "*.tmp")))
    assert filters.name_verdict("x/keep.tmp") is None
    assert filters.name_verdict("x/other.tmp") == "excluded by '*.tmp'"
    assert filters.name_verdict("a.csv") is None
    assert filters.name_verdict("a.txt") == "no include rule matches"
    assert Filters(rules=(Rule(False, "*.tmp"),)).name_verdict("a.txt") is None


@pytest.mark.parametrize(
    ("rules", "yes", "no"),
    [
        ([Rule(False, "lost+found/")], ["lost+found", "a/lost+found", "lost+found/x"], ["lost", "found/lost"]),
        ([Rule(False, "a/b/")], ["a/b", "a/b/c"], ["a", "b", "x/a/b"]),
        ([Rule(False, "{a,b}/**")], ["a", "b/c"], ["c"]),
        ([Rule(False, "a")], [], ["a"]),
        ([Rule(False, "*")], [], ["a"]),
        ([Rule(True, "x.csv"), Rule(False, "a/")], [], ["a"]),
        ([Rule(False, "a/"), Rule(True, "x.csv")], ["a"], ["b"]),
    ],
)
def test_folders_that_are_left_out_as_a_whole(rules: list[Rule], yes: list[str], no: list[str]) -> None:
    filters = Filters(rules=tuple(rules))
    assert [folder for folder in (*yes, *no) if filters.folder_verdict(folder)] == yes
    assert all(filters.name_verdict(f"{folder}/any/file") for folder in yes)


def test_bounds() -> None:
    entry = Entry(path="a", size=10, modified=NOW - timedelta(hours=1))
    assert Filters().verdict(entry, NOW) is None
    assert Filters(min_size=10, max_size=10).verdict(entry, NOW) is None
    assert Filters(min_size=11).verdict(entry, NOW) == "smaller than 11 bytes"
    assert Filters(max_size=9).verdict(entry, NOW) == "larger than 9 bytes"
    assert Filters(min_age=timedelta(hours=1)).verdict(entry, NOW) is None
    assert Filters(min_age=timedelta(hours=2)).verdict(entry, NOW) == "younger than 2:00:00"
    assert Filters(max_age=timedelta(minutes=1)).verdict(entry, NOW) == "older than 0:01:00"
    unknown = Entry(path="a")
    assert Filters(max_size=9).verdict(unknown, NOW) == "its size is unknown"
    assert Filters(min_age=timedelta(1)).verdict(unknown, NOW) == "its modification time is unknown"


def test_the_path_below_the_moved_folder_is_what_rules_see() -> None:
    entry = Entry(path="outbox/in/a.csv")
    filters = Filters(rules=(Rule(True, "/in/*.csv"),))
    assert filters.verdict(entry, NOW) == "no include rule matches"
    assert filters.verdict(entry, NOW, path="in/a.csv") is None
