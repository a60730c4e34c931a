"""The built-in pack as a whole: complete, documented, and in step with its page and its schema."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from analyzer.detect import rule
from analyzer.detect.document import parse
from analyzer.detect.handbook import page, readme
from analyzer.detect.schema import schema
from analyzer.errors import RuleError

PACK = rule.load()
RULES = Path(rule.built_in())
TABLE = {  # id: role, severities (from the worst down)
    "pmtud-black-hole": ("cause", "critical"),
    "icmp-frag-needed-ignored": ("cause", "critical"),
    "black-hole-recovered": ("cause", "medium"),
    "pmtud-working": ("observation", "info"),
    "suspicious-icmp": ("observation", "low"),
    "path-outage": ("cause", "high"),
    "packet-loss": ("cause", "low info"),
    "receiver-stalled": ("cause", "medium"),
    "split-terminator": ("cause", "high medium low"),
    "pix-workaround": ("observation", "info"),
    "masked-banner": ("observation", "medium"),
    "esmtp-inspection": ("observation", "medium"),
    "starttls-stripped": ("cause", "high"),
    "end-of-data-timeout": ("symptom", "high"),
    "lost-after-data": ("symptom", "high"),
    "duplicate-delivery": ("symptom", "high medium"),
    "size-dependent-delivery": ("symptom", "high"),
    "small-mss": ("observation", "info"),
    "df-off": ("observation", "info"),
}


def test_table():
    """The pack holds the rules of the contract, with their roles and severities."""
    found = {
        one.id: (one.role, " ".join(s for s in reversed(rule.SEVERITIES) if s in {g.severity for g in one.grades}))
        for one in PACK
    }
    assert found == TABLE


@pytest.mark.parametrize("one", PACK.rules, ids=lambda one: one.id)
def test_documented(one):
    """A rule lies in the file of its name; it has references, known false positives, and a reason beside each number."""
    assert Path(one.file) == RULES / f"{one.id}.yaml"
    assert one.references
    assert one.false_positives
    assert all(len(threshold.why) > 30 for threshold in one.thresholds.values())
    assert all(remedy.check.text for remedy in one.remedies)
    if one.role == "cause":
        assert one.remedies
        assert one.explanation


@pytest.mark.parametrize("one", PACK.rules, ids=lambda one: one.id)
def test_examples_exist(one, samples):
    """Every example is a sample of the project, and none is both."""
    for name in one.fires_on + one.quiet_on:
        assert (samples / name).exists(), name
    assert not set(one.fires_on) & set(one.quiet_on)


def test_one_path_mtu_verdict_for_each_path():
    """Of any two rules that give a path-MTU verdict one yields to the other."""
    verdicts = [one for one in PACK if one.verdict in {"black-hole", "icmp-ignored", "recovered", "pmtud-working"}]
    for one, other in itertools.combinations(verdicts, 2):
        assert other.id in one.yields_to or one.id in other.yields_to, (one.id, other.id)


def test_symptoms_are_explained_by_causes():
    """Whatever explains a symptom can be a cause."""
    for one in PACK:
        for _, cause in one.explained_by:
            assert any(grade.role == "cause" for grade in PACK.get(cause).grades)


def test_loads_quickly():
    """Loading the pack costs a few milliseconds (the pure-Python loader would take a hundred)."""
    took = []
    for _ in range(5):
        began = time.process_time()
        rule.load()
        took.append(time.process_time() - began)
    assert min(took) < 0.05


def test_page_is_current():
    """rules/README.md is what the rules make it (`python -m analyzer.detect.handbook` writes it anew)."""
    assert (RULES / "README.md").read_text(encoding="utf-8") == readme(PACK)


def test_every_rule_has_its_page():
    """Beside each rule lies its page, made from it, and beside no rule that is gone."""
    kept = {file.stem: file.read_text(encoding="utf-8") for file in RULES.glob("*.md") if file.name != "README.md"}
    assert kept == {rule.id: page(rule) for rule in PACK}


def test_example_on_the_page_loads():
    """The rule shown on the page is a rule."""
    text = readme(PACK).split("```yaml\n")[1].split("```")[0]
    assert rule.build(parse(text, "page.yaml")).id == "slow-greeting"


# -- the schema for editors ----------------------------------------------------------------------------------------

SCHEMA = schema()
DOCUMENTS = {one.id: yaml.safe_load(Path(one.file).read_text(encoding="utf-8")) for one in PACK}


def test_schema_is_current():
    """rules/rule.schema.json is what the loader's tables make it."""
    assert json.loads((RULES / "rule.schema.json").read_text(encoding="utf-8")) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("rule_id", DOCUMENTS)
def test_schema_takes_the_rules(rule_id):
    """Every built-in rule is valid by the schema."""
    jsonschema.validate(DOCUMENTS[rule_id], SCHEMA)


def _mutations():
    def change(path, value):
        document = copy.deepcopy(DOCUMENTS["pmtud-black-hole"])
        *way, last = path
        place = document
        for step in way:
            place = place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return document

    for key in rule.REQUIRED:
        yield f"without {key}", change([key], None)
    for key, value in {
        "id": "Black Hole", "about": 7, "title": [], "role": "culprit", "subject": "paths", "scope": "world", "verdict": "bad",
        "merge": "all", "weighing": "yes", "evidence": ["stock"], "facts": ["hole"], "explanation": [], "remedies": "none",
        "grades": [], "references": "RFC 1191", "explained_by": {"luck": ["x"]}, "extra": 1, "when": {"some": ["stuck_sends > 1"]},
        "yields_to": [], "false_positives": [7], "thresholds": {"x": 3},
    }.items():  # fmt: skip
        yield f"{key}: {value}", change([key], value)
    yield "threshold without a reason", change(["thresholds", "min_sends", "why"], None)
    yield "threshold that is text", change(["thresholds", "min_sends", "value"], "four")
    yield "grade without severity", change(["grades", 0, "severity"], None)
    yield "misspelt fact", change(["when", "none", 0], "window_shot is true")
    yield "no operator", change(["when", "none", 0], "window_shut")
    yield "empty group", change(["when", "none"], [])
    yield "remedy for nobody", change(["remedies", 0, "who"], "boss")
    yield "command without a line", change(["remedies", 0, "commands", 0], {"for": "Linux"})
    yield "example that is a number", change(["examples", "fires_on"], [1])


MUTATIONS = dict(_mutations())


@pytest.mark.parametrize("name", MUTATIONS)
def test_schema_and_loader_agree(name):
    """What the schema refuses the loader refuses as well."""
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(MUTATIONS[name])
    with pytest.raises(RuleError):
        rule.build(parse(yaml.safe_dump(MUTATIONS[name]), "mutation.yaml"))


def test_every_sample_is_an_example():
    """A rule lists every sample that shows its fault, and its near misses (tests/rules/fill_examples.py writes them)."""
    place = Path(__file__).with_name("fill_examples.py")
    spec = importlib.util.spec_from_file_location("fill_examples", place)
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    assert set(fill.NEAR_MISSES) == {one.id for one in PACK}
    for one in PACK:
        assert (list(one.fires_on), list(one.quiet_on)) == fill.examples(one.id), (
            f"run {place.name} to list new samples: {one.id}"
        )
