"""What benchmarks write: sections of a page, each with its machine, one beside another."""

import argparse
import importlib
import re
import sys
import types
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "tools" / "bench"


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Return what loads a benchmark, in a folder with a page."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.chdir(tmp_path)
    Path("BENCHMARKS.md").write_text("# Benchmarks\n\n## interpolation\n\nas it was\n", "utf-8")
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


def sections():
    parts = Path("BENCHMARKS.md").read_text("utf-8").split("\n## ")
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def test_a_run_on_another_machine_leaves_the_others_sections(bench):
    report = bench("report")
    report.add("warping", ["--rounds=7"], result("avx512"))
    report.add("warping", ["--rounds=7"], result("avx512", threads=2, ms=1.5))
    before = sections()
    report.add("warping", ["--rounds=3"], result("avx2", cpu="B"))
    after = sections()
    assert list(after)[1:] == [
        "warping, 1 thread, avx2",
        "warping, 1 thread, avx512",
        "warping, 2 threads, avx512",
        "interpolation",
    ]
    assert all(after[title] == text for title, text in before.items())
    made = r"Made by `python tools/bench/warping.py --rounds=3` on \d+ \w+ \d{4}; cpu B, threads 1,"
    assert re.search(made, after["warping, 1 thread, avx2"])
    assert "avx512" not in after["warping, 1 thread, avx2"]


def test_what_is_doubtful_or_short_of_a_goal_is_said(bench):
    report = bench("report")
    report.add("warping", [], result("avx2", ratio=1.25))
    one = sections()["warping, 1 thread, avx2"]
    assert "1.7 times `grid_sample` with its grid cached, 3 channels, one thread: both 1.25" in one
    assert "99.99 % of values differ by 1.0e-05 at most" in one
    assert "unsteady" not in one
    report.add("warping", [], result("avx2", threads=2, ms=4.0, ratio=3.2, spread=1.4))
    two = sections()["warping, 2 threads, avx2"]
    assert "| 4.00 | 3.20 (3.20–4.48) |  | unsteady, slower than one thread |" in two
    assert "goals are met" in two
    # Of another machine's single thread nothing follows.
    report.add("warping", [], result("avx2", threads=2, ms=4.0, cpu="B"))
    assert "slower" not in sections()["warping, 2 threads, avx2"]


def test_a_command_can_be_given_again(bench, monkeypatch):
    page = bench("_page")
    monkeypatch.setenv("FLOWWARP_NATIVE", "avx2")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    given = argparse.Namespace(clips=["/home/me/a.mp4", "/home/me/b.mp4"], frames=12, threads=2)
    given.quality, given.keep_all, given.write, given.peak = ["fast", "best"], True, False, None
    words = page.options(given, {"clips": "CLIP..."})
    assert page.command("interpolation", words) == (
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
    seen = []

    def method(name):
        def estimate(image1, image2):
            pair = [truth.image1 is image1 for _, truth in truths].index(True)
            seen.append((name, pair, accuracy.eval_flow.to_grey(image1).shape))
            return torch.zeros(1, 2, 8, 8)

        return estimate

    found = accuracy.measure({"a": method("a"), "b": method("b")}, truths, 3)
    assert [call[:2] for call in seen] == [
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
