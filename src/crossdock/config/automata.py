"""Regular expressions as automata, to reason about them without running them on anything.

Built from the tree that Python's own parser makes. What an automaton cannot say (a backreference, a lookahead of more
than one character, a word boundary) is left open: the automaton then matches at least what the pattern matches, and
says so (`exact` is False).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from re import _constants as code  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from crossdock.config.characters import Test, test_of

__all__ = ["END", "Automaton", "Machine", "TooLarge", "alphabet_of", "compiled", "edges", "tail_of"]

END = ""
"""Stands for the next character after the last."""
_STATES = 4000

Guard = Callable[[str, bool], bool]
"""(next character or END, nothing was read yet) → whether an empty step may be taken."""


class TooLarge(Exception):
    """The pattern would need more states than are worth looking at."""


@dataclass(slots=True)
class Automaton:
    """Thompson's construction: each state has empty steps and at most one step that reads a character."""

    empty: list[list[tuple[int, Guard | None]]] = field(default_factory=list)
    reads: dict[int, tuple[Test, int]] = field(default_factory=dict)
    characters: set[str] = field(default_factory=set)
    """Those at which its tests may change their answer."""
    tests: dict[Test, None] = field(default_factory=dict)
    start: int = 0
    end: int = 0
    exact: bool = True

    def closure(self, states: frozenset[int], following: str, at_start: bool) -> set[int]:
        """What is reached from `states` without reading, when `following` is the next character."""
        found, waiting = set(states), list(states)
        while waiting:
            for target, guard in self.empty[waiting.pop()]:
                if target not in found and (guard is None or guard(following, at_start)):
                    found.add(target)
                    waiting.append(target)
        return found

    def step(self, states: frozenset[int], character: str, at_start: bool) -> frozenset[int]:
        """The states after one more character."""
        reached = self.closure(states, character, at_start)
        return frozenset(
            self.reads[state][1] for state in reached if state in self.reads and self.reads[state][0](character)
        )

    def accepts(self, states: frozenset[int], at_start: bool) -> bool:
        """Whether what was read so far is a whole match."""
        return self.end in self.closure(states, END, at_start)


class Machine:
    """An automaton made deterministic, as far as it is asked: states are numbers, 0 is the start, -1 is dead."""

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        self._sets: list[tuple[frozenset[int], bool]] = []
        self._numbers: dict[tuple[frozenset[int], bool], int] = {}
        self._steps: dict[tuple[int, int], int] = {}
        self._accepts: dict[int, bool] = {}
        self._kinds: dict[str, int] = {}
        self._signatures: dict[tuple[bool, ...], int] = {}
        self._tests = list(automaton.tests)
        self._number(frozenset((automaton.start,)), True)
        signatures = zip(*map(_answers, self._tests), strict=True) if self._tests else [()] * len(_BASE)
        self.base = tuple(self._signatures.setdefault(each, len(self._signatures)) for each in signatures)
        self._kinds.update(zip(_BASE, self.base, strict=True))
        self.others = automaton.characters.difference(_BASE)

    def kind(self, character: str) -> int:
        """Equal for characters that this automaton does not tell apart."""
        found = self._kinds.get(character)
        if found is None:
            signature = tuple(test(character) for test in self._tests)
            found = self._kinds[character] = self._signatures.setdefault(signature, len(self._signatures))
        return found

    def step(self, state: int, character: str) -> int:
        """The state after one more character. Raises `TooLarge`."""
        key = (state, self.kind(character))
        found = self._steps.get(key)
        if found is None:
            states, at_start = self._sets[state]
            following = self.automaton.step(states, character, at_start)
            found = self._steps[key] = self._number(following, False) if following else -1
        return found

    def accepts(self, state: int) -> bool:
        """Whether what was read so far is a whole match."""
        if state not in self._accepts:
            self._accepts[state] = self.automaton.accepts(*self._sets[state])
        return self._accepts[state]

    def after(self, text: str, state: int = 0) -> int:
        """The state that is reached by a text."""
        for character in text:
            if state >= 0:
                state = self.step(state, character)
        return state

    def _number(self, states: frozenset[int], at_start: bool) -> int:
        key = (states, at_start)
        if key not in self._numbers:
            if len(self._sets) >= _STATES:
                raise TooLarge
            self._numbers[key] = len(self._sets)
            self._sets.append(key)
        return self._numbers[key]


