"""What one flow's patterns, templates and times mean, beyond their shape."""

from __future__ import annotations

import re

from crossdock.config.endings import check_endings
from crossdock.config.mistakes import Key, Report
from crossdock.config.patterns import Language, common_path, cost, pattern_of, without_atoms
from crossdock.flows.flow import Flow, Rule
from crossdock.flows.plan import Planner, archive_pattern
from crossdock.flows.route import DATES, WORDS, Template, mistakes_in

__all__ = ["check_flow", "rule_key", "sound_rules"]

_JUDGED = 200
"""Rules of one flow that are compared with all before them, which takes longer with each."""
_OWN = re.compile(r"\.(?=[*+])")
_LIKE_GLOB, _LIKE_REGEX = re.compile(r"(?=.*[\w -]\*)[\w./ *?-]+"), re.compile(r"\\[.dsw]")
_BARE = re.compile(
    r"(?:\\?\.)?((?:tar\\?\.)?(?:asc|avro|bak|bz2|csv|dat|docx?|edi|gpg|gz|html?|jpe?g|jsonl?|log|md5|ndjson|orc|parquet"
    r"|pdf|pgp|png|sha256|sql|tar|tgz|tiff?|tmp|tsv|txt|xlsx?|xml|xz|ya?ml|zip|zst))\$?",
    re.IGNORECASE,
)
"""An ending of what is often sent, and nothing before it."""
_BRACES, _LISTED = re.compile(r"\{[^{}]*\}|\[[^\]]*\]"), re.compile(r",\s*[*?.\w]*\*")


def rule_key(report: Report, flow: Flow, at: int) -> Key:
    """Where a rule stands: `rules`, or the short form `to`."""
    return report.rules[flow.name][at]


def sound_rules(report: Report, flow: Flow) -> bool:
    """Which files the rules take, and where they send them, is as the user means it."""
    keys = report.rules[flow.name]
    return report.sound(("flows", flow.name, "rules"), below=False) and all(
        report.sound((*key, name)) for key in keys for name in ("match", "to")
    )


def check_flow(report: Report, flow: Flow) -> None:
    """Adds to the report what is wrong in a flow that is well-formed; about stand-ins nothing is said."""
    key: Key = ("flows", flow.name)
    for at, rule in enumerate(flow.rules):
        _rule(report, rule, rule_key(report, flow, at))
    for name, text in (("marker", flow.settle.marker), ("manifest", flow.settle.manifest)):
        _beside(report, (*key, "settle", name), text, WORDS)
        if text is not None and "*" in text:
            message = f"{text!r} is one name: a * is itself in it"
            report.warning((*key, "settle", name), message, "write {name}.done, or a name as it is called")
    _beside(report, (*key, "after", "marker"), flow.after.marker, WORDS)
    _beside(report, (*key, "after", "archive"), flow.after.archive, (*WORDS, *DATES))
    if re.search(r"[*?{]", flow.source.path):
        message = f"a source is a folder as it is called: {flow.source.path!r} stands for no others"
        report.warning((*key, "source"), message, "write the folder above, and which files by 'include' or 'match'")
    for filter_ in flow.filters.rules:
        _globbed(report, (*key, "include" if filter_.include else "exclude"), filter_.pattern)
    _unitless(report, (*key, "after", "keep"), "archived files are removed {:g} s after their move")
    _unitless(report, (*key, "max_age"), "files are left out {:g} s after their last change")
    never: list[str] = []
    try:
        never = [without_atoms(pattern.pattern) for pattern, _ in Planner(flow).never]
    except ValueError as error:
        if report.sound(key):
            reason, _, hint = str(error).partition("; ")
            report.mistake(key, reason, hint or "correct the rule, or what 'settle' and 'after' say")
    if all(report.sound((*key, name)) for name in ("include", "exclude")):
        if sound_rules(report, flow):
            _endings(report, flow)
            if flow.on_conflict == "overwrite":
                _flattened(report, flow)
        _reached(report, flow, never if all(report.sound((*key, name)) for name in ("settle", "after")) else [])


def _unitless(report: Report, key: Key, words: str) -> None:
    number = report.value(key)
    if isinstance(number, (int, float)) and report.sound(key):
        message = f"without a unit these are seconds: {words.format(number)}"
        report.warning(key, message, f"write {number:g}d for days, or {number:g}s if that is meant")


