"""The HTML report, read by a parser and by a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from analyzer.case import Case
from analyzer.report.html import render
from analyzer.report.parquet import TABLES
from analyzer.tcp.delivery import Trace

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
browser_only = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER and find_spec("selenium")), reason="needs Chromium, chromedriver, selenium"
    ),
]

# -- without a browser --------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("case", ["incident", "clean", "no_smtp", "broken", "hostile"])
def test_the_page_needs_nothing_from_elsewhere(case: str, request: pytest.FixtureRequest) -> None:
    """No element loads from anywhere: images are part of the page, links stay within it, no inline handler or style attribute."""
    page = (
        render(request.getfixturevalue(case), plots=False)
        if case != "incident"
        else request.getfixturevalue("illustrated_page")
    )
    for tag, attrs in Elements(page).found:
        assert (attrs.get("src") or "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
        assert (attrs.get("href") or "#").startswith(("#", "data:,"))
        assert not [a for a in attrs if a.startswith("on") or a in ("style", "srcset", "formaction", "action")]
        assert tag not in ("iframe", "object", "embed", "form", "base", "audio", "video")


def test_hostile_text_adds_no_element(hostile: Case, incident: Case) -> None:
    """One script, one style, and the images of the plots: what a capture says is text."""
    tags = [tag for tag, _ in Elements(render(hostile, plots=False)).found]
    assert tags.count("script") == tags.count("style") == 1
    assert tags.count("img") == [tag for tag, _ in Elements(render(incident, plots=False)).found].count("img")


def test_no_control_character_is_in_the_page(hostile: Case) -> None:
    """Terminal escapes and bidirectional overrides are written out; a browser's view of the source is safe too."""
    assert all(c.isprintable() for c in render(hostile).replace("\n", ""))


def test_the_story_is_complete(incident: Case) -> None:
    """Verdict, evidence with filters, for and against, remedies, limits: all there without any script."""
    page = re.sub(r"<script.*?</script>", "", render(incident, plots=False), flags=re.DOTALL)
    for part in (
        "hangs when it needs packets of 1500", "frames 14, 21-22, 24-26, 28-30", "frame.number in {14, 21, 22, 24, 25, 26, 28, 29, 30}",
        "random loss:", "The capture does not show what happens", "sysctl -w net.ipv4.tcp_mtu_probing=1", "at least 1,397, below 1,500",
        "CR LF . | CR LF", "No ICMP is visible here", "explained by", "203.0.113.4 announces a small MSS",
    ):  # fmt: skip
        assert part in page


def test_what_could_not_be_read_is_said(broken: Case) -> None:
    """An incomplete capture is named on top and in a section of its own."""
    page = render(broken, plots=False)
    assert "Not everything could be read" in page
    assert "record of frame 78 is cut off" in page


def test_a_page_of_an_interrupted_analysis_says_so(incident: Case) -> None:
    """What was found until the interruption is shown as such."""
    assert "The analysis was interrupted" in render(replace(incident, interrupted=True), plots=False)


def test_fifty_thousand_connections_stay_readable(large: Case, black_hole: Trace) -> None:
    """At most 3 MB; the rows that matter are shown and the rest is counted."""
    page = render(large, traces={1: black_hole})
    assert len(page.encode()) < 3_000_000
    assert "1,000 of 50,000 are shown" in page
    for connection in large.findings[0].connections:
        assert f'<td class="number">{connection}</td>' in page


def test_rows_that_are_left_out_are_linked_to(large: Case, incident: Case) -> None:
    """With Parquet files beside the page it links to them, under the names that `analyze --parquet` gives them."""

    links = re.findall(r'<a href="([^"#]+)"', render(large, plots=False, tables="my tables/"))
    assert links == [f"my%20tables/{name}.parquet" for name in ("connections", "messages", "connections")]
    assert {"messages", "connections"} <= TABLES.keys()
    assert ".parquet" not in render(incident, plots=False, tables="tables")


@pytest.mark.parametrize("case", ["incident", "clean", "broken"])
def test_the_number_of_broken_paths_is_that_of_the_map(case: str, request: pytest.FixtureRequest) -> None:
    """What is counted on top is what is drawn in red below, symptoms without a known cause included."""
    told: Case = request.getfixturevalue(case)
    told.findings = [replace(f, role="symptom") if f.role == "cause" else f for f in told.findings]
    page = render(told, plots=False)
    counted = re.search(r"<strong>(\d+)</strong> <span>broken paths</span>", page)
    drawn = page.partition("</svg>")[0].count('<line class="broken"')
    assert (int(counted[1]) if counted else None) == drawn
    assert bool(drawn) == (case == "incident")