def compiled(*patterns: str, unroll: int = 1000, ways: float = math.inf, ahead: bool = False) -> Automaton:
    """The automaton of whatever matches one of the patterns.

    `unroll`: bounded repeats with more copies than this are taken as unbounded, and so are those that could share a
    text out in more than so many `ways`. `ahead`: what a lookahead reads is in it, though it leads nowhere. Raises
    `re.error`, `TooLarge`.
    """
    builder = _Builder(unroll, ways, ahead)
    automaton = builder.automaton
    automaton.start, automaton.end = builder.state(), builder.state()
    for pattern in patterns:
        tree = parser.parse(pattern)
        begin = builder.state()
        automaton.empty[automaton.start].append((begin, None))
        end = builder.sequence(tree, begin, tree.state.flags)
        automaton.empty[end].append((automaton.end, None))
    return automaton


def tail_of(pattern: str) -> str:
    """What every text that the pattern matches as a whole ends with, as far as it is written out at its end."""
    tree = parser.parse(pattern)
    return "" if tree.state.flags & re.IGNORECASE else _tail(tree)[0]


def _tail(items: Any) -> tuple[str, bool]:
    """The end, and whether it is all."""
    found, whole = "", True
    for operation, argument in reversed(items):
        if operation is code.LITERAL:
            found = chr(argument) + found
        elif operation is code.ATOMIC_GROUP or (operation is code.SUBPATTERN and not argument[1]):
            more, whole = _tail(argument if operation is code.ATOMIC_GROUP else argument[3])
            found = more + found
        elif operation not in (code.AT, code.ASSERT, code.ASSERT_NOT):
            whole = False
        if not whole:
            break
    return found, whole


class _Builder:
    def __init__(self, unroll: int, ways: float, ahead: bool) -> None:
        self.automaton, self._unroll, self._ways, self._ahead = Automaton(), unroll, ways, ahead

    def state(self) -> int:
        if len(self.automaton.empty) >= _STATES:
            raise TooLarge
        self.automaton.empty.append([])
        return len(self.automaton.empty) - 1

    def _empty(self, start: int, end: int, guard: Guard | None = None) -> None:
        self.automaton.empty[start].append((end, guard))

    def _read(self, start: int, test: Test) -> int:
        end = self.state()
        self.automaton.reads[start] = (test, end)
        return end

    def sequence(self, items: Any, start: int, flags: int) -> int:
        """Adds the items one after another; returns the state after them."""
        at = start
        for operation, argument in items:
            at = self._item(operation, argument, at, flags)
        return at

    def _item(self, operation: Any, argument: Any, start: int, flags: int) -> int:
        test = self._test(operation, argument, flags)
        if test is not None:
            begin = self.state()
            self._empty(start, begin)
            return self._read(begin, test)
        if operation is code.SUBPATTERN:
            _, add, remove, inner = argument
            return self.sequence(inner, start, (flags | add) & ~remove)
        if operation is code.ATOMIC_GROUP:
            self.automaton.exact = False  # it may match less than a plain one
            return self.sequence(argument, start, flags)
        if operation is code.BRANCH:
            end = self.state()
            for branch in argument[1]:
                begin = self.state()
                self._empty(start, begin)
                self._empty(self.sequence(branch, begin, flags), end)
            return end
        if operation in (code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT):
            low, high, inner = argument
            self.automaton.exact &= operation is not code.POSSESSIVE_REPEAT
            return self._repeat(low, high, inner, start, flags)
        return self._zero_width(operation, argument, start, flags)

    def _repeat(self, low: int, high: int, inner: Any, start: int, flags: int) -> int:
        least, most = inner.getwidth()
        if least == 0 and (most + 1) ** min(low, 100) > self._ways:
            # Of the copies that there must be, any may take nothing: one text is read in as many ways.
            inner, low, high = [(code.BRANCH, (None, [inner, inner]))], 1, code.MAXREPEAT
        shared_out = most < code.MAXREPEAT and (most - least + 1) ** min(high, 100) > self._ways
        if high is not code.MAXREPEAT and (high > self._unroll or shared_out):
            low, high = min(low, 1), code.MAXREPEAT
        at = start
        for _ in range(low):
            at = self.sequence(inner, self._after(at), flags)
        if high is code.MAXREPEAT:
            begin, end = self.state(), self.state()
            self._empty(at, begin)
            self._empty(at, end)
            last = self.sequence(inner, begin, flags)
            self._empty(last, begin)
            self._empty(last, end)
            return end
        end = self.state()
        for _ in range(high - low):
            self._empty(at, end)
            at = self.sequence(inner, self._after(at), flags)
        self._empty(at, end)
        return end

    def _after(self, state: int) -> int:
        begin = self.state()
        self._empty(state, begin)
        return begin

    def _zero_width(self, operation: Any, argument: Any, start: int, flags: int) -> int:
        end = self.state()
        guard = self._guard(operation, argument, flags)
        self._empty(start, end, guard)
        if guard is None:
            self.automaton.exact = False
            if operation is code.GROUPREF_EXISTS:
                for branch in argument[1:]:
                    self._empty(self.sequence(branch or (), self._after(start), flags), end)
            elif operation in (code.GROUPREF, code.GROUPREF_IGNORE):
                self._empty(self._read(end, lambda _: True), end)
            elif self._ahead and operation in (code.ASSERT, code.ASSERT_NOT):
                self.sequence(argument[1], self._after(start), flags)
        return end

    def _guard(self, operation: Any, argument: Any, flags: int) -> Guard | None:
        if operation is code.AT and not flags & re.MULTILINE:
            if argument in (code.AT_BEGINNING, code.AT_BEGINNING_STRING):
                return lambda _, at_start: at_start
            if argument in (code.AT_END, code.AT_END_STRING):
                return lambda following, _: following == END
        if operation in (code.ASSERT, code.ASSERT_NOT) and argument[0] == 1 and len(argument[1]) == 1:
            kind, value = argument[1][0]
            test = self._test(kind, value, flags)
            if test is not None:
                ahead = test
                if operation is code.ASSERT:
                    return lambda following, _: following != END and ahead(following)
                return lambda following, _: following == END or not ahead(following)
        if operation is code.ASSERT_NOT and not len(argument[1]):
            return lambda _, __: False
        return None

    def _test(self, operation: Any, argument: Any, flags: int) -> Test | None:
        """For what reads exactly one character."""
        if operation not in (code.ANY, code.LITERAL, code.NOT_LITERAL, code.IN):
            return None
        key = (f"{operation}{argument}", flags)
        if key not in _TESTS:
            if len(_TESTS) >= _TESTS_KEPT:
                _TESTS.clear()
            _TESTS[key] = test_of(operation, argument, flags)
        test, characters = _TESTS[key]
        self.automaton.tests[test] = None
        self.automaton.characters |= characters
        return test


