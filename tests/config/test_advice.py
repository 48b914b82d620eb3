"""What is no mistake, and probably not meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossdock.config import Mistakes, load
from tests.config.conftest import ENDPOINTS, Write


def test_what_is_probably_not_meant(write: Write) -> None:
    path = write(
        f"""{ENDPOINTS}flows:
  a:
    source: bank:x
    rules:
      - {{match: .*, to: "lake:latest.csv"}}
"""
    )
    assert [str(advice).removeprefix(f"{path}:") for advice in load(path).warnings] == [
        "9: flows.a.rules.0.to: all files that match go to one and the same place, lake:latest.csv. "
        "Next: write {name} or {path} into it",
        "4: endpoints.here: no flow uses this endpoint. Next: remove it if it is not used by hand",
    ]
    single = f"{ENDPOINTS}flows: {{a: {{source: here:x, rules: [{{match: 'x\\.csv', to: ['lake:y', 'bank:y']}}]}}}}\n"
    assert load(write(single)).warnings == ()


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("{to: 'lake:', transform: gzip}", "write lake:{path}.gz, "),
        ("{to: 'lake:a/', transform: [gunzip, lines: {to: lf}, {gzip: {level: 9}}]}", "write lake:a/{path}.gz, "),
        ("{to: 'lake:{stem}.csv', transform: [gzip]}", "write lake:{stem}.csv.gz, "),
        ("{to: 'lake:{name}', transform: [zstd]}", "write lake:{name}.zst, "),
        ("{match: '.*\\.(csv|gz)', to: 'lake:{name}', transform: [gzip]}", "write lake:{name}.gz, "),
        ("{to: 'lake:', transform: [gunzip, {charset: {from: latin-1}}]}", "write lake:{folder}/{stem}, "),
        ("{match: '.*gz', to: 'lake:x/{name}', transform: [gunzip]}", "write lake:x/{stem}, "),
        ("{to: 'lake:{stem}{suffix}', transform: [unzstd]}", "write lake:{stem}, "),
        ("{to: 'lake:{stem}.gz', transform: [gunzip]}", "write lake:{stem}, "),
        ("{to: ['lake:{path}.gz', 'here:{path}'], transform: [gzip]}", "write here:{path}.gz, "),
        ("{to: 'lake:{path}.gz', transform: [gzip]}", None),
        ("{to: 'lake:{stem}.tgz', transform: [gzip]}", None),
        ("{match: '.*\\.gz', to: 'lake:', transform: [gunzip, gzip]}", None),
        ("{match: '.*\\.gz', to: none}, {match: '.*\\.csv', to: 'lake:', transform: gunzip}", None),
        ("{match: '.*\\.gz', to: none}, {to: 'lake:', transform: gunzip}", None),
        ("{match: '(?P<x>.*)', to: 'lake:{x}', transform: gzip}", None),
        ("{to: 'lake:{path}.gz.pgp', transform: [gzip, {pgp_encrypt: {recipients: " + "E" * 40 + "}}]}", None),
        ("{match: '.*\\.gz', to: 'lake:{folder}/{stem}', transform: gunzip}", None),
    ],
)
def test_a_name_that_does_not_tell_what_a_step_makes(write: Write, rules: str, told: str | None) -> None:
    path = write(f"{ENDPOINTS}flows: {{a: {{source: 'bank:x', rules: [{rules}]}}}}\n")
    found = [str(advice) for advice in load(path).warnings if "no step changes the name" in str(advice)]
    assert [f" Next: {told}unless it is meant" in each for each in found] == [True] * (told is not None), found


@pytest.mark.parametrize(
    ("keep", "told"), [("30", True), ("1.5", True), ("30s", False), ("30d", False), ("'30'", False)]
)
def test_a_time_to_keep_that_has_no_unit(write: Write, keep: str, told: bool) -> None:
    """Who means days would have the archive emptied after half a minute."""
    path = write(
        f"{ENDPOINTS}flows: {{a: {{source: 'bank:x', to: 'lake:', after: {{archive: .done, keep: {keep}}}}}}}\n"
    )
    found = [str(advice) for advice in load(path).warnings if ".after.keep: " in str(advice)]
    words = (
        f"flows.a.after.keep: without a unit these are seconds: archived files are removed {keep} s after their move"
    )
    assert [words in each and f"Next: write {keep}d for days" in each for each in found] == [True] * told


def test_an_age_that_has_no_unit(write: Write) -> None:
    """Who means days would have all but the newest files left alone, without a word."""
    flow = f"{ENDPOINTS}flows: {{a: {{source: 'bank:x', to: 'lake:', max_age: AGE}}}}\n"
    found = [str(each) for each in load(write(flow.replace("AGE", "30"))).warnings if ".max_age: " in str(each)]
    words = (
        "without a unit these are seconds: files are left out 30 s after their last change. Next: write 30d for days"
    )
    assert [words in each for each in found] == [True]
    for written in ("30s", "30d", "'30'"):
        path = write(flow.replace("AGE", written))
        assert [str(each) for each in load(path).warnings if ".max_age: " in str(each)] == []


@pytest.mark.parametrize(
    ("flow", "key"),
    [
        ("include: '*.csv, *.txt'", "include"), ("exclude: ['*.x,tmp*']", "exclude"),
        ("include: ['*.{csv,txt}', 'a,b.csv', '[,]*', '*,v']", None),
        ("rules: [{match: {glob: '*.csv,*.txt'}, to: 'lake:'}]", "rules.0.match.glob"),
    ],
)  # fmt: skip
def test_several_globs_in_one(write: Write, flow: str, key: str | None) -> None:
    to = "" if "rules" in flow else "to: 'lake:', "
    path = write(f"{ENDPOINTS}flows: {{a: {{source: 'bank:x', {to}{flow}}}}}\n")
    found = [str(advice) for advice in load(path).warnings if "comma" in str(advice)]
    assert [f"flows.a.{key}: " in each and "is one glob" in each for each in found] == [True] * (key is not None)


@pytest.mark.parametrize(
    ("flow", "key", "told"),
    [
        ("include: [csv]", "include", "'*.csv'"), ("include: .CSV", "include", "'*.CSV'"),
        ("exclude: [old/, tmp]", "exclude", "'*.tmp'"), ("include: tar.gz", "include", "'*.tar.gz'"),
        ("rules: [{match: {glob: txt}, to: 'lake:'}]", "rules.0.match.glob", "'*.txt'"),
        ("rules: [{match: csv, to: 'lake:'}]", "rules.0.match", r".*\.csv"),
        ("rules: [{match: '\\.csv$', to: 'lake:'}]", "rules.0.match", r".*\.csv"),
        ("rules: [{match: '.tar\\.gz', to: 'lake:'}]", "rules.0.match", r".*\.tar\.gz"),
        ("include: [README, done, LATEST, old, .htaccess, csv/, /csv, in/csv, '*csv', a.csv]", None, ""),
        ("rules: [{match: 'x\\.csv', to: 'lake:a'}, {match: 'manifest|\\.done', to: 'lake:'}]", None, ""),
    ],
)  # fmt: skip
def test_an_ending_that_is_no_pattern(write: Write, flow: str, key: str | None, told: str) -> None:
    to = "" if "rules" in flow else "to: 'lake:', "
    path = write(f"{ENDPOINTS}flows: {{a: {{source: 'bank:x', {to}{flow}}}}}\n")
    found = [str(advice) for advice in load(path).warnings if "for all that end so" in str(advice)]
    wanted = f"Next: write {told} for all that end so, unless it is meant"
    assert [f"flows.a.{key}: " in each and wanted in each for each in found] == [True] * (key is not None), found


@pytest.mark.parametrize(("source", "told"), [("bank:/out/*.csv", 1), ("bank:out/{now:%Y}", 1), ("bank:out [1]", 0)])
def test_a_source_that_is_written_as_a_pattern(write: Write, source: str, told: int) -> None:
    path = write(f"{ENDPOINTS}flows: {{a: {{source: '{source}', to: 'lake:'}}}}\n")
    found = [str(advice) for advice in load(path).warnings if "flows.a.source: " in str(advice)]
    assert ["a source is a folder as it is called" in each for each in found] == [True] * told


@pytest.mark.parametrize(
    ("flow", "told"),
    [
        ("to: 'lake:in/{name}'", 1), ("to: ['lake:{now:%Y}/{stem}{suffix}', 'here:{path}']", 1),
        ("to: 'lake:{name}', include: '*.csv'", 1), ("rules: [{match: {glob: '*/*.csv'}, to: 'lake:{name}'}]", 1),
        ("to: 'lake:in/'", 0), ("to: 'lake:{folder}-{name}'", 0), ("to: 'lake:{name}-{modified}'", 0),
        ("to: 'lake:{name}', on_conflict: version", 0), ("to: 'lake:{name}', include: '/*.csv'", 0),
        ("to: 'lake:{name}', include: '/in/*.csv'", 0), ("to: 'lake:{name}', exclude: '*/**'", 0),
        ("rules: [{match: '(?P<day>[^/]+)/.*', to: 'lake:{day}/{name}'}]", 0),
        ("rules: [{match: '[^/]+', to: 'lake:{name}'}]", 0),
    ],
)  # fmt: skip
def test_names_from_several_folders(write: Write, flow: str, told: int) -> None:
    path = write(f"{ENDPOINTS}flows: {{a: {{source: 'bank:x', {flow}}}}}\n")
    found = [str(advice) for advice in load(path).warnings if "several folders" in str(advice)]
    assert ["Next: write {path}" in each for each in found] == [True] * told


def test_flows_that_replace_each_others_files(write: Write) -> None:
    def advice(more: str = "", to: str = "lake:in/{path}", second: str = "source: bank:y") -> list[str]:
        path = write(
            f"""{ENDPOINTS}flows:
  a: {{source: "bank:x", to: "{to}", after: {{delete: true}}}}
  b: {{{second}, to: "lake:in/{{path}}"{more}}}
  c: {{source: "here:", rules: [{{match: '.*x', to: "lake:in/{{path}}"}}]}}
