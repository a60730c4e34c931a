"""Rule files: what loads, what is refused, and how the refusal reads."""

import os
import random
import re
import time
from pathlib import Path

import pytest

from analyzer.detect import rule
from analyzer.detect.document import parse
from analyzer.errors import RuleError


def test_minimal_rule(minimal, load_text):
    """A rule knows its file, its thresholds with their reasons, and the facts that it uses."""
    loaded = load_text(minimal)
    assert (loaded.id, loaded.role, loaded.subject, loaded.merge) == ("slow-reply", "cause", "path", "nothing")
    assert loaded.thresholds["least"] == rule.Threshold(3, "two happen by chance")
    assert loaded.uses == ("stuck_sends", "stuck_span_s", "small_passed_after")
    assert [grade.severity for grade in loaded.grades] == ["high", "low"]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("stuck_sends >=", "stuck_sents >=", 9, "unknown fact 'stuck_sents'; did you mean 'stuck_sends'?"),
        ("role: cause", "role: culprit", 4, "role is one of cause, symptom, observation; not 'culprit'"),
        ("role: cause", "role: [cause]", 4, "role is one of"),
        ("scope: path", "scope: pth", 6, "did you mean 'path'?"),
        ("scope: path\n", "", 1, "a rule lacks the key 'scope'"),
        ("scope: path", "scope: path\nscoop: path", 7, "unknown key 'scoop' in a rule; did you mean 'scope'?"),
        ("scope: path", "scope: path\nscope: host", 7, "duplicate key 'scope'"),
        ("scope: path", "scope: &a path", 6, "anchors and aliases are not allowed"),
        ("title: Slow reply", "title: *a", 3, "anchors and aliases are not allowed"),
        ("title: Slow reply", "title: !!python/object/apply:os.system [id]", 3, "tags are not allowed"),
        ("title: Slow reply", "title:", 3, "a value is missing"),
        ("title: Slow reply", "title: 'Slow", 17, "not valid YAML: found unexpected end of stream"),
        ("title: Slow reply", "title: 7", 3, "title must be text, not 7"),
        ("title: Slow reply", "title: \x07", 3, "not valid YAML"),
        ("title: Slow reply", "? [a]\n: b", 3, "a key must be a word"),
        ("examples: {}", "examples: {}\n---\nid: two", 17, "a second document begins here"),
        ("id: slow-reply", "id: Slow Reply", 1, "an id is lower-case words joined by '-'"),
        ("value: 3", "value: three", 8, "value must be a number, not 'three'"),
        (", why: two happen by chance", "", 8, "lacks the key 'why'"),
        ("when: stuck_sends >= $least", "when: stuck_sends >= 3", 8, "threshold 'least' is never used"),
        ("severity: high", "severity: huge", 11, "severity is one of info, low, medium, high, critical; not 'huge'"),
        ("confidence: possible", "certainty: 3", 12, "unknown key 'certainty' in a grade"),
        ("{stuck_span_s}", "{stuck_spam_s}", 14, "unknown fact 'stuck_spam_s'; did you mean 'stuck_span_s'?"),
        ("{stuck_span_s}", "{stuck_df:mail}", 14, "only numbers take a noun"),
        ("examples: {}", "examples: {fires_on: sample.pcap}", 16, "fires_on must be a list"),
        ("examples: {}", "examples: {}\nverdict: broken", 17, "verdict is one of"),
        (
            "examples: {}",
            "examples: {}\nexplained_by: {paths: [other]}",
            17,
            "a cause is not explained by another finding",
        ),
        ("examples: {}", "examples: {}\nyields_to: []", 17, "yields_to is empty"),
        ("examples: {}", "examples: {}\nevidence: [stock]", 17, "evidence is one of"),
        ("examples: {}", "examples: {}\nfacts: [hole]", 17, "unknown fact 'hole'"),
        ("examples: {}", "examples: {}\nweighing: yes", 17, "weighing must be true or false, not 'yes'"),
        ("remedies: []", "remedies:\n  - {who: boss, what: x, check: y}", 16, "who is one of"),
    ],
)
def test_refused_with_file_and_line(minimal, load_text, old, new, line, message):
    """Every mistake is one line that says where it is and what was expected."""
    assert old in minimal
    with pytest.raises(RuleError) as error:
        load_text(minimal.replace(old, new))
    assert str(error.value).startswith(f"rule.yaml:{line}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just words", "\ufeff"])
def test_no_rule_at_all(text, load_text):
    """A file without a rule in it is refused with its name."""
    with pytest.raises(RuleError, match=r"^rule\.yaml:1: "):
        load_text(text)


def test_billion_laughs(load_text):
    """Aliases of aliases are refused at the first anchor, before anything grows."""
    laughs = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(RuleError, match="anchors and aliases are not allowed"):
        load_text(laughs)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 30_000,
        "a: " + "{a: " * 10_000,
        "- " * 20_000,
        "? " * 20_000,
        "\n".join(" " * n + "a:" for n in range(300)),
    ],
)
def test_deep_nesting(text, load_text):
    """Nesting deeper than any rule needs is refused at once, whatever the notation."""
    began = time.perf_counter()
    with pytest.raises(RuleError):
        load_text(text)
    assert time.perf_counter() - began < 5