_TESTS: dict[tuple[str, int], tuple[Test, frozenset[str]]] = {}
"""The same for all patterns: a file of many rules has few tests, each in many of them."""
_TESTS_KEPT = 5000


_PREFERRED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./ "
_BASE = tuple(dict.fromkeys(_PREFERRED + "".join(map(chr, range(128))) + "éßΩ٣ 漢\udcff\U0001f600"))
"""Readable ones first: of characters of one kind, the first stands for all."""


@lru_cache(maxsize=_TESTS_KEPT)
def _answers(test: Test) -> tuple[bool, ...]:
    return tuple(map(test, _BASE))


def alphabet_of(*machines: Machine) -> list[str]:
    """One character for each kind that the machines together tell apart."""
    others = tuple(sorted(set().union(*(machine.others for machine in machines))))
    kinds = [(*machine.base, *map(machine.kind, others)) for machine in machines]
    found: dict[tuple[int, ...], str] = {}
    for signature, character in zip(zip(*kinds, strict=True), _BASE + others, strict=True):
        found.setdefault(signature, character)
    return list(found.values())


def edges(automaton: Automaton, steps: int) -> Iterator[tuple[int, int, int]]:
    """(reading state, reading state that can follow it, in how many ways: 1 or 2 for more). Raises `TooLarge`."""
    for state, (_, target) in automaton.reads.items():
        ways: dict[int, int] = {}
        path: set[int] = set()
        waiting: list[tuple[int, bool]] = [(target, False)]
        while waiting:
            at, leaving = waiting.pop()
            if leaving:
                path.discard(at)
                continue
            steps -= 1
            if steps < 0:
                raise TooLarge
            if at in automaton.reads:
                ways[at] = min(2, ways.get(at, 0) + 1)
            path.add(at)
            waiting.append((at, True))
            waiting += [(following, False) for following, _ in automaton.empty[at] if following not in path]
        for following, count in ways.items():
            yield state, following, count