"""
        )
        return [str(each).removeprefix(f"{path}:") for each in load(path).warnings]

    assert advice() == [
        "7: flows.b: a and b write every file to lake:in/{path}: of two that have one name, the later replaces the "
        "other. Next: give each flow a folder of its own, or write 'on_conflict: version' or 'fail'"
    ]
    assert len(advice(", on_conflict: version")) == 1, "a still replaces"
    assert len(advice(to="lake:in/")) == 1, "the same, written otherwise"
    assert advice(to="lake:other/") == []
    assert advice(', include: "b_*"') == []


def test_flows_that_take_the_configuration_or_the_ledger(write: Write, tmp_path: Path) -> None:
    """Archived, they are gone for the next run; what a partner sends under such a name would be the next one's."""

    def said(flow: str, top: str = "", to: str = "lake:") -> str:
        path = write(
            "endpoints: {here: {type: local, root: .}, up: {type: local, root: ..}, lake: {type: s3, bucket: lll}}\n"
            f"flows: {{f: {{{flow}, to: '{to}'}}}}\n{top}"
        )
        try:
            found = load(path).warnings
        except Mistakes as error:
            found = tuple(error.mistakes)
        return " ".join(str(each).removeprefix(f"{path}:2: flows.f: ") for each in found if "flows.f" in str(each))

    hint = "Next: keep what is to be moved in a folder of its own, or write 'exclude: [crossdock.yaml, crossdock.db*]'"
    taken = "it takes crossdock's own files, such as 'crossdock.yaml'"
    assert said("source: 'here:'") == f"{taken}. {hint}"
    assert said("source: 'here:', after: {archive: .done}") == f"{taken}, and archives them. {hint}"
    assert said(f"source: 'up:{tmp_path.name}', after: {{delete: true}}") == f"{taken}, and deletes them. {hint}"
    assert "'crossdock.db', and deletes" in said("source: 'here:', after: {delete: true}, exclude: crossdock.yaml")
    assert "'crossdock.db-wal', and" in said("source: 'here:', after: {delete: true}, include: ['*wal', x]")
    assert "such as 'l/x.db'" in said("source: 'here:', exclude: crossdock.yaml", "ledger: l/x.db")
    replaces = "a file called 'crossdock.yaml' would replace crossdock's own at here:. "
    own = "Next: let what comes from others go to a folder of its own: 'here:in/'"
    assert said("source: 'lake:'", to="here:") == replaces + own
    assert said("source: 'lake:'", to="here:{name}").endswith(replaces + own)
    assert "'crossdock.yaml' would replace crossdock's own at up:" in said("source: 'lake:'", to="up:")
    assert said("source: 'lake:', include: '*.csv'", to="here:") == said("source: 'lake:'", to="here:in/") == ""
    assert said("source: 'here:in'") == ""
    assert said("source: 'here:', after: {delete: true}, exclude: [crossdock.yaml, crossdock.db*]") == ""
    assert said("source: 'here:', after: {delete: true}, include: '*.csv'") == ""


