"""What is said of patterns is true: compared with what Python's `re` does with them."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crossdock.config import load
from crossdock.config.automata import Machine, TooLarge, compiled, tail_of
from crossdock.config.patterns import Language, common_path, cost
from crossdock.flows.filters import compile_glob
from tests.config.conftest import ENDPOINTS, Write

of = Language.of

_ATOMS = ["a", "b", "_", "/", ".", r"\.", r"\d", r"\w", "[ab]", "[^/]", "[^a]", "[a-c]", "1", r"\Z", "^", "$", "(?!a)",
          "(?=b)"]  # fmt: skip
_patterns = st.recursive(
    st.sampled_from(_ATOMS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?"])),
    ),
    max_leaves=8,
)  # fmt: skip
_paths = st.text("abc_/1.x", max_size=7)


def accepts(pattern: str, path: str) -> bool:
    machine = Machine(compiled(pattern))
    state = machine.after(path)
    return state >= 0 and machine.accepts(state)


@settings(max_examples=400)
@given(_patterns, _paths)
def test_an_automaton_matches_what_the_pattern_matches(pattern: str, path: str) -> None:
    try:
        re.compile(pattern)
        matched = re.fullmatch(pattern, path) is not None
        assert accepts(pattern, path) == matched
    except (re.error, TooLarge):
        assume(False)


@settings(max_examples=200)
@given(st.text("ab*?/[]!{,}.x", min_size=1, max_size=8), _paths)
def test_globs_too(glob: str, path: str) -> None:
    try:
        pattern = compile_glob(glob)
    except ValueError:
        assume(False)
    assert accepts(pattern.pattern, path) == (pattern.fullmatch(path) is not None)


@settings(max_examples=200)
@given(_patterns, _patterns)
def test_a_common_path_is_common(one: str, other: str) -> None:
    try:
        found, certain = common_path([of(regex=one)], none_of=[of(regex=other)])
    except re.error:
        assume(False)
    if found is not None and certain:
        assert re.fullmatch(one, found)
        assert not re.fullmatch(other, found)


@pytest.mark.parametrize(
    ("regex", "path", "matches"),
    [
        (r"(?i)INV\d+", "inv7", True),
        (r"(?i:a)b", "AB", False),
        (r"(?x) a  b # comment", "ab", True),
        (r"(?s)a.b", "a\nb", True),
        (r"a.b", "a\nb", False),
        (r"(?a)\w+", "é", False),
        (r"\w+", "é", True),
        (r"(?>a*)b", "aab", True),
        (r"a*+b", "aab", True),
        (r"[^\W\d]+", "ab", True),
        (r"a{1,600}", "a" * 600, True),
        (r"(x)?(?(1)a+|b)c", "xaac", True),
        (r"(x)?(?(1)a+|b)c", "bc", True),
        (r"(x)?(?(1)a+)c", "c", True),
    ],
)
def test_flags_and_forms(regex: str, path: str, matches: bool) -> None:
    assert accepts(regex, path) is matches
    assert (re.fullmatch(regex, path) is not None) is matches


@pytest.mark.parametrize(
    "regex", [r"[ab]*+b", r"(?>a|ab)c", r"(\w)\1", r"(?!ab).*", r"\bx\b", r"(a)?(?(1)b|c)", r"(?m)^a$"]
)
def test_what_an_automaton_cannot_say_is_left_open(regex: str) -> None:
    language = of(regex=regex)
    assert not language.known
    assert common_path([of(regex="[abcx]+")], none_of=[language])[1] is False


@pytest.mark.parametrize("glob", ["a*b*c/x*y", "**/a/**/b", "a/*b/**", "[(?>]x"])
def test_a_glob_is_known_exactly(glob: str) -> None:
    assert of(glob=glob).known
    path, certain = common_path([of(glob=glob)])
    assert certain
    assert path is not None
    assert compile_glob(glob).fullmatch(path)


SLOW = [
    r"(a+)+b", r"(a*)*b", r"(?:a|a)*b", r"(\w+\s?)*b", r"(.*)*b", r"(?:.+/)*b", r"(x+x+)+y", r"(?:a|b|ab)*c",
    r"(?:a{1,100}){1,100}b", r"([a-z]+.)+[A-Z]", r"(?!(a+)+b).*", r"(?=(\w+\s?)*b).*", r"(x)?(?(1)(a+)+b|c)",
    r"([a-z]{1,12}){11}b", r"(?:a{0,5}_?){12}b", r"(?:a?){20,}b", r"(?:a?){30}b", r"(?:a|b?){25,30}c",
]  # fmt: skip


@pytest.mark.parametrize("regex", SLOW)
def test_patterns_that_take_for_ever_are_found(regex: str) -> None:
    assert cost(regex)


@pytest.mark.parametrize("regex", SLOW[:4])
def test_and_they_do_take_for_ever(regex: str) -> None:
    """Each character more doubles the work: 24 of them are more than 1,000 times the work of 12."""
    script = f"""
import re, time
def took(count):
    started = time.process_time()
    re.fullmatch({regex!r}, 'a' * count)
    return time.process_time() - started
short = max(min(took(12) for _ in range(3)), 1e-6)
print(took(24) / short)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert float(done.stdout) > 200