def test_many_entries(load_text):
    """A file with more entries than a rule can have is refused."""
    with pytest.raises(RuleError, match="more than 5000 entries"):
        load_text("a: [" + "x," * 10_000 + "]")


def test_large_file(tmp_path):
    """A file larger than any rule is refused without being read to its end."""
    path = tmp_path / "large.yaml"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(RuleError, match="larger than 65536 bytes"):
        rule.load([path])


def test_not_a_regular_file(tmp_path):
    """A FIFO or a device is refused instead of waited for."""
    os.mkfifo(tmp_path / "fifo.yaml")
    for path in (tmp_path / "fifo.yaml", "/dev/zero"):
        with pytest.raises(RuleError, match="not a regular file"):
            rule.load([path])


def test_not_utf8(tmp_path):
    """Bytes that are no UTF-8 are refused with their line."""
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"id: a\ntitle: caf\xe9\n")
    with pytest.raises(RuleError, match=r"latin\.yaml:2: not UTF-8"):
        rule.load([path])


def test_missing_and_empty(tmp_path):
    """A path that does not exist, and a folder without rules, are said by name."""
    with pytest.raises(RuleError, match=r"nowhere\.yaml: No such file"):
        rule.load([tmp_path / "nowhere.yaml"])
    with pytest.raises(RuleError, match="no rule files"):
        rule.load([tmp_path])


def test_packs_add_up(tmp_path, minimal):
    """A user's pack, a file or a folder, adds to the built-in one."""
    (tmp_path / "mine.yaml").write_text(minimal)
    alone = len(rule.load())
    assert len(rule.load([tmp_path])) == len(rule.load([tmp_path / "mine.yaml"])) == alone + 1
    assert [loaded.id for loaded in rule.load([tmp_path], with_built_in=False)] == ["slow-reply"]


def test_same_id_twice(tmp_path, minimal):
    """Two rules of one id are refused; both places are named."""
    (tmp_path / "one.yaml").write_text(minimal)
    (tmp_path / "two.yaml").write_text(minimal)
    with pytest.raises(RuleError, match=r"two\.yaml:1: rule 'slow-reply' exists already, in .*one\.yaml:1"):
        rule.load([tmp_path])
    (tmp_path / "two.yaml").write_text(minimal.replace("slow-reply", "masked-banner"))
    with pytest.raises(RuleError, match="'masked-banner' exists already"):
        rule.load([tmp_path / "two.yaml"])


def test_rules_that_name_others(tmp_path, minimal):
    """A rule named by another must exist, and yielding must not go in a circle."""
    (tmp_path / "one.yaml").write_text(minimal + "yields_to: [pmtud-blackhole]\n")
    with pytest.raises(RuleError, match="unknown rule 'pmtud-blackhole'; did you mean 'pmtud-black-hole'"):
        rule.load([tmp_path])
    (tmp_path / "one.yaml").write_text(minimal + "yields_to: [slow-answer]\n")
    (tmp_path / "two.yaml").write_text(minimal.replace("slow-reply", "slow-answer") + "yields_to: [slow-reply]\n")
    with pytest.raises(RuleError, match="yields_to goes in a circle: slow-reply > slow-answer > slow-reply"):
        rule.load([tmp_path])


def test_hundred_thousand_rules(tmp_path, minimal):
    """A folder of 10^5 rule files is refused by its count, before any is read; 10^5 rules in one file by its size."""
    original = tmp_path / "r.yaml"
    original.write_text(minimal)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2_000):
        os.link(original, folder / f"{number}.yaml")
    began = time.perf_counter()
    with pytest.raises(RuleError, match=r"20\d\d rule files; at most 1000 are read"):
        rule.load([folder])
    assert time.perf_counter() - began < 2
    original.write_text(f"{minimal}---\n" * 100_000)
    with pytest.raises(RuleError, match="larger than 65536 bytes"):
        rule.load([original])


def test_unknown_id():
    """Asking for a rule that does not exist names the nearest."""
    with pytest.raises(RuleError, match="no rule 'pmtud-blackhole'; did you mean 'pmtud-black-hole'"):
        rule.load().get("pmtud-blackhole")


def test_scalars():
    """Scalars follow the YAML 1.2 core schema; what is quoted is text."""
    node = parse("[1, -2, 1.5, true, 'true', yes, on, 12:30, 0x10, 1e3, \"7\", 010]", "x")
    assert [item.value for item in node.value] == [
        1,
        -2,
        1.5,
        True,
        "true",
        "yes",
        "on",
        "12:30",
        "0x10",
        1000.0,
        "7",
        10,
    ]


@pytest.mark.parametrize("seed", range(8))
def test_damaged_rule_files(seed, load_text):
    """However a rule file is damaged, it loads or is refused in one line that names a place in it."""
    dice = random.Random(seed)
    texts = [Path(one.file).read_text(encoding="utf-8") for one in rule.load()]
    for _ in range(60):
        text = dice.choice(texts)
        for _ in range(dice.randint(1, 4)):
            at, length = dice.randrange(len(text)), dice.choice((0, 1, 1, 5, 80))
            text = (
                text[:at]
                + dice.choice(("", "\0", "\t", "{", "[", "&a ", "*a", "- ", ": ", "\n", "'", '"', "%", "é", "9" * 30))
                + text[at + length :]
            )
        try:
            load_text(text)
        except RuleError as error:
            assert re.match(r"rule\.yaml:\d+: \S", str(error)), str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
