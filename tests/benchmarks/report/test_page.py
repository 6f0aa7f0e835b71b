"""The HTML page: complete, self-contained and escaped."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.report.page import page
from benchmarks.report.results import Figure, Grid, Plot, Results, Section, Series, as_json
from tests.benchmarks.results_sample import RESULTS
from tests.browser import find

VOID_TAGS = {"meta"}


@pytest.fixture(scope="module")
def document() -> str:
    return page(RESULTS)


class Reader(HTMLParser):
    """Collects the tags and the text, and fails if a tag is not closed properly."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(document)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        if tag not in VOID_TAGS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())


def test_page_shows_all_results(document: str) -> None:
    text = Reader(document).text
    for said in (
        "2 of 3 targets reached; void: camera",
        "2026-01-02 · a processor · 2 cores · Python 3.11.7",
        "Frames to the null model.",
        "It shows no network.",
        "CPU per frame, to the peer's",
        "0.75 x",
        "0.7 to 0.8",
        "<= 1",
        "0.11 to 0.16 ms",
        "reached",
        "missed",
        "12,345",
        "3.14",
        "the generator was late <b>",
        "812",
    ):
        assert said in text


def test_headline_plots_come_first(document: str) -> None:
    first = document.index("<section")
    assert document[:first].count("<svg") == 3
    assert document[first:].count("<svg") == 3


MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"


def test_results_are_escaped() -> None:
    plot = Plot(MARKUP, MARKUP, MARKUP, (Series(MARKUP, ((0.0, 1.0),)),), "bar", (MARKUP,), 1.0, MARKUP)
    section = Section(
        MARKUP,
        MARKUP,
        (Figure(MARKUP, (1.0,), MARKUP, "<=", 2.0, MARKUP),),
        (Grid(MARKUP, (MARKUP,), ((MARKUP,),)),),
        (plot,),
        MARKUP,
    )
    read = Reader(page(Results({MARKUP: MARKUP}, (section,))))
    assert not {"script", "img"} & set(read.tags)
    assert not [name for name in read.attributes if name.startswith("on")]
    assert read.attributes["aria-label"] == [MARKUP]
    assert sum(MARKUP in text for text in read.text) >= 15


def test_page_loads_no_resources(document: str) -> None:
    read = Reader(document)
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    for name in ("src", "href", "xlink:href"):
        assert all(value.startswith("#") for value in read.attributes.get(name, []))
    assert not re.search(r"@import|url\((?!#)", document)


def test_plot_colours_are_defined_for_light_and_dark(document: str) -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", document))
    light, dark = document.split("@media (prefers-color-scheme: dark)", 1)
    for part in (light, dark):
        assert used - {"radius", "ground", "surface", "good", "bad"} <= set(
            re.findall(r"--([\w-]+): #", part)
        )


def test_empty_results_make_a_page() -> None:
    Reader(page(Results()))


def test_page_and_picture_are_rendered_from_json(document: str, tmp_path: Path) -> None:
    halves = RESULTS.sections[:1], RESULTS.sections[1:]
    for name, half in zip("ab", halves, strict=True):
        (tmp_path / f"{name}.json").write_text(as_json(Results(RESULTS.facts, half)), "utf-8")
    run(tmp_path, "a.json", "b.json", "--html", "page.html", "--png", "summary.png")
    assert (tmp_path / "page.html").read_text("utf-8") == document
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"sections": 1}')
    done = run(tmp_path, "a.json", "--html", "page.html", status=2)
    assert "a.json: Expected `array`, got `int` - at `$.sections`" in done.stderr


def run(folder: Path, *args: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.report.page", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_page_does_not_scroll_sideways(document: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = find()
    if chromium is None:
        pytest.skip("no Chromium; `make browser` gets one")
    (tmp_path / "page.html").write_text(document, "utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.goto((tmp_path / "page.html").as_uri())
        for width in (360, 800, 1280):
            shown.set_viewport_size({"width": width, "height": 800})
            assert shown.evaluate("document.documentElement.scrollWidth") == width
        browser.close()
