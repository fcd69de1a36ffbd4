"""Put a run's weights into the package or beside it, in half the bytes or fewer, with their card.

Usage: python tools/ship_weights.py RUN NAME --note KEY=VALUE ... [--bits 8] [--figures eval.json]

RUN is a folder of train-flow (or another trainer), NAME such as flownet_base. Weights become bf16,
or int8 with a scale a row; the card, inside the file and as NAME.md beside it, has what the run
says (steps, seed, hours, the curve of its validation), the notes given (command, data, licence),
and with --figures what `flowwarp eval-flow --json` or `eval-video --json` measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from flowwarp.io.checkpoints import load_weights, save_tensors, to_8_bits, to_dtype

WEIGHTS = Path(__file__).resolve().parent.parent / "flowwarp" / "_weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--which", choices=("best", "last"), default="last")
    parser.add_argument("--bits", type=int, choices=(16, 8), default=16)
    parser.add_argument("--note", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--into", type=Path, default=WEIGHTS, metavar="FOLDER")
    parser.add_argument("--figures", type=Path, metavar="JSON")
    arguments = parser.parse_args()
    for note in arguments.note:
        if "=" not in note:
            parser.error(f"argument --note: {note!r} is not KEY=VALUE")

    tensors, card = load_weights(arguments.run / f"{arguments.which}.safetensors")
    notes = dict(card.notes) | dict(note.split("=", 1) for note in arguments.note)
    for own in ("sha256", "figures"):  # of the run; the curve has the latter
        notes.pop(own, None)
    measure, curve = _curve(arguments.run)
    notes |= {"measure": measure, "curve": json.dumps(curve)}
    if arguments.figures:
        notes["figures"] = json.dumps(_figures(arguments.figures))
    metadata = notes | {
        "model": card.model,
        "config": json.dumps(dict(card.config)),
        "step": str(card.step),
    }
    if arguments.bits == 8:
        small, stored = to_8_bits(tensors), "int8 with a scale a row"
    else:
        small, stored = to_dtype(tensors, torch.bfloat16), "bf16"
    arguments.into.mkdir(exist_ok=True)
    target = arguments.into / f"{arguments.name}.safetensors"
    save_tensors(target, small, metadata)
    target.with_suffix(".md").write_text(_page(arguments.name, metadata, tensors, stored))
    print(target, f"{target.stat().st_size / 1e6:.2f} MB")


def _curve(run: Path) -> tuple[str, list[list[float]]]:
    """Return what was measured in validation, and at which step it was what."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    rows = [line for line in lines if line["split"] == "val"]
    measure = next(name for name in ("epe", "psnr", "error", "nats", "loss") if name in rows[-1])
    known = [row for row in rows if row[measure] is not None]  # null where it was no number
    return measure, [[row["step"], round(row[measure], 3)] for row in known]


def _figures(path: Path) -> dict[str, Any]:
    """Return the error of each set and method, or each figure of generated video."""
    measured = json.loads(path.read_text())
    figures: dict[str, Any] = {}
    for part, columns in measured.get("parts", {}).items():
        for column, table in columns.items():
            for name, row in table.items():
                key = f"{part} ({measured['counts'][part]}) {name}"
                for whose, value in row.items():
                    rounded = None if value is None else round(value, 4)
                    figures.setdefault(key, {})[f"{column} {whose}"] = rounded
    rows = measured.get("sets", [])
    for row in rows:
        key = "fl_all" if row["set"].startswith("kitti") else "epe"
        figures.setdefault(f"{row['set']} ({row['pairs']}) {key}", {})[row["method"]] = round(
            row[key], 3
        )
    return figures


def _page(name: str, card: dict[str, str], tensors: dict[str, torch.Tensor], stored: str) -> str:
    count = sum(tensor.numel() for tensor in tensors.values())
    size = f"{count / 1e6:.2f} million parameters"
    lines = [f"# {name}", "", f"{card['model']}, {size}, {stored}.", ""]
    for key, value in card.items():
        if key in ("figures", "measure", "curve", "model", "vocabulary"):
            continue
        lines.append(f"- **{key}**: {f'`{value}`' if key in ('command', 'config') else value}")
    lines += ["", f"Validated while training (step: {card['measure']}):", ""]
    lines.append(", ".join(f"{step:.0f}: {value}" for step, value in json.loads(card["curve"])))
    if "figures" in card:
        figures = json.loads(card["figures"])
        methods = list(dict.fromkeys(m for row in figures.values() for m in row))
        lines += ["", "| | " + " | ".join(methods) + " |", "| --- |" + " ---: |" * len(methods)]
        for group, row in figures.items():
            cells = " | ".join(str(row.get(method, "")) for method in methods)
            lines.append(f"| {group} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