def _rule(report: Report, rule: Rule, key: Key) -> None:
    groups: set[str] = set()
    _globbed(report, (*key, "match", "glob"), rule.glob or "")
    if rule.regex is not None:
        groups = set(re.compile(rule.regex).groupindex)
        if _LIKE_GLOB.fullmatch(rule.regex):
            message = f"{rule.regex!r} is a regular expression, where a * repeats the character before it"
            hint = f"write {{glob: {rule.regex!r}}}, or .* for any characters"
            report.warning((*key, "match", "regex"), message, hint)
        elif (ending := _ending(rule.regex)) is not None:
            message = f"{rule.regex!r} matches a file whose whole path is that, and no other"
            hint = f"write .*\\.{ending} for all that end so, unless it is meant"
            report.warning((*key, "match", "regex"), message, hint)
        slow = cost(rule.regex)
        if slow is not None:
            hint = _quicker(rule.regex)
            report.mistake((*key, "match", "regex"), f"may take for ever on a long path: {slow}", hint)
        for word in sorted(groups & {*WORDS, *DATES}):
            message = f"the group {word!r} has the name of a word that every template knows"
            report.mistake((*key, "match", "regex"), message, f"call it otherwise: (?P<the_{word}>…)")
    # A function that stands among them has no template.
    for number, to in enumerate(rule.to):
        place = (*key, "to", number)
        template = _template(report, place, to.template, {*WORDS, *DATES, *groups})
        if template is not None and not template.names - {"now"} and _several(rule):
            hint = "write {name} or {path} into it"
            report.warning(place, f"all files that match go to one and the same place, {to}", hint)


def _globbed(report: Report, key: Key, glob: str) -> None:
    """`*.csv, *.txt` in one is a name with a comma, and nothing has that; a backslash makes no class of characters; and
    few files are called `csv`."""
    if (ending := _ending(glob)) is not None:
        message = f"{glob!r} stands for files that are called so, and for no others"
        report.warning(key, message, f"write '*.{ending}' for all that end so, unless it is meant")
    if _LIKE_REGEX.search(glob):
        message = f"'{glob}' is a glob, where a backslash takes the next character as it is"
        hint = "write *.csv for what is .*\\.csv in a regular expression"
        report.warning(key, message, hint + (", or match: REGEX without 'glob:'" if key[-1] == "glob" else ""))
    if _LISTED.search(_BRACES.sub("", glob)):
        message = f"{glob!r} is one glob, for names that have the comma in them"
        hint = "write a list, ['*.csv', '*.txt']" if key[-1] != "glob" else "write {glob: '*.{csv,txt}'}"
        report.warning(key, message, hint)


def _ending(pattern: str) -> str | None:
    """What the names are to end with, if the pattern is that alone; without the dot."""
    bare = _BARE.fullmatch(pattern)
    return bare[1] if bare is not None else None


def _quicker(regex: str) -> str:
    if _OWN.search(regex):
        return "write [^_/]+ for a part that ends at '_' instead of .+, or use match: {glob: '…'}"
    return "let no repeat stand inside another, or use match: {glob: '…'}"


def _several(rule: Rule) -> bool:
    """More than one path may match."""
    language = Language.of(regex=rule.regex, glob=rule.glob)
    first, _ = common_path([language])
    return first is None or common_path([language], none_of=[Language.of(regex=re.escape(first))]) != (None, True)


def _flattened(report: Report, flow: Flow) -> None:
    """Of files in several folders, nothing but the name is left at the target."""
    included, excluded = _filters(flow)
    for at, rule in enumerate(flow.rules[:_JUDGED]):
        named = [number for number, to in enumerate(rule.to) if _is_name(Template(to.template))]
        taken = [Language.of(regex=rule.regex, glob=rule.glob), *included]
        first = common_path([*taken, Language.of(regex=".*/.*")], none_of=excluded)[0] if named else None
        if first is None:
            continue
        beside = Language.of(regex=f"{re.escape(first.rpartition('/')[0])}/[^/]*")
        if common_path(taken, none_of=[*excluded, beside])[0] is None:
            continue
        for number in named:
            message = (
                f"of files that have one name in several folders, the later replaces the other at {rule.to[number]}"
            )
            hint = "write {path}, or {folder} beside the name, or 'on_conflict: version' or 'fail'"
            report.warning((*rule_key(report, flow, at), "to", number), message, hint)