def test_a_ledger_whose_password_may_go_in_clear_text(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(ledger: str) -> str:
        return " ".join(map(str, load(write(f'ledger: "{ledger}"\nendpoints: {{}}\n')).warnings))

    url = "postgresql://u@db.example/d?password=env:PG"
    assert "in clear text. Next: add sslmode=verify-full" in said(url)
    assert "in clear text" in said(url.replace("db.example", "127.0.0.1,db.example:5"))
    for other in ("localhost", "127.0.0.1", "[::1]", "", "127.0.0.1:5,localhost"):
        assert said(url.replace("db.example", other)) == ""
    assert said(f"{url}&sslmode=require") == said("ledger.db") == ""
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert said(url) == ""


@pytest.mark.parametrize(
    ("flow", "told"),
    [
        ("rules: [{match: 'statement_*.csv', to: 'lake:'}]",
         "rules.0.match: 'statement_*.csv' is a regular expression, where a * repeats the character before it. "
         "Next: write {glob: 'statement_*.csv'}, or .* for any characters"),
        ("rules: [{match: {glob: '.*\\.csv'}, to: 'lake:'}]", "rules.0.match.glob: '.*\\.csv' is a glob"),
        ("exclude: '.*\\.tmp', to: 'lake:'", "exclude: '.*\\.tmp' is a glob"),
        ("settle: {marker: '*.done'}, to: 'lake:'", "settle.marker: '*.done' is one name: a * is itself in it"),
        ("rules: [{match: 'a.*.csv|[a-z]*\\.gz|(ab)*', to: 'lake:'}]", None),
        ("include: ['.*', 'a.*', '\\*x'], settle: {marker: '{name}.done'}, to: 'lake:'", None),
    ],
)  # fmt: skip
def test_a_pattern_of_another_kind(write: Write, flow: str, told: str | None) -> None:
    found = [str(advice) for advice in load(write(f"{ENDPOINTS}flows: {{a: {{source: 'bank:x', {flow}}}}}\n")).warnings]
    found = [each.partition("flows.a.")[2] for each in found if "flows.a." in each]
    assert [each.startswith(told or "nothing") for each in found] == [True] * (told is not None), found
