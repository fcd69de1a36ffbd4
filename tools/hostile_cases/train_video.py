"""Hostile input of ``train-video``: its clips and its plan."""

from __future__ import annotations

from collections.abc import Iterator

from hostile_cases.case import Case, Prepare
from hostile_cases.harm import put


def cases() -> Iterator[Case]:
    """Yield a valid call, folders and names without clips, and broken plans."""
    yield Case("right: train-video", "train-video digits --dry-run", code=0)
    yield Case("name too long: train-video", f"train-video {'x' * 300} --run runs/x")
    empty: Prepare = lambda folder: (folder / "void").mkdir()  # noqa: E731
    yield Case("folder empty: train-video", "train-video void --run runs/x", empty, message="void")
    call = "train-video captioned --run runs/x --resume auto"
    for fault, text in (("broken", "{"), ("of another kind", "[1]"), ("huge", "9" * 2**21)):
        prepare = put("runs/x/plan.json", text)
        yield Case(f"run with a plan that is {fault}: train-video", call, prepare, message="plan")