def _endings(report: Report, flow: Flow) -> None:
    if not any(rule.transforms for rule in flow.rules):
        return
    included, excluded = _filters(flow)
    before: list[Language] = []
    for at, rule in enumerate(flow.rules[:_JUDGED]):
        language, key = Language.of(regex=rule.regex, glob=rule.glob), rule_key(report, flow, at)
        if report.sound((*key, "transform")):
            check_endings(report, rule, key, [language, *included], [*excluded, *before])
        before.append(language)


def _is_name(template: Template) -> bool:
    return bool(template.names & {"name", "stem"}) and not template.names - {"name", "stem", "suffix", "now"}


def _filters(flow: Flow) -> tuple[list[Language], list[Language]]:
    """What the flow's filters let through is in all of the first, and in none of the second."""
    globs = [rule.pattern for rule in flow.filters.rules if rule.include]
    included = [Language.union(pattern_of(glob=glob) for glob in globs)] if globs else []
    return included, [Language.of(glob=rule.pattern) for rule in flow.filters.rules if not rule.include]


def _template(report: Report, key: Key, text: str, words: set[str]) -> Template | None:
    wrong = list(mistakes_in(text, words))
    for message in wrong:
        reason, _, hint = message.partition("; ")
        report.mistake(key, reason, hint or "write {now:%Y-%m-%d} or {now:%Y/%m/%d@Europe/London}")
    return None if wrong else Template(text)


def _beside(report: Report, key: Key, text: str | None, words: tuple[str, ...]) -> None:
    """A name made from a file's: it must not be that file's own."""
    if text is None:
        return
    template = _template(report, key, text, set(words))
    if key[-1] != "archive" and not {"", ".", ".."}.isdisjoint(text.lstrip("/").split("/")):
        report.mistake(key, f"no file can have the name {text!r}", "write {name}.done, or folder/{name}.done")
        return
    if template is None or not template.names:
        return
    if key[-1] == "archive":
        try:
            archive_pattern(text)
        except ValueError:
            message = f"nothing tells {text!r} from a file that is still to be sent"
            report.mistake(key, message, "write .done/{path}, or put another word into it that is in no other name")
    elif not template.literal.strip("/"):
        report.mistake(key, f"{text!r} is the name of the file itself", "write {name}.done")


def _reached(report: Report, flow: Flow, never: list[str]) -> None:
    """Each rule must be able to decide about some path. `never`: patterns of those that are not taken at all."""
    languages = [Language.of(regex=rule.regex, glob=rule.glob) for rule in flow.rules[:_JUDGED]]
    included, excluded = _filters(flow)
    aside = [Language.of(regex=pattern) for pattern in never]
    for at, (rule, language) in enumerate(zip(flow.rules[:_JUDGED], languages, strict=True)):
        key = rule_key(report, flow, at)
        if not all(report.sound((*rule_key(report, flow, one), "match")) for one in range(at + 1)):
            # What is meant by it, and what is left by those before it, is not known.
            return
        if common_path([language]) == (None, True):
            pattern = rule.regex or rule.glob or ""
            bare = re.sub(r"\A\^?/+", "", pattern)
            hint = "paths are written folder/name.csv, from the flow's source on"
            if bare != pattern and bare:
                hint = f"paths have no slash at their start: write {bare!r}"
            report.mistake((*key, "match"), f"no path can match {pattern!r}", hint)
        elif common_path([language], none_of=languages[:at]) == (None, True):
            before = next(
                (one.name for one, other in zip(flow.rules, languages[:at], strict=False)
                 if common_path([language], none_of=[other]) == (None, True)),
                "the rules before it together",
            )  # fmt: skip
            message = f"rule {rule.name} is never reached: {before} takes every path that it matches"
            report.mistake(key, message, "put the narrower rule first, or remove one")
        elif common_path([language, *included], none_of=excluded) == (None, True):
            message = f"rule {rule.name} matches only paths that 'include' and 'exclude' leave out"
            report.mistake(key, message, "change the rule, or what is included")
        elif (rule.to or rule.call) and common_path([language, *included], none_of=[*excluded, *aside]) == (None, True):
            message = f"rule {rule.name} matches only names of markers, manifests, temporary files or the archive"
            report.mistake(key, message, "those are never taken: change the rule, or 'settle' and 'after'")
