"""Benchmarks: the figures that they write, and that the methods they compare do the same."""

import argparse
import importlib
import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "tools" / "bench"


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Return a function that imports a benchmark; figures go into an empty folder."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def result(native, threads=1, cpu="A", ms=3.0, ratio=1.5, spread=1.0):
    ours = {"ms": 2.0, "ms_quartiles": [2.0, 2.0], "ratio": 1.0, "ratio_quartiles": [1.0, 1.0]}
    other = {"ms": ms, "ms_quartiles": [ms, ms * spread], "ratio": ratio}
    other["ratio_quartiles"] = [ratio, ratio * spread]
    row = {"case": "both", "shape": [1, 3, 8, 8], "pass": "forward+backward", "rounds": 7}
    row |= {"difference": 1e-5, "agreement": "99.99 % of values differ by {:.1e} at most"}
    row["sides"] = {"flowwarp": ours, "grid_sample, grid cached": other}
    return {
        "environment": {"cpu": cpu, "threads": threads, "native": native},
        "cases": [row],
    }


def runs(name="warping"):
    return json.loads(Path(f"docs/figures/{name}.json").read_text("utf-8"))["runs"]


def test_a_run_replaces_that_of_the_same_machine(bench):
    report = bench("report")
    report.add("warping", ["--rounds=7"], result("avx512"))
    report.add("warping", ["--rounds=7"], result("avx512", threads=2, ms=1.5))
    before = runs()
    report.add("warping", ["--rounds=3"], result("avx2", cpu="B"))
    report.add("warping", ["--rounds=5"], result("avx512", ms=4.0))
    one, two, three = runs()
    assert two == before[1]
    assert [run["machine"]["cpu"] for run in (one, two, three)] == ["A", "A", "B"]
    assert one["command"] == "python tools/bench/warping.py --rounds=5"
    assert [row["ms"] for row in one["rows"]] == [2.0, 4.0]
    assert [row["ms"] for row in before[0]["rows"]] == [2.0, 3.0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", three["date"])


def test_rows_hold_the_case_the_method_and_its_figures(bench):
    report = bench("report")
    case = result("avx2")["cases"][0]
    ours, other = report.rows_of([case])
    assert ours["agreement"] == "99.99 % of values differ by 1.0e-05 at most"
    about = {"case": "both", "shape": [1, 3, 8, 8], "pass": "forward+backward"}
    assert other == {
        **about,
        "method": "grid_sample, grid cached",
        "ms": 3.0,
        "ms_quartiles": [3.0, 3.0],
        "ratio": 1.5,
        "ratio_quartiles": [1.5, 1.5],
    }


def test_unsteady_lines_and_missed_goals_are_reported(bench, capsys):
    report = bench("report")
    report.add("warping", [], result("avx2", ratio=1.25))
    out = capsys.readouterr().out
    assert "missed: 1.7 times `grid_sample` with its grid cached, 3 channels, one thread: " in out
    assert "both 1.25" in out
    assert "unsteady" not in out
    report.add("warping", [], result("avx2", threads=2, ms=4.0, ratio=3.2, spread=1.4))
    out = capsys.readouterr().out
    assert "4.00 ms    3.20 (3.20–4.48)  unsteady" in out
    assert "missed" not in out


def test_figures_of_the_repository_are_read_and_written_alike(bench):
    figures = bench("_figures")
    for path in (BENCH.parents[1] / "docs" / "figures").glob("*.json"):
        found = json.loads(path.read_text("utf-8"))
        assert json.loads(figures._text(found)) == found
        for run in found["runs"]:
            assert run.keys() >= {"command", "date", "machine", "rows"}, path


def test_a_command_can_be_repeated(bench, monkeypatch):
    figures = bench("_figures")
    monkeypatch.setenv("FLOWWARP_NATIVE", "avx2")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    given = argparse.Namespace(clips=["/home/me/a.mp4", "/home/me/b.mp4"], frames=12, threads=2)
    given.quality, given.keep_all, given.write, given.peak = ["fast", "best"], True, False, None
    words = figures.options(given, {"clips": "CLIP..."})
    assert figures.command("interpolation", words) == (
        "FLOWWARP_NATIVE=avx2 python tools/bench/interpolation.py CLIP... --frames 12 --threads 2 "
        "--quality fast --quality best --keep-all"
    )


def test_methods_take_turns_on_each_pair(bench):
    accuracy = bench("accuracy")
    image = torch.rand(1, 3, 8, 8)
    truths = []
    for number in (0, 1):
        truth = types.SimpleNamespace(image1=image + 0, image2=image + 0, valid=None)
        truth.flow_12 = torch.full((1, 2, 8, 8), float(number))
        truths.append(("set", truth))
    calls = []

    def method(name):
        def estimate(image1, image2):
            pair = [truth.image1 is image1 for _, truth in truths].index(True)
            calls.append((name, pair, accuracy.eval_flow.to_grey(image1).shape))
            return torch.zeros(1, 2, 8, 8)

        return estimate

    found = accuracy.measure({"a": method("a"), "b": method("b")}, truths, 3)
    assert [call[:2] for call in calls] == [
        (name, pair) for pair, rounds in ((0, 4), (1, 3)) for _ in range(rounds) for name in "ab"
    ]
    assert found["a"]["set"] == pytest.approx(2**0.5 / 2)
    low, high = found["b"]["ms_quartiles"]
    assert low <= found["b"]["ms"] <= high


def test_peers_do_the_same(bench):
    correlation, training = bench("correlation"), bench("training")
    a, b = torch.rand(2, 1, 3, 6, 7, dtype=torch.float64)
    for other in (correlation.unfold_einsum, correlation.views):
        torch.testing.assert_close(other(a, b, 2), correlation.correlation(a, b, 2))
    flow = 2 * torch.randn(1, 2, 6, 7, dtype=torch.float64)
    for options in ({}, {"padding": "zeros"}, {"mode": "bicubic"}):
        for ours, plain in zip(
            training.warp(a, flow, mask=True, **options),
            training.plain_warp(a, flow, mask=True, **options),
            strict=True,
        ):
            torch.testing.assert_close(plain, ours)
    losses = sys.modules["flowwarp.losses.photometric"]
    with training.plainly():
        assert losses.warp is training.plain_warp
    assert losses.warp is training.warp
