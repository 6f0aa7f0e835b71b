"""The plots: contents, colours, and extreme values."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from msgspec.structs import replace

from benchmarks.report.plots import DARK, LIGHT, draw, headlines, summary_plot, svg
from benchmarks.report.results import Plot, Results, Section, Series
from tests.benchmarks.results_sample import AGE, COST, LATENCY, RESULTS

PLOTS = pytest.mark.parametrize("plot", [AGE, COST, LATENCY], ids=lambda plot: plot.title)


def words(document: str) -> list[str]:
    return [
        "".join(element.itertext())
        for element in ElementTree.fromstring(document).iter()
        if element.tag.endswith("}text")
    ]


@PLOTS
def test_svg_uses_only_page_colours(plot: Plot) -> None:
    document = svg(plot)
    assert document.startswith("<svg")
    ElementTree.fromstring(document)
    roles = set(re.findall(r"var\(--(\w+)\)", document))
    assert "ours" in roles or plot is LATENCY
    assert roles <= set(LIGHT) == set(DARK)
    assert not re.findall(r"#[0-9a-f]{6}", document)


@PLOTS
def test_svg_has_no_size_font_or_date(plot: Plot) -> None:
    head, _, rest = svg(plot).partition(">")
    assert " width=" not in head
    assert " height=" not in head
    assert "viewBox" in head
    assert "DejaVu" not in rest
    assert "<metadata" not in rest


@PLOTS
def test_svg_is_deterministic(plot: Plot) -> None:
    assert svg(plot) == svg(plot)


def test_svg_ids_are_unique_on_a_page() -> None:
    ids = [
        re.findall(r' id="([^"]*)"', svg(plot)) for plot in (AGE, COST, LATENCY, replace(AGE, title="again"))
    ]
    everything = [one for some in ids for one in some]
    assert everything
    assert len(everything) == len(set(everything))


def test_svg_references_resolve() -> None:
    document = svg(LATENCY)
    referred = set(re.findall(r'(?:url\(|href=")#(\w+)', document))
    assert referred
    assert referred <= set(re.findall(r' id="([^"]*)"', document))


def test_lines_have_names_limit_and_plain_numbers() -> None:
    said = words(svg(AGE))
    assert {
        "stream-server",
        "a <peer> & co",
        "bound of 200 ms",
        "age p99, ms",
        "seconds since the start",
    } <= set(said)
    assert {"100", "1,000", "10,000"} <= set(said)


def test_bars_have_values_and_names() -> None:
    said = words(svg(COST))
    assert {"0.11", "0.5", "2.25", "stream-server", "another peer", "CPU ms per frame"} <= set(said)
    assert "echo" not in said  # one series needs no legend


@pytest.mark.parametrize("log", [False, True])
def test_bar_starts_at_zero_or_is_a_dot(log: bool) -> None:
    panel = Figure()
    draw(replace(COST, log=log), panel, LIGHT)
    (axes,) = panel.axes
    bars = [patch.get_x() for patch in axes.patches]
    dots = [tuple(map(float, at)) for drawn in axes.collections for at in drawn.get_offsets() if len(at)]
    values = [(value, at) for at, value in COST.series[0].points]
    assert bars == ([] if log else [0] * len(values))
    assert set(values) & set(dots) == (set(values) if log else set())


@pytest.mark.parametrize(
    "plot", [replace(LATENCY, limit=500.0), replace(AGE, limit=1e6), replace(AGE, limit=1.0)]
)
def test_limit_is_always_visible(plot: Plot) -> None:
    panel = Figure()
    draw(plot, panel, LIGHT)
    low, high = panel.axes[0].get_ylim()
    assert plot.limit is not None
    assert low < plot.limit < high


def test_dollar_signs_are_text() -> None:
    assert "$5 and $x_1$" in words(svg(replace(AGE, y="$5 and $x_1$")))


def test_only_our_series_has_our_colour() -> None:
    assert svg(COST).count("fill: var(--ours)") == 1
    assert "stroke: var(--ours); stroke-width: 3" in svg(AGE)
    assert "--ours" not in svg(replace(AGE, series=AGE.series[1:]))


def test_spread_is_drawn() -> None:
    for plot in (COST, LATENCY):
        bare = replace(plot, series=tuple(replace(series, spread=()) for series in plot.series))
        assert svg(plot) != svg(bare)


@pytest.mark.parametrize("kind", ["line", "bar"])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("points", [(), ((0.0, 0.0),), ((0.0, 0.0), (1.0, 5.0)), ((0.0, 3.0), (1.0, 3e6))])
def test_extreme_values_can_be_drawn(kind: str, log: bool, points: tuple[tuple[float, float], ...]) -> None:
    plot = Plot(
        "t", "x", "y", (Series("a", points), Series("b", ())), kind, ("a", "b"), 1.0, "at most 1", log
    )  # type: ignore[arg-type]
    ElementTree.fromstring(svg(plot))


def test_headlines_are_first_valid_of_their_kind() -> None:
    assert headlines(RESULTS) == [AGE, COST, LATENCY]
    again = replace(AGE, title="another run")
    engine, void = Section("overload", ""), Section("overload", "", plots=(again,), void="late")
    sections = (engine, void, *RESULTS.sections[1:], Section("overload", "", plots=(again,)))
    assert headlines(Results({}, sections)) == [AGE, LATENCY]
    camera = Section("camera", "", plots=(again,))
    assert headlines(Results({}, (camera, *RESULTS.sections))) == [AGE, COST, LATENCY]
    assert headlines(Results({}, (camera,))) == [again]


def test_summary_has_size_white_ground_and_our_colour() -> None:
    image = cv2.imdecode(np.frombuffer(summary_plot(RESULTS), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (600, 1600, 3)
    assert (image == 255).all(axis=2).mean() > 0.5
    ours = [int(LIGHT["ours"][at : at + 2], 16) for at in (5, 3, 1)]
    for panel in (image[:, :533], image[:, 533:1066]):  # age and CPU
        assert (panel == ours).all(axis=2).sum() > 100
    assert (
        math.prod(image[:, 1066:].shape[:2]) > (image[:, 1066:] == 255).all(axis=2).sum()
    )  # latency is there


def test_summary_without_plots_names_what_is_needed() -> None:
    with pytest.raises(
        ValueError, match="a line plot in overload or camera, a bar plot in echo, a line plot in text"
    ):
        summary_plot(Results())
