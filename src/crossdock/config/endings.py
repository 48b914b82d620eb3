"""Names that do not tell what a rule's transforms make of a file: the rule names the result, and no step does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crossdock.config.mistakes import Key, Report
from crossdock.config.patterns import Language, common_path
from crossdock.flows.flow import Rule

__all__ = ["check_endings"]

_PACKS = {"gzip": (".gz", ".gzip", ".tgz", ".svgz"), "zstd": (".zst", ".zstd", ".tzst")}
_UNPACKS = {"gunzip": _PACKS["gzip"][:1], "unzstd": _PACKS["zstd"][:1]}
_TEXT = ("charset", "lines")
"""Steps that leave a file what it is called by."""
_WORD = re.compile(r"(?<!\{)\{(path|name|suffix)\}\Z")


def check_endings(report: Report, rule: Rule, key: Key, taken: Sequence[Language], left: Sequence[Language]) -> None:
    """Advice about a rule that takes the paths that are in all of `taken`, and in none of `left`."""
    step = next((spec.name for spec in reversed(rule.transforms) if spec.name not in _TEXT), "")
    endings = _PACKS.get(step) or _UNPACKS.get(step)
    if endings is None:
        return
    named_so = Language.of(regex=rf".*(?:{'|'.join(map(re.escape, endings))})")
    for number, to in enumerate(rule.to):
        text = to.template
        if not text or text.endswith("/"):
            text += "{path}"
        word = _WORD.search(text)
        if word is None and text.endswith("}"):
            continue  # what it ends with is not known
        if step in _PACKS:
            wrong = not text.endswith(endings) if word is None else _some(taken, [*left, named_so])
            message = f"what {step} makes is not called {endings[0]} at {to}: no step changes the name"
            hint = f"write {to.endpoint}:{text}{endings[0]}, unless it is meant"
        else:
            wrong = text.endswith(endings) if word is None else _some([*taken, named_so], left)
            message = f"what {step} makes is still called {endings[0]} at {to}: no step changes the name"
            plain = text.removesuffix(next((one for one in endings if text.endswith(one)), ""))
            plain = re.sub(r"\{path\}\Z", "{folder}/{stem}", re.sub(r"\{name\}\Z", "{stem}", plain))
            hint = f"write {to.endpoint}:{plain.removesuffix('{suffix}')}, unless it is meant"
        if wrong:
            report.warning((*key, "to", number), message, hint)


def _some(taken: Sequence[Language], left: Sequence[Language]) -> bool:
    """There is such a path, as far as that can be known."""
    found, certain = common_path(taken, none_of=left)
    return found is not None and certain
