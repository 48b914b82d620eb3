"""What patterns of paths can and cannot match, and how long they may take. Nothing of the user's is executed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from crossdock.config.automata import Automaton, Machine, TooLarge, alphabet_of, compiled, edges, tail_of
from crossdock.flows.filters import compile_glob

__all__ = ["Language", "common_path", "cost", "pattern_of", "without_atoms"]

_PATH = r"[^/\n]+(?:/[^/\n]+)*"
"""Without line ends, which are no reason to keep a rule although `.` does not match them."""
_PRODUCT = 3000
"""Combined states that are looked at before the answer is 'not known'."""
_PAIRS = 200_000
_UNROLL, _WAYS = 12, 1e6


@dataclass(frozen=True, slots=True)
class Language:
    """A set of paths: those that a pattern takes."""

    machine: Machine | None = None
    start: int = 0
    everything: bool = False
    tail: str = ""
    """What all of them end with, as far as that is known."""

    @classmethod
    def of(cls, *, regex: str | None = None, glob: str | None = None) -> Language:
        """Of a regular expression over the whole path, of a glob, or of neither: every path."""
        return cls.union([pattern_of(regex=regex, glob=glob)])

    @classmethod
    def union(cls, patterns: Iterable[str | None]) -> Language:
        """Of several regular expressions; None is every path."""
        wanted = tuple(patterns)
        if None in wanted:
            return cls(everything=True)
        try:
            machine = _machine(*(pattern for pattern in wanted if pattern is not None))
            return cls(machine, tail=_tail(wanted[0]) if len(wanted) == 1 and wanted[0] is not None else "")
        except (TooLarge, RecursionError):
            return cls()

    def below(self, folder: str) -> Language:
        """The rest of those paths that are below a folder ("" is the top)."""
        if self.machine is None or not folder:
            return self
        try:
            start = self.machine.after(f"{folder}/", self.start)
            return replace(self, start=start, tail=self.tail.rpartition("/")[2])
        except TooLarge:
            return Language()

    @property
    def known(self) -> bool:
        """The machine matches exactly what the pattern does."""
        return self.everything or (self.machine is not None and self.machine.automaton.exact)


def pattern_of(*, regex: str | None = None, glob: str | None = None) -> str | None:
    """The regular expression over a whole path; None for every path."""
    return without_atoms(compile_glob(glob).pattern) if glob is not None else regex


def without_atoms(glob: str) -> str:
    """The regular expression of a glob with plain groups: its atomic ones only save time, and match no less."""
    return glob.replace("(?>", "(?:")


@lru_cache(maxsize=4096)
def _machine(*patterns: str) -> Machine:
    return Machine(compiled(*patterns))


_tail = lru_cache(maxsize=4096)(tail_of)


def common_path(of: Sequence[Language], *, none_of: Sequence[Language] = ()) -> tuple[str | None, bool]:
    """A shortest path that all of `of` take and none of `none_of` does, and whether the answer is certain.

    (None, True): there is none. (path, True): this one. (path or None, False): not known; the path may be one.
    """
    if any(one.everything for one in none_of):
        return None, True
    longest = max((one.tail for one in of), key=len, default="")
    if not all(longest.endswith(one.tail) for one in of):
        return None, True
    wanted = [(_machine(_PATH), 0), *((one.machine, one.start) for one in of if one.machine is not None)]
    unwanted = [(one.machine, one.start) for one in none_of if one.machine is not None and one.known]
    certain = all(one.known for one in (*of, *none_of))
    try:
        found = _shortest(wanted, [])
        # Mostly it is in none of the others, which costs one look at each; to walk all of them side by side is slow.
        if found is not None and any(_takes(*each, found) for each in unwanted):
            found = _shortest(wanted, unwanted)
    except TooLarge:
        return None, False
    return found, certain or found is None


def _takes(machine: Machine, start: int, path: str) -> bool:
    after = machine.after(path, start)
    return after >= 0 and machine.accepts(after)


def _shortest(wanted: Sequence[tuple[Machine, int]], unwanted: Sequence[tuple[Machine, int]]) -> str | None:
    machines = [machine for machine, _ in (*wanted, *unwanted)]
    split = len(wanted)
    first = tuple(state for _, state in (*wanted, *unwanted))
    if -1 in first[:split]:
        return None
    letters = alphabet_of(*machines)
    seen = {first}
    queue: deque[tuple[tuple[int, ...], str]] = deque([(first, "")])
    while queue:
        states, read = queue.popleft()
        ends = [state >= 0 and machine.accepts(state) for machine, state in zip(machines, states, strict=True)]
        if all(ends[:split]) and not any(ends[split:]):
            return read
        for letter in letters:
            following: list[int] = []
            for machine, state in zip(machines, states, strict=True):
                after = machine.step(state, letter) if state >= 0 else -1
                if after < 0 and len(following) < split:
                    break
                following.append(after)
            else:
                key = tuple(following)
                if key not in seen:
                    if len(seen) >= _PRODUCT:
                        raise TooLarge
                    seen.add(key)
                    queue.append((key, read + letter))
    return None


def cost(regex: str) -> str | None:
    """Why a regular expression may take too long on a path that it does not match; None if it does not.

    After Weideman and others, "Analyzing matching time behavior of backtracking regular expression matchers by using
    ambiguity of NFA" (2016): exponential if a loop can read the same text in two ways, else polynomial, with one more
    power for each pair of loops that can hand text on to the other.
    """
    try:
        graph = _Graph(compiled(regex, unroll=_UNROLL, ways=_WAYS, ahead=True))
        if graph.exponential():
            return "two repeats, one inside the other, can share the same text out in endless ways"
        powers = graph.powers()
    except (TooLarge, RecursionError):
        return "it is too complex to be judged"
    return f"{powers} repeats in a row can match the same text" if powers > 3 else None


class _Graph:
    """Which reading state can follow which, and which of them can read a common character."""

    def __init__(self, automaton: Automaton) -> None:
        self._left = _PAIRS
        letters = alphabet_of(Machine(automaton))
        self.masks = {
            state: sum(1 << bit for bit, letter in enumerate(letters) if test(letter))
            for state, (test, _) in automaton.reads.items()
        }
        self.after: dict[int, list[int]] = {state: [] for state in automaton.reads}
        self.twice: list[tuple[int, int]] = []
        for state, following, ways in edges(automaton, _PAIRS):
            self.after[state].append(following)
            if ways > 1:
                self.twice.append((state, following))
        self.loops = list(_loops(self.after))

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooLarge

    def exponential(self) -> bool:
        within = {state: number for number, loop in enumerate(self.loops) for state in loop}
        if any(a in within and within[a] == within.get(b) for a, b in self.twice):
            return True
        return any(self._parts_and_meets(loop) for loop in self.loops)

    def _parts_and_meets(self, loop: frozenset[int]) -> bool:
        """Two runs through the loop over one text that part and meet again."""
        before: dict[tuple[int, int], list[tuple[int, int]]] = {}
        seen = {(state, state) for state in loop}
        waiting = list(seen)
        while waiting:
            pair = waiting.pop()
            for one in self.after[pair[0]]:
                for other in self.after[pair[1]]:
                    self._spend()
                    if one in loop and other in loop and self.masks[one] & self.masks[other]:
                        before.setdefault((one, other), []).append(pair)
                        if (one, other) not in seen:
                            seen.add((one, other))
                            waiting.append((one, other))
        back = {(state, state) for state in loop}
        waiting = list(back)
        while waiting:
            for pair in before.get(waiting.pop(), ()):
                self._spend()
                if pair[0] != pair[1]:
                    return True
                if pair not in back:
                    back.add(pair)
                    waiting.append(pair)
        return False

    def powers(self) -> int:
        """The degree of the polynomial: the longest chain of loops, each of which can hand text on to the next."""
        depth: dict[int, int] = {}

        def longest(number: int) -> int:
            if number not in depth:
                others = (other for other in range(len(self.loops)) if other != number)
                depth[number] = 1 + max((longest(one) for one in others if self._hands_on(number, one)), default=0)
            return depth[number]

        return max((longest(number) for number in range(len(self.loops))), default=1)

    def _hands_on(self, first: int, second: int) -> bool:
        """A text that stays in the first loop, leads from it to the second, and stays in the second."""
        reach = self._reached(self.loops[first])
        if not reach & self.loops[second]:
            return False
        return any(self._triple(a, b, reach) for a in self.loops[first] for b in self.loops[second])

    def _reached(self, states: Iterable[int]) -> frozenset[int]:
        found, waiting = set(states), list(states)
        while waiting:
            for following in self.after[waiting.pop()]:
                if following not in found:
                    found.add(following)
                    waiting.append(following)
        return frozenset(found)

    def _triple(self, first: int, second: int, reach: frozenset[int]) -> bool:
        start, goal = (first, first, second), (first, second, second)
        seen, waiting = {start}, [start]
        while waiting:
            a, b, c = waiting.pop()
            for following in self._triples(a, b, c):
                if following == goal:
                    return True
                if following not in seen and following[1] in reach:
                    seen.add(following)
                    waiting.append(following)
        return False

    def _triples(self, a: int, b: int, c: int) -> Iterator[tuple[int, int, int]]:
        masks = self.masks
        for x in self.after[a]:
            for z in self.after[c]:
                shared = masks[x] & masks[z]
                for y in self.after[b] if shared else ():
                    self._spend()
                    if shared & masks[y]:
                        yield x, y, z


def _loops(after: dict[int, list[int]]) -> Iterator[frozenset[int]]:
    """The strongly connected parts that have a cycle (Tarjan's algorithm, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    for root in after:
        if root in index:
            continue
        work = [(root, iter(after[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        while work:
            state, following = work[-1]
            for target in following:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    work.append((target, iter(after[target])))
                    break
                if target in stack:
                    low[state] = min(low[state], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[state])
                if low[state] == index[state]:
                    part = frozenset(stack[stack.index(state) :])
                    del stack[stack.index(state) :]
                    if len(part) > 1 or state in after[state]:
                        yield part