@pytest.mark.parametrize(
    "regex",
    [
        r"(?P<feed>\w+)_(?P<day>\d{8})\.csv\.pgp", r"(?:[^/]+/)*[^/]+\.csv", r"(\d+\.)+csv", r"(a?)*", r".+_.+_.+\.csv",
        r"[^_]+_[^_]+_[^_]+_[^_]+\.csv", r"(?i)inv_\d+\.(csv|xml)(\.gz)?", r"[a-f0-9]{64}\.bin", r"(?:.+/)?x", r".*",
        r"(?!.*\.(?:tmp|part)$)(?:[^/]+/)*[^/]+_.+\.csv", r"(?:(?!--).)*\.csv", r"(\d{1,3}\.){3}\d{1,3}",
        r"(?:\d{1,3}){1,12}", r"(\d?){8}\.csv", r"(?:a?){0,40}b", r"(?:[a-z]_?){20,}b",
        r"(?:[a-z0-9]{1,20}_){5}[a-z]{2,8}", r"(x)?(?(1)a+|b+)c",
        r"(?:EU|US|APAC)/\d{4}/\d{2}/\d{2}/[\w.-]+\.(?:json|ndjson)", r"(?:(?:a|b)*c)*", "a" * 500,
    ],
)  # fmt: skip
def test_ordinary_patterns_are_fine(regex: str) -> None:
    assert cost(regex) is None


def test_what_is_too_complex_is_not_waved_through() -> None:
    assert cost("(?:a|b|c|d|ef|g|h|i|j)*" * 30) is not None


def test_what_is_too_large_is_not_known() -> None:
    """Each of the last letters counts, which is a state for each text that they can be: nothing ends with that."""
    letters = r"(?:a|b|/)*{}(?:a|b|/){{14}}"
    one, other = (of(regex=letters.format(letter)) for letter in "ab")
    assert common_path([one, other]) == (None, False)
    assert common_path([of(regex="[ab]*")], none_of=[of(regex="[ab]{0,14}"), one, other]) == (None, False)
    below = one.below("".join(random.Random(1).choices("ab", k=20_000)))
    assert below.machine is None and not below.known


def test_paths_below_a_folder() -> None:
    language = of(regex=r"^out/in_\d+\.csv").below("out")
    assert common_path([language, of(glob="in_*.csv")]) == ("in_0.csv", True)
    assert common_path([of(regex="out.*").below("in")]) == (None, True)
    assert common_path([of(regex="^x").below("out")]) == (None, True)


def test_patterns_share_their_tests() -> None:
    """Each is asked once for every letter: 3,000 rules are checked in seconds."""
    one, other = compiled(r"feed1_\d+[a-c]"), compiled(r"\d[a-c]feed1_")
    assert set(one.tests) == set(other.tests)
    assert one.characters == other.characters


@settings(max_examples=300)
@given(_patterns, _paths)
def test_what_a_pattern_ends_with_ends_whatever_it_matches(pattern: str, path: str) -> None:
    try:
        matched = re.fullmatch(pattern, path) is not None
        tail = tail_of(pattern)
    except re.error:
        assume(False)
    assert not matched or path.endswith(tail)
    below = of(regex=pattern).below("a")
    assert not (matched and path.startswith("a/")) or path.removeprefix("a/").endswith(below.tail)


@pytest.mark.parametrize(
    ("pattern", "tail"),
    [
        (r".*_1\.csv", "_1.csv"),
        (r"(?P<a>\w+)_(?P<b>\d)\.csv$", ".csv"),
        (r"(?:a|b)(?:c(?:d+e))", "e"),
        (r"in/a\.csv", "in/a.csv"),
        (compile_glob("*_1.csv").pattern, "_1.csv"),
        (compile_glob("in/").pattern, ""),
        (r"(?i)a\.csv", ""),
        (r"a(?i:b)", ""),
        (r"(a)b\1", ""),
    ],
)
def test_what_is_written_out_at_the_end(pattern: str, tail: str) -> None:
    assert tail_of(pattern) == tail


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many steps machines made in all."""
    found: Counter[str] = Counter()
    step = Machine.step

    def counted(self: Machine, state: int, character: str) -> int:
        found["all"] += 1
        return step(self, state, character)

    monkeypatch.setattr(Machine, "step", counted)
    return found


def test_flows_of_one_source_are_compared_quickly(write: Write, steps: Counter[str]) -> None:
    """They take their files by how the names end: that was 60,000 steps for each pair, a hundred are left."""
    rule = r"{{match: '.*_{0:03}\.csv', to: 'lake:{0}/'}}"
    flow = f"  f{{0}}: {{{{source: here:x, rules: [{rule}], after: {{{{archive: .done}}}}}}}}\n"
    text = "".join(flow.format(n) for n in range(60))
    load(write(f"{ENDPOINTS}flows:\n{text}"))
    assert steps["all"] < 60 * 59 / 2 * 200


def test_many_rules_are_compared_quickly(write: Write, steps: Counter[str]) -> None:
    """Each with all before it: that was slower with each rule."""
    rules = "".join(f"      - {{match: {{glob: '**/*_{n:03}_*.csv'}}, to: 'lake:{n}/{{path}}'}}\n" for n in range(60))
    load(write(f"{ENDPOINTS}flows:\n  f:\n    source: here:x\n    rules:\n{rules}"))
    assert steps["all"] < 60 * 59 / 2 * 200


def test_a_path_that_one_rule_leaves_is_found_behind_the_shortest() -> None:
    assert common_path([of(regex="a+")], none_of=[of(regex="a"), of(regex="aa")]) == ("aaa", True)
    assert common_path([of(regex=r".*_1\.csv"), of(regex=r".*_2\.csv")]) == (None, True)
    assert common_path([of(regex=r".*_1\.csv"), of(regex=r".*\.csv")]) == ("_1.csv", True)
