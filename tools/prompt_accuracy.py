"""Measures how much of prompts in people's own words is understood, and drawn.

    python tools/prompt_accuracy.py tests/data/sprite_world/prompts.json --writers 3 4

The file is a list of {"writer": 1, "prompt": "...", "states": {"action": "walk", ...}}: which of
some writers wrote it, what is asked for, and what it states, by the names of ``JUDGED`` of the
sprite world's labels and in values as coarse as ``COARSE`` makes them. A video is made of each,
as ``generate-video`` does up to its upsampler, and read by the judge in the package; takes 5 s
a prompt on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flowwarp.data.sprite_world.labels import JUDGED
from flowwarp.data.sprite_world.prompts import read_prompt
from flowwarp.legacy.pipelines.choosing import draw_codes
from flowwarp.legacy.pipelines.evaluate import Table, Tally, load_classifier, read_labels
from flowwarp.legacy.pipelines.hearing import hear
from flowwarp.legacy.pipelines.load import VideoModels, load_models
from flowwarp.legacy.pipelines.revising import revise_videos
from flowwarp.legacy.pipelines.sequences import Prompt
from flowwarp.legacy.pipelines.tokens import detokenize

# Of what captions and the judge say, where people are less exact.
COARSE = {
    **{"brunette": "brown", "light blonde": "blonde", "silver": "gray"},
    **{"a bow": "bow", "a great bow": "bow", "a recurve bow": "bow"},
    **{"a steel wand": "wand", "a wooden wand": "wand", "a dagger": "dagger", "a spear": "spear"},
}
_BATCH = 8  # prompts that are drawn side by side

Item = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--writers", type=int, nargs="+", help="whose prompts; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the first video")
    parser.add_argument("--read-only", action="store_true", help="draw nothing")
    given = parser.parse_args()
    items = json.loads(given.file.read_text("utf-8"))
    items = [one for one in items if given.writers is None or one["writer"] in given.writers]
    models = load_models(upsampler=None, flow=None)
    tally = Tally()
    for one in items:
        tally.add(
            "read", coarse(understood(one["prompt"], models.gpt.known)), coarse(one["states"])
        )
    if not given.read_only:
        draw(models, items, given.seed, tally)
    show(tally.table(), len(items))


def coarse(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels as exact as people are."""
    return {name: COARSE.get(value, value) for name, value in labels.items()}


def understood(prompt: str, known: frozenset[str] | None) -> dict[str, str]:
    """Return what a prompt is read to state, by the names of labels; "" for what it is not."""
    stated = read_prompt(prompt, known).stated
    return {name: stated.get(name.replace("_", " "), "") for name in JUDGED}


def draw(models: VideoModels, items: Sequence[Item], seed: int, tally: Tally) -> None:
    """Make a video of each prompt, and count what the judge reads off it."""
    judge = load_classifier()
    for start in range(0, len(items), _BATCH):
        some = items[start : start + _BATCH]
        prompts = [Prompt(hear(models.gpt, one["prompt"]).text) for one in some]
        seeds = [seed + start + number for number in range(len(some))]
        codes, _ = draw_codes(models, prompts, seeds)
        with torch.inference_mode():
            decoded = [torch.stack(list(detokenize(models.dvae, own))) for own in codes]
            texts = [prompt.caption or "" for prompt in prompts]
            videos = revise_videos(models, torch.stack(decoded), texts)
        for one, labels in zip(some, read_labels(judge, videos), strict=True):
            tally.add("drawn", coarse(labels), coarse(one["states"]))
        print(f"{start + len(some)} of {len(items)}", file=sys.stderr)


def show(table: Table, count: int) -> None:
    """Print percentages, as a table in Markdown."""
    columns = sorted({whose for row in table.values() for whose in row}, reverse=True)
    print(f"| {count} prompts | {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * len(columns)}")
    for name, row in table.items():
        shares = " | ".join(f"{row[whose]:.1f}" if whose in row else "" for whose in columns)
        print(f"| {name} | {shares} |")


if __name__ == "__main__":
    main()
