"""Figures of benchmarks: a JSON file of each under docs/figures/.

``{"measures": ..., "runs": [{"command": ..., "date": ..., "machine": {...}, "rows": [...]}]}``: a
run has one row per line. A new run replaces the older one of the same machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path("docs/figures")
# Variables that choose a library. A command is repeated with them.
CHOOSING = ("FLOWWARP_NATIVE", "ATEN_CPU_CAPABILITY")
MACHINE = ("cpu", "threads", "native")  # what tells one machine's runs from another's


def write_run(
    name: str,
    command: str,
    machine: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    measures: str | None = None,
    **facts: Any,
) -> None:
    """Write a run into the file of a benchmark; runs of other machines stay as they are.

    Args:
        name: of the benchmark.
        command: that repeats the run.
        machine: as ``_measure.describe_machine`` returns it.
        rows: of the run.
        measures: what the figures are, with units; None leaves the file's own text.
        facts: more about the run.
    """
    path = FOLDER / f"{name}.json"
    found: dict[str, Any] = {"measures": measures or "", "runs": []}
    if path.exists():
        found |= json.loads(path.read_text("utf-8"))
    if measures:
        found["measures"] = measures
    date = datetime.date.today().isoformat()
    run = {"command": command, "date": date, "machine": dict(machine), **facts, "rows": list(rows)}
    places = [number for number, old in enumerate(found["runs"]) if _same_machine(old, run)]
    if places:
        found["runs"][places[0]] = run
    else:
        found["runs"].append(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_text(found), "utf-8")


def _same_machine(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    return all(one["machine"].get(key) == two["machine"].get(key) for key in MACHINE)


def _text(figures: Mapping[str, Any]) -> str:
    runs = []
    for run in figures["runs"]:
        head = json.dumps({key: value for key, value in run.items() if key != "rows"})
        rows = ",\n".join(f"      {json.dumps(row)}" for row in run["rows"])
        runs.append(f'    {head[:-1]}, "rows": [\n{rows}\n    ]}}')
    measures = json.dumps(figures["measures"])
    return f'{{\n  "measures": {measures},\n  "runs": [\n' + ",\n".join(runs) + "\n  ]\n}\n"


def command(script: str, words: Sequence[str]) -> str:
    """Return the command that repeats a benchmark."""
    chosen = [f"{name}={os.environ[name]}" for name in CHOOSING if name in os.environ]
    return " ".join([*chosen, "python", f"tools/bench/{script}.py", *words])


def options(arguments: argparse.Namespace, places: Mapping[str, str]) -> list[str]:
    """Return the words of a command line, with defaults, as those may change.

    Args:
        arguments: the parsed command line.
        places: words in place of paths of this machine, by the name of the argument.
    """
    words: list[str] = []
    for name, value in vars(arguments).items():
        option = f"--{name.replace('_', '-')}"
        if name in places:
            words.append(places[name])
        elif value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [f"{option} {one}" for one in value]
        elif value is not None and value is not False:
            words.append(f"{option} {value}")
    return words
