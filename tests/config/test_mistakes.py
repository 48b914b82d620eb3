"""Every mistake in a flow: where it is and what to write instead, word for word."""

from __future__ import annotations

import pytest

from crossdock.config import Mistakes, load
from tests.config.conftest import Write

ENDPOINTS = """endpoints:
  bank: {type: sftp, host: h, user: u}
  lake: {type: s3, bucket: lake}
  here: {type: local, root: /srv/in}
"""
FLOW = ENDPOINTS + "flows:\n  a:\n"
"""The next line is the seventh."""
SHORT = FLOW + "    source: bank:out\n    to: 'lake:'\n"
"""The next line is the ninth."""
RULES = FLOW + "    source: bank:out\n    rules:\n"


def mistakes(write: Write, text: str, name: str = "crossdock.yaml") -> list[str]:
    path = write(text, name)
    with pytest.raises(Mistakes) as caught:
        load(path)
    for mistake in caught.value.mistakes:
        assert mistake.hint, f"nothing says what to write instead: {mistake}"
    return [str(mistake).replace(f"{path}:", "") for mistake in caught.value.mistakes]


CASES = [
    # The shape.
    (ENDPOINTS + "flows: []\n", "5: flows: must be a mapping of names to flows. Next: write 'name: {source: …}' "
     "below it"),
    (ENDPOINTS + "flows: {a b: {source: 'bank:', to: 'lake:'}}\n",
     "5: flows.a b: not a name for a flow. Next: use letters, digits, '-', '_' "
     "and '.'"),
    ("endpoints:\n  1: {type: local, root: x}\n  b: {type: memory}\nflows: {a: {source: '1:', to: 'b:'}}\n",
     "2: endpoints.1: not a name for an endpoint. Next: put it in quotes"),
    (ENDPOINTS + "flows: {2024: {source: 'bank:', to: 'lake:'}}\n",
     "5: flows.2024: not a name for a flow. Next: put it in quotes"),
    (ENDPOINTS + "  home: {type: local, root: ~}\n",
     "5: endpoints.home.root: not a path. Next: write a path, in quotes (\"~\" is the home folder)"),
    (ENDPOINTS + "  home: {type: local, root: 5}\n",
     "5: endpoints.home.root: not a path. Next: write a path, in quotes"),
    (ENDPOINTS + "flows: {a: x}\n", "5: flows.a: must be a mapping. Next: write {source: name:folder, to: name:}"),
    (FLOW + "    to: 'lake:'\n", "6: flows.a: source is missing. Next: add 'source:'"),
    (FLOW + "    source: bank:out\n    to: [lake:, 'here:']\n",
     "8: flows.a.to.0: input should be a valid string. Next: put it in quotes, for its colon: 'lake:'"),
    (SHORT + "    after: {archve: x}\n", "9: flows.a.after.archve: unknown key. Next: did you mean 'archive'?"),
    (SHORT + "    notify: {webhook: {url: 'https://x.example', secert: env:K}}\n",
     "9: flows.a.notify.webhook.secert: unknown key. Next: did you mean 'secret'?"),
    (SHORT + "    settle: {for: soon}\n",
     "9: flows.a.settle.for: cannot be read. Next: write a duration such as 500ms, 30s, 5m, 2h or 1d"),
    (SHORT + "    settle: 30s\n", "9: flows.a.settle: must be a mapping. Next: write settle: {for: 30s}; "
     "its keys are for, sightings, min_size, marker, manifest, temporary"),
    (SHORT + "    trigger: every 5m\n", "9: flows.a.trigger: must be a mapping. Next: write trigger: {every: 5m}; its "
     "keys are every, cron, timezone, jitter, watch"),
    # As other programs call it.
    (ENDPOINTS + "  raw: {type: s3, bucket: acme, prefix: raw}\n",
     "5: endpoints.raw.prefix: unknown key. Next: did you mean 'root'?"),
    (ENDPOINTS + "  temp: {type: local, path: /srv}\n",
     "5: endpoints.temp.path: unknown key. Next: did you mean 'root'?"),
    (ENDPOINTS + "  raw: {type: S3, bucket: acme}\n",
     "5: endpoints.raw.type: unknown type 'S3'. Next: did you mean 's3'?"),
    (FLOW + "    from: 'bank:'\n    to: 'lake:'\n", "7: flows.a.from: unknown key. Next: did you mean 'source'?"),
    (ENDPOINTS + "  cdn: {type: netstorage, host: h, cp_code: 1, user: u, key: 'env:K'}\n",
     "5: endpoints.cdn.user: unknown key. Next: did you mean 'key_name'?"),
    # At another level.
    (SHORT + "    filter: {include: ['*.csv'], exclude: ['*.tmp']}\n",
     "9: flows.a.filter: unknown key. Next: write 'include' and 'exclude' here, without 'filter' around it"),
    # What is a guess only is not blamed for what stands there.
    (SHORT + "    filter: ['*.csv']\n", "9: flows.a.filter: unknown key. Next: did you mean 'after'?"),
    (ENDPOINTS + "  cdn: {type: netstorage, host: h, cp_code: 1, key_name: u, key: 'env:K', butter: much}\n",
     "5: endpoints.cdn.butter: unknown key. Next: did you mean 'buffer'?"),
    (SHORT + "    interval: 5m\n", "9: flows.a.interval: unknown key. Next: write 'every' below trigger"),
    (SHORT + "    match: '.*'\n", "9: flows.a.match: unknown key. Next: write 'match' below rules or expect"),
    (RULES + "      - {match: x, to: 'lake:', on_conflict: skip}\n",
     "9: flows.a.rules.0.on_conflict: unknown key. Next: write 'on_conflict' beside rules, not below it"),
    (SHORT + "    unmatched: drop\n", "9: flows.a.unmatched: unknown value 'drop'. Next: write "
     "one of fail, ignore"),
    (SHORT + "    after: {delete: maybe}\n", "9: flows.a.after.delete: neither true nor false. Next: write true "
     "or false"),
    (SHORT + "    tests: x\n", "9: flows.a.tests: must be a list. Next: write each item on a line of its own, "
     "after '- '"),
    (SHORT + "    include: [1]\n", "9: flows.a.include.0: input should be a valid string. Next: put the value in "
     "quotes"),
    (SHORT + "    after: {archive: true}\n", "9: flows.a.after.archive: input should be a valid string. Next: write a "
     "text, not true or false"),
    (SHORT + "    max_files: 0\n", "9: flows.a.max_files: input should be greater than or equal to 1. "
     "Next: write 1 or more"),
    # Where from, where to.
    (FLOW + "    source: bnk:out\n    to: 'lake:'\n",
     "7: flows.a.source: no endpoint is called 'bnk'. Next: did you mean 'bank'?"),
    (FLOW + "    source: bank:out\n    to: '{name}:in/'\n", "8: flows.a.to: an endpoint is called by its name alone: "
     "'{name}'. Next: write a rule for each endpoint; words in braces stand behind its colon"),
    (FLOW + "    source: 'bank:a//b'\n    to: 'lake:a//b/'\n", "7: flows.a.source: an empty name between two slashes. "
     "Next: write 'a/b'"),
    (FLOW + "    source: /srv/in\n    to: 'lake:'\n", "7: flows.a.source: not a location: '/srv/in'. Next: add "
     "an endpoint for it to 'endpoints:' and write its name and a path, name:path"),
    (FLOW + "    source: bank/out\n    to: 'lake:'\n", "7: flows.a.source: not a location: 'bank/out'. Next: write "
     "'bank:out'"),
    (FLOW + "    source: bank:out\n    to: lake\n", "8: flows.a.to: not a location: 'lake'. Next: write 'lake:'"),
    (FLOW + "    source: s3://lake/x\n    to: 'lake:'\n", "7: flows.a.source: not a location: 's3://lake/x'. "
     "Next: add an endpoint for it to 'endpoints:' and write its name and a path, name:path"),
    (FLOW + "    source: bank:../x\n    to: 'lake:'\n", "7: flows.a.source: '.' and '..' are not names. Next: "
     "write the path from the endpoint's root on"),
    (FLOW + "    source: bank:out\n", "6: flows.a: neither 'to' nor 'rules'. Next: add 'to: name:' for every "
     "file, or 'rules:'"),
    (SHORT + "    rules: [{to: 'lake:x/'}]\n", "6: flows.a: both 'to' and 'rules'. Next: make 'to' the last "
     "rule: {to: …} without 'match'"),
    (FLOW + "    source: bank:out\n    to: none\n", "8: flows.a.to: a flow that goes nowhere. Next: write to: "
     "name:"),
    (FLOW + "    source: bank:out\n    to: ['lake:', 'lake:{path}']\n",
     "8: flows.a.to.1: 'lake:{path}' is there twice. Next: remove one of them"),
    # Rules.
    (RULES + "      - match: x\n", "9: flows.a.rules.0: to is missing. Next: add 'to:'"),
    (RULES + "      - {match: '(?a)(?u)x', to: 'lake:'}\n", "9: flows.a.rules.0.match: not a regular expression: ASCII "
     "and UNICODE flags are incompatible. Next: put '\\' before a character that is meant as it is, or write match: "
     "{glob: '*.csv'}"),
    (RULES + "      - {match: '[[a]b', to: 'lake:'}\n", "9: flows.a.rules.0.match: not a regular expression: Possible "
     "nested set at position 1. Next: put '\\' before a character that is meant as it is, or write match: "
     "{glob: '*.csv'}"),
    (RULES + "      - {match: '.*\\.ok', to: none}\n      - {match: '.*[.]tmp', to: 'lake:'}\n", "10: flows.a.rules.1: "
     "rule rules[1] matches only names of markers, manifests, temporary files or the archive. Next: those are never "
     "taken: change the rule, or 'settle' and 'after'"),
    (RULES + "      - {match: 'x/.*\\.ok', to: 'lake:'}\n    settle: {marker: '{stem}.ok'}\n", "9: flows.a.rules.0: "
     "rule rules[0] matches only names of markers, manifests, temporary files or the archive. Next: those are never "
     "taken: change the rule, or 'settle' and 'after'"),
    (RULES + "      - {match: '*.csv', to: 'lake:'}\n", "9: flows.a.rules.0.match: not a regular expression: "
     "nothing to repeat at character 1. Next: put '\\' before a character that is meant as it is, or write "
     "match: {glob: '*.csv'}"),
    (RULES + "      - {match: {glob: '[a'}, to: 'lake:'}\n", "9: flows.a.rules.0.match.glob: a '[' without its "
     "']' in '[a'; write \\[ for the character itself. Next: write a glob such as *.csv or in/**/*.csv"),
    (RULES + "      - {match: {glob: a, regex: b}, to: 'lake:'}\n", "9: flows.a.rules.0.match: one of regex and "
     "glob. Next: write match: 'REGEX', or match: {glob: '**/*.csv'}"),
    (RULES + "      - {match: '(\\w+\\s?)*x', to: 'lake:'}\n", "9: flows.a.rules.0.match: may take for ever on a "
     "long path: two repeats, one inside the other, can share the same text out in endless ways. Next: let no "
     "repeat stand inside another, or use match: {glob: '…'}"),
    (RULES + "      - {match: '.+_.+_.+_.+', to: 'lake:'}\n", "9: flows.a.rules.0.match: may take for ever on a "
     "long path: 4 repeats in a row can match the same text. Next: write [^_/]+ for a part that ends at '_' "
     "instead of .+, or use match: {glob: '…'}"),
    (RULES + "      - {match: '/out/.*', to: 'lake:'}\n", "9: flows.a.rules.0.match: no path can match '/out/.*'. "
     "Next: paths have no slash at their start: write 'out/.*'"),
    (RULES + "      - {match: '.*/', to: 'lake:'}\n", "9: flows.a.rules.0.match: no path can match '.*/'. Next: "
     "paths are written folder/name.csv, from the flow's source on"),
    (RULES + "      - {match: '.*', to: 'lake:'}\n      - {match: x, to: 'lake:'}\n", "10: flows.a.rules.1: rule "
     "rules[1] is never reached: rules[0] takes every path that it matches. Next: put the narrower rule first, "
     "or remove one"),
    (RULES + "      - {match: {glob: 'a*'}, to: 'lake:'}\n      - {match: '(.*/)?[^a/][^/]*', to: 'lake:'}\n"
     "      - {name: rest, to: none}\n", "11: flows.a.rules.2: rule rest is never reached: the rules before it "
     "together takes every path that it matches. Next: put the narrower rule first, or remove one"),
    (RULES + "      - {match: '.*\\.xml', to: 'lake:'}\n    include: '*.csv'\n", "9: flows.a.rules.0: rule "
     "rules[0] matches only paths that 'include' and 'exclude' leave out. Next: change the rule, or what is "
     "included"),
    (RULES + "      - {name: x, match: a, to: none}\n      - {name: x, match: b, to: none}\n",
     "10: flows.a.rules.1.name: two rules are called 'x'. Next: give each a name of its own"),
    (RULES + "      - {match: '(?P<name>.*)', to: 'lake:{name}'}\n", "9: flows.a.rules.0.match: the group 'name' "
     "has the name of a word that every template knows. Next: call it otherwise: (?P<the_name>…)"),
    (RULES + "      - {match: '(?P<feed>.*)', to: ['lake:{fed}/{name}']}\n", "9: flows.a.rules.0.to.0: {fed} "
     "means nothing here. Next: did you mean 'feed'?"),
    (RULES + "      - {match: .*, to: 'lake:{name'}\n", "9: flows.a.rules.0.to: a brace by itself in '{name'. "
     "Next: write {{ or }} for the character"),
    (RULES + "      - {match: .*, to: 'lake:{now:%Y@Mars/X}/{name}'}\n", "9: flows.a.rules.0.to: no time zone is "
     "called 'Mars/X' (in '{now:%Y@Mars/X}/{name}'). Next: write {now:%Y-%m-%d} or {now:%Y/%m/%d@Europe/London}"),
    (RULES + "      - {match: .*, to: python:x}\n", "9: flows.a.rules.0.to: not the name of a function: "
     "'python:x'. Next: write python:module.function"),
    (RULES + "      - {match: .*, to: ['python:x.y', 'lake:']}\n", "9: flows.a.rules.0.to: a function stands "
     "alone. Next: let the function return all the locations"),
    (RULES + "      - {match: .*, to: 'lake:', transform: gunzp}\n", "9: flows.a.rules.0.transform: unknown "
     "transform 'gunzp'. Next: did you mean 'gunzip'?; python:module:Class is one of your own"),
    (RULES + "      - {match: .*, to: 'lake:', transform: [{a: 1}]}\n", "9: flows.a.rules.0.transform.0: not a "
     "transform. Next: write 'name', or 'name: {option: value}', each step after a '- '"),
    (RULES + "      - {match: .*, to: 'lake:'}\n    transform: gunzip\n", "10: flows.a.transform: 'transform' "
     "beside 'rules'. Next: write 'transform:' into each rule that needs it"),
    # When.
    (SHORT + "    trigger: {}\n", "9: flows.a.trigger: a trigger that never starts. Next: write {every: 5m}, "
     "{cron: '…'} or {watch: true}"),
    (SHORT + "    trigger: {every: 5m, cron: '* * * * *'}\n", "9: flows.a.trigger: both 'every' and 'cron'. Next: "
     "keep one of them"),
    (SHORT + "    trigger: {cron: '61 * * * *'}\n", "9: flows.a.trigger.cron: the cron line '61 * * * *': bad "
     "minute. Next: write five fields, such as cron: \"*/5 6-20 * * 1-5\""),
    (SHORT + "    trigger: {cron: '@daily'}\n", "9: flows.a.trigger.cron: a shorthand in the cron line '@daily'. "
     "Next: write five: minute, hour, day of month, month, day of week"),
    (SHORT + "    trigger: {cron: '* * * * *', timezone: Europe/Lundon}\n", "9: flows.a.trigger.timezone: no time "
     "zone is called 'Europe/Lundon'. Next: write a name such as Europe/London or UTC"),
    (SHORT + "    trigger: {every: 5m, timezone: UTC}\n", "9: flows.a.trigger.timezone: 'timezone' without "
     "'cron'. Next: remove it"),
    (SHORT + "    trigger: {every: 5m, jitter: 5m}\n", "9: flows.a.trigger.jitter: as long as 'every' or longer. "
     "Next: write a shorter time"),
    (SHORT + "    trigger: {watch: true}\n", "9: flows.a.trigger.watch: type sftp cannot be watched. Next: write "
     "every: 60s instead"),
    (SHORT + "    trigger: {every: 0}\n", "9: flows.a.trigger.every: input should be greater than or equal "
     "to 1. Next: write 1 or more"),
    (SHORT + "    settle: {sightings: 1, for: 5s}\n", "9: flows.a.settle.sightings: one look cannot tell 'for' "
     "how long. Next: write sightings: 2"),
    (SHORT + "    settle: {marker: '{nme}.ok'}\n", "9: flows.a.settle.marker: {nme} means nothing here. Next: did "
     "you mean 'name'?"),
    (SHORT + "    settle: {marker: '{name}'}\n", "9: flows.a.settle.marker: '{name}' is the name of the file "
     "itself. Next: write {name}.done"),
    (SHORT + "    min_size: 5\n    max_size: 4\n", "9: flows.a.min_size: more than max_size. Next: write a "
     "min_size that is at most max_size"),
    (SHORT + "    exclude: ['{a']\n", "9: flows.a.exclude.0: a '{' without its '}' in '{a'; write \\{ for the "
     "character itself. Next: write a glob such as *.csv or in/**/*.csv"),
    # What follows.
    (SHORT + "    after: {archive: .done, delete: true}\n", "9: flows.a.after: both 'delete' and 'archive'. Next: "
     "keep one; 'archive' with 'keep' removes the archived file later"),
    (SHORT + "    after: {archive: .done, keep: true}\n", "9: flows.a.after.keep: cannot be read. Next: write a "
     "duration such as 500ms, 30s, 5m, 2h or 1d"),
    (SHORT + "    min_size: false\n", "9: flows.a.min_size: cannot be read. Next: write a size in bytes, or with K, M, "
     "G, T (powers of 1024), such as 64M"),
    (SHORT + "    after: {keep: 30d}\n", "9: flows.a.after.keep: 'keep' without 'archive'. Next: add archive: "
     ".done"),
    (SHORT + "    after: {tag: {a: b}}\n", "9: flows.a.after.tag: type sftp has no tags. Next: remove 'tag', or "
     "use 'archive' or 'delete'"),
    (SHORT + "    after: {archive: /done}\n", "9: flows.a.after.archive: not a folder below the source. Next: "
     "write 'done': it is below the flow's source"),
    (SHORT + "    after: {archive: 'lake:done'}\n", "9: flows.a.after.archive: not a folder below the source. "
     "Next: write 'done': it is below the flow's source"),
    (SHORT + "    after: {archive: ../done}\n", "9: flows.a.after.archive: not a folder below the source. Next: "
     "write a folder's name such as .done"),
    (SHORT + "    after: {archive: '{folder}/done'}\n", "9: flows.a.after.archive: every file would get the same "
     "name. Next: write {folder}/.done/{name}"),
    (SHORT + "    after: {archive: '{path}'}\n", "9: flows.a.after.archive: nothing tells '{path}' from a file that "
     "is still to be sent. Next: write .done/{path}, or put another word into it that is in no other name"),
    (SHORT + "    after: {archive: '{folder}/{stem}_{now:%Y}{suffix}'}\n", "9: flows.a.after.archive: nothing tells "
     "'{folder}/{stem}_{now:%Y}{suffix}' from a file that is still to be sent. Next: write .done/{path}, or put "
     "another word into it that is in no other name"),
    (SHORT + "    after: {marker: '../{name}.ok'}\n", "9: flows.a.after.marker: no file can have the name "
     "'../{name}.ok'. Next: write {name}.done, or folder/{name}.done"),
    (SHORT + "    settle: {manifest: 'lists//SUMS'}\n", "9: flows.a.settle.manifest: no file can have the name "
     "'lists//SUMS'. Next: write {name}.done, or folder/{name}.done"),
    (SHORT + "    after: {marker: '{name}.{what}'}\n", "9: flows.a.after.marker: {what} means nothing here. Next: "
     "write one of folder, name, path, stem, suffix"),
    # Whom to tell, what to expect.
    (SHORT + "    notify: {webhook: {url: 'https://u:p@x.example'}}\n", "9: flows.a.notify.webhook.url: a secret "
     "may not be written into this file. Next: sign with 'secret: env:NAME' instead"),
    (SHORT + "    notify: {webhook: {url: 'https://x.example:99999/'}}\n", "9: flows.a.notify.webhook.url: port out of "
     "range 0-65535. Next: see 'url' in the reference: docs/reference.md"),
    (SHORT + "    notify: {webhook: {url: x.example}}\n", "9: flows.a.notify.webhook.url: not the address of a "
     "web server. Next: write https://host/path"),
    (SHORT + "    notify: {webhook: {url: 'http://169.254.169.254/x'}}\n", "9: flows.a.notify.webhook: "
     "169.254.169.254 is not a public address. Next: add 'allow_private: true' if that is meant"),
    (SHORT + "    notify: {webhook: [{url: 'https://x.example', secret: hunter2}]}\n",
     "9: flows.a.notify.webhook.0.secret: a secret may not be written into this file. Next: write 'secret: "
     "env:A_SECRET' and export it, or 'secret: file:PATH' of a file with mode 600"),
    (SHORT + "    notify: {mail: {to: x, from: a@b.c, host: h}}\n", "9: flows.a.notify.mail.to: not a mail "
     "address: 'x'. Next: write name@host.example"),
    (SHORT + "    notify: {mail: {to: 'a@b.c,d@e.f', from: a@b.c, host: h}}\n", "9: flows.a.notify.mail.to: not a mail "
     "address: 'a@b.c,d@e.f'. Next: write name@host.example"),
    (SHORT + "    notify: {mail: {to: a@b.c, from: a@b.c, host: h, user: u}}\n", "9: flows.a.notify.mail: user "
     "and password belong together. Next: write both, or neither"),
    (SHORT + "    expect: {match: '*', by: 6.30}\n", "9: flows.a.expect.by: not a time of day. Next: write hours "
     'and minutes in quotes, such as "06:30"'),
    (SHORT + "    expect: [{match: '*', by: '06:30', days: [mon..fry]}]\n", "9: flows.a.expect.0.days: 'mon..fry' "
     "is not a day. Next: write mon, tue, wed, thu, fri, sat, sun, or mon..fri"),
    (SHORT + "    expect: {match: '[', by: '06:30'}\n", "9: flows.a.expect.match: a '[' without its ']' in '['; "
     "write \\[ for the character itself. Next: write a glob such as *.csv or in/**/*.csv"),
    (SHORT + "    expect: {match: '*', by: '06:30', timezone: X/Y}\n", "9: flows.a.expect.timezone: no time zone "
     "is called 'X/Y'. Next: write a name such as Europe/London or UTC"),
    (SHORT + "    tests: [{file: a, to: 'lke:a'}]\n", "9: flows.a.tests.0.to: no endpoint is called 'lke'. Next: "
     "did you mean 'lake'?"),
    (SHORT + '    exclude: ["a\\0b"]\n', "9: flows.a.exclude.0: a NUL character, which no name can have. Next: "
     "remove it"),
    (SHORT + '    exclude: ["a\\ud83db", "\\udce9"]\n', "9: flows.a.exclude.0: half a character, a lone surrogate, "
     "which no name can have. Next: remove it"),
    # The ledger.
    (ENDPOINTS + "ledger: mysql://x/y\n", "5: ledger: no ledger is of the kind mysql://. Next: write a path for "
     "SQLite, or postgresql://user@host/database"),
    (ENDPOINTS + "ledger: postgresql://u:p/w@h/d\n", "5: ledger: a secret may not be written here. Next: "
     "write postgresql://user@host/database?password=env:NAME and export it"),
    (ENDPOINTS + "ledger: postgresql://u:p@h/d\n", "5: ledger: a secret may not be written here. Next: "
     "write postgresql://user@host/database?password=env:NAME and export it"),
    (ENDPOINTS + "ledger: postgresql://u@h/d?password=p\n", "5: ledger: a secret may not be written here. "
     "Next: write postgresql://user@host/database?password=env:NAME and export it"),
    ("endpoints: {a: {type: sftp, host: 'sftp://bank.example/in'}}", "1: endpoints.a.host: cannot be read. Next: write "
     "the host alone, such as sftp.bank.example; the rest goes to user, port and root"),
    ("endpoints: {a: {type: ftp, host: 'bank.example:2121'}, b: {type: ftp, host: '::1'}}", "1: endpoints.a.host: "
     "cannot be read. Next: write the host alone, such as sftp.bank.example; the rest goes to user, port and root"),
    ("endpoints: {a: {type: s3, bucket: 's3://lake/in'}}", "1: endpoints.a.bucket: cannot be read. Next: write the "
     "bucket's name alone, such as acme-landing; a folder in it goes to root"),
    (ENDPOINTS + "ledger: [x]\n", "5: ledger: must be a path or a postgresql:// URL. Next: write ledger: "
     "crossdock.db"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_a_mistake(write: Write, text: str, expected: str) -> None:
    found = mistakes(write, text)
    assert found == [expected]
    assert "hunter2" not in found[0]


def test_all_mistakes_of_all_flows_at_once(write: Write) -> None:
    text = """endpoints:
  bank: {type: sftp, host: h}
  lake: {type: s4}
flows:
  a:
    source: bank:out
    to: lake:x/
    trigger: {cron: "* * *"}
  b:
    source: bnk:out
    rules:
      - {match: '(a+)+', to: 'lake:'}
      - {match: '(', to: 'lake:'}
  c:
    sorce: bank:out
"""
    assert [found.partition(". Next")[0] for found in mistakes(write, text)] == [
        "3: endpoints.lake.type: unknown type 's4'",
        "8: flows.a.trigger.cron: 3 fields in the cron line '* * *'",
        "10: flows.b.source: no endpoint is called 'bnk'",
        "12: flows.b.rules.0.match: may take for ever on a long path: two repeats, one inside the other, can share"
        " the same text out in endless ways",
        "13: flows.b.rules.1.match: not a regular expression: missing ), unterminated subpattern at character 1",
        "14: flows.c: neither 'to' nor 'rules'",
        "15: flows.c.sorce: unknown key",
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.json", '{"endpoints": {"m": {"type": "memory"}},\n"flows": {"a": {"source": "m:x",\n"too": "m:y"}}}',
         "3: flows.a.too: unknown key"),
        ("c.toml", 'endpoints.m.type = "memory"\n[flows.a]\nsource = "m:x"\n[[flows.a.rules]]\nmatch = "a"\n'
         'to = "n:y"\n', "6: flows.a.rules.0.to: no endpoint is called 'n'"),
    ],
)  # fmt: skip
def test_lines_in_json_and_toml(write: Write, name: str, text: str, expected: str) -> None:
    assert expected in "\n".join(mistakes(write, text, name))
