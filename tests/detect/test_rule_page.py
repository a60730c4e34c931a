"""A rule's page: nothing of its file is left out."""

from __future__ import annotations

import pytest

from analyzer.detect import rule as rules
from analyzer.detect import rule_page

PACK = list(rules.load())


@pytest.mark.parametrize("rule", PACK, ids=lambda rule: rule.id)
def test_a_page_tells_all_of_its_rule(rule: rules.Rule) -> None:
    """Thresholds with their reasons, every grade, every remedy and every example stand on the page, in 80 columns."""
    page = rule_page.render(rule)
    flat = " ".join(page.split())
    for name, threshold in rule.thresholds.items():
        assert f"`${name}` = {threshold.value}" in flat
        assert threshold.why in flat
    assert all(name in page for name in (*rule.fires_on, *rule.quiet_on))
    assert page.count("Check: ") == len(rule.remedies)
    assert page.startswith(f"# {rule.id}: {rule.title}\n")


def test_conditions_are_nested_lists() -> None:
    """all / any / none become lists in lists; a list of values stays one line."""
    assert rule_page._tree("all(a > 1, any(b in [x, y], none(c is true)))").splitlines() == [
        "- all of",
        "  - `a > 1`",
        "  - any of",
        "    - `b in [x, y]`",
        "    - none of",
        "      - `c is true`",
    ]