def test_what_other_systems_need_is_folded_away(incident: Case) -> None:
    """The commands for Linux are seen at once, the others behind one click, none is missing."""
    from analyzer.case import Remedy

    commands = ("sysctl -w a=1  # Linux", "ndd -set b  # Solaris", "netsh c  # Windows PowerShell")
    incident.findings[0].remedies = (Remedy("client-admin", None, "Set it.", commands, ""),)
    seen, folded = re.split(
        r"<details class=\"others\"><summary>Other systems \(2\)</summary>", render(incident, plots=False)
    )
    assert "sysctl -w a=1" in seen
    assert folded.index("ndd -set b") < folded.index("netsh c") < folded.index("</details>")


# -- in Chromium --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    with tempfile.TemporaryDirectory() as profile:
        for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                     "disable-background-networking", "disable-component-update", f"user-data-dir={profile}",
                     "window-size=1200,900"):  # fmt: skip
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        started.set_script_timeout(120)  # axe-core on a busy machine
        yield started
        started.quit()


def load(driver: Any, page: str, folder: Path, *, dark: bool = False, width: int = 1200) -> float:
    """Open the page; seconds until it is ready."""
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                           {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})  # fmt: skip
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})  # fmt: skip
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    driver.get_log("performance")
    driver.get_log("browser")
    began = time.monotonic()
    driver.get(file.as_uri())
    assert driver.execute_script("return document.documentElement.dataset.ready") == "yes"
    return time.monotonic() - began


def quiet(driver: Any) -> None:
    """Nothing was said on the console and no request left the file."""
    assert driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []


def column(driver: Any, table: str, index: int) -> list[str]:
    """The visible cells of one column."""
    script = "return [...document.getElementById(arguments[0]).tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[arguments[1]].textContent)"
    cells: list[str] = driver.execute_script(script, table, index)
    return cells


