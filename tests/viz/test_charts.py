"""Line charts as SVG."""

import re
from xml.etree import ElementTree

import pytest

from flowwarp.viz.charts import line_chart


def line(chart):
    """Return the points of a chart's line, in pixels."""
    places = re.search(r'polyline points="([^"]+)"', chart)[1]
    return [tuple(map(float, place.split(","))) for place in places.split()]


def test_points_are_placed_between_the_least_and_the_greatest():
    chart = line_chart("loss", [(10, 2.0), (20, 3.0), (30, 1.0)])
    (x0, y0), (x1, y1), (x2, y2) = line(chart)
    assert x0 < x1 < x2
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y1 < y0 < y2  # up is less
    assert y0 - y1 == pytest.approx(y2 - y0)
    texts = [element.text for element in ElementTree.fromstring(chart).iter() if element.text]
    assert texts == ["loss: 1", "1", "step 10", "30", "3"]


def test_values_far_apart_are_logarithmic():
    chart = line_chart("loss", [(0, 100.0), (1, 10.0), (2, 1.0)])
    (_, y0), (_, y1), (_, y2) = line(chart)
    assert y1 - y0 == pytest.approx(y2 - y1)
    assert "loss: 1, logarithmic" in chart
    assert "logarithmic" not in line_chart("loss", [(0, 100.0), (1, 0.0)])


def test_one_point_and_equal_values_are_in_the_middle():
    ((x, y),) = line(line_chart("loss", [(5, 2.0)]))
    (x0, y0), (x1, y1) = line(line_chart("loss", [(5, 2.0), (6, 2.0)]))
    assert y == y0 == y1
    assert x == pytest.approx((x0 + x1) / 2)


def test_titles_are_escaped():
    chart = line_chart("<script>&", [(0, 1.0)])
    assert "<script>" not in chart
    assert ElementTree.fromstring(chart).find("text").text.startswith("<script>&")