class TestInChromium:
    pytestmark = browser_only

    def test_it_renders_in_silence(self, driver: Any, illustrated_page: str, tmp_path: Path) -> None:
        """No console message, no request, every picture drawn, in light and dark, wide and narrow."""
        for dark, width in ((False, 1200), (True, 1200), (False, 390)):
            load(driver, illustrated_page, tmp_path, dark=dark, width=width)
            shown = driver.execute_script(
                "return [...document.querySelectorAll('figure img')].filter(i => i.offsetParent).map(i => [i.className, i.naturalWidth > 0])"
            )
            assert shown
            assert {tuple(s) for s in shown} == {("dark-only" if dark else "light-only", True)}
            overflow = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0
            quiet(driver)

    def test_a_table_sorts(self, driver: Any, incident: Case, tmp_path: Path) -> None:
        """By number, both ways, and says so to screen readers; empty cells stay at the end."""
        load(driver, render(incident, plots=False), tmp_path)
        header = driver.find_element("css selector", "#servers th:nth-child(7) button")
        header.click()
        rising = column(driver, "servers", 6)
        filled = [int(c) for c in rising if c]
        assert filled == sorted(filled)
        assert filled
        assert not any(rising[len(filled) :])
        header.click()
        assert [int(c) for c in column(driver, "servers", 6) if c] == filled[::-1]
        cell = driver.find_element("css selector", "#servers th:nth-child(7)")
        assert cell.get_attribute("aria-sort") == "descending"
        assert "descending" in driver.find_element("id", "live").text

    def test_a_table_filters(self, driver: Any, incident: Case, tmp_path: Path) -> None:
        """All words must occur; the number of rows is told."""
        load(driver, render(incident, plots=False), tmp_path)
        driver.find_element("id", "mails-words").send_keys("198.51.100.20 no answer")
        time.sleep(0.3)
        assert column(driver, "mails", 3) == ["198.51.100.20"] * 3
        assert driver.find_element("css selector", "#mails-filter output").text == "3 rows"

    def test_a_filter_is_copied(self, driver: Any, incident: Case, tmp_path: Path) -> None:
        """The button beside a Wireshark filter copies exactly that filter."""
        load(driver, render(incident, plots=False), tmp_path)
        driver.execute_script(
            "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }"
        )
        driver.find_element("css selector", "#finding-1 .copy").click()
        assert driver.execute_script("return window.copied") == incident.findings[0].evidence[0].display_filter

    def test_it_works_by_keyboard(self, driver: Any, incident: Case, tmp_path: Path) -> None:
        """The first stop is the link that skips to the findings; a header is pressed with the space bar."""
        from selenium.webdriver import ActionChains, Keys

        load(driver, render(incident, plots=False), tmp_path)
        ActionChains(driver).send_keys(Keys.TAB).perform()
        assert driver.switch_to.active_element.text == "Skip to the findings"
        driver.execute_script("document.querySelector('#connections th button').focus()")
        ActionChains(driver).send_keys(Keys.SPACE).perform()
        assert driver.find_element("css selector", "#connections th").get_attribute("aria-sort") == "ascending"

    @pytest.mark.parametrize("dark", [False, True])
    def test_axe_finds_nothing_serious(self, driver: Any, illustrated_page: str, tmp_path: Path, dark: bool) -> None:
        """axe-core, the checker of accessibility, finds no serious violation, contrast included."""
        axe = find_spec("axe_selenium_python")
        if axe is None or axe.origin is None:
            pytest.skip("needs axe-selenium-python, which carries axe-core")
        source = next(Path(axe.origin).parent.rglob("axe.min.js")).read_text("utf-8")
        load(driver, illustrated_page, tmp_path, dark=dark)
        driver.execute_script("for (const folded of document.querySelectorAll('details')) folded.open = true")
        assert driver.find_elements("css selector", ".helps")
        driver.execute_script(source)
        result = driver.execute_async_script(
            "axe.run(document, {resultTypes: ['violations']}).then(arguments[arguments.length - 1])"
        )
        grave = [v for v in result["violations"] if v["impact"] in ("serious", "critical")]
        assert [(v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in grave] == []
        assert len(result["passes"]) > 20

    def test_nothing_that_a_capture_says_runs(self, driver: Any, hostile: Case, tmp_path: Path) -> None:
        """Scripts, handlers and URLs in banners, names and filters stay text, also after sorting and filtering."""
        load(driver, render(hostile), tmp_path)
        for button in driver.find_elements("css selector", "th button")[:8]:
            driver.execute_script("arguments[0].click()", button)
        driver.find_element("id", "mails-words").send_keys("<script>")
        time.sleep(0.3)
        assert column(driver, "mails", 4)
        assert driver.execute_script("return window.pwned") is None
        quiet(driver)

    def test_the_policy_stops_what_does_not_belong_to_the_page(
        self, driver: Any, incident: Case, tmp_path: Path
    ) -> None:
        """Even a script that got into the file would not run."""
        page = render(incident, plots=False).replace(
            "<main>", "<main><script>window.pwned = 1</script><img src=x onerror='pwned=1'>"
        )
        load(driver, page, tmp_path)
        assert driver.execute_script("return window.pwned") is None

    def test_fifty_thousand_connections_are_ready_at_once(
        self, driver: Any, large: Case, black_hole: Trace, tmp_path: Path
    ) -> None:
        """Loaded, laid out and sortable within two seconds: the best of three, as other tests share the machine."""
        page = render(large, traces={1: black_hole})
        assert min(load(driver, page, tmp_path) for _ in range(3)) < 2

    def test_it_prints_on_white_paper(self, driver: Any, illustrated_page: str, tmp_path: Path) -> None:
        """In print the light pictures are used, controls vanish, and nothing is cut off at the right, also from a dark desktop."""
        load(driver, illustrated_page, tmp_path, width=750)
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                               {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]})  # fmt: skip
        seen = driver.execute_script(
            "const s = (q) => getComputedStyle(document.querySelector(q));"
            "return [s('.dark-only').display, s('.light-only').display, s('.copy').display, s('body').backgroundColor,"
            " document.documentElement.scrollWidth <= innerWidth]"
        )
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        assert seen == ["none", "block", "none", "rgb(255, 255, 255)", True]
        pdf = driver.execute_cdp_cmd("Page.printToPDF", {})
        assert base64.b64decode(pdf["data"]).startswith(b"%PDF")


def test_what_is_told_in_the_same_words_is_told_once(incident: Case) -> None:
    """Hundreds of paths that lost a packet are one line, which unfolds to the hosts."""
    small = incident.findings[-1]
    many = [replace(small, id=n, receiver=f"203.0.113.{n}") for n in range(7, 60)]
    page = render(replace(incident, findings=[*incident.findings, *many]))
    assert page.count('<span class="soft">(small-mss)</span>') == 1
    assert "<summary>54 times</summary>" in page
    assert f"<li>{small.sender} to 203.0.113.59</li>" in page
