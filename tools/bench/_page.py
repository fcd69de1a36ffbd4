"""BENCHMARKS.md as sections by heading, so that each benchmark renews its own."""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path("BENCHMARKS.md")
# Variables that choose between libraries: without them the command gives other figures.
CHOOSING = ("FLOWWARP_NATIVE", "ATEN_CPU_CAPABILITY")


def read_sections() -> dict[str, str]:
    """Return what the page says, by heading."""
    if not PAGE.exists():
        return {}
    parts = PAGE.read_text("utf-8").split("\n## ")[1:]
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def write_sections(introduction: str, sections: Mapping[str, str]) -> None:
    body = "".join(f"\n## {title}\n{text}" for title, text in sections.items())
    PAGE.write_text(introduction + body, "utf-8")


def replace_section(title: str, text: str) -> None:
    """Write one section, in its place or else at the end."""
    introduction = PAGE.read_text("utf-8").split("\n## ")[0]
    write_sections(introduction, read_sections() | {title: text})


def command(script: str, words: Sequence[str]) -> str:
    """Return what to type for a benchmark to be made again."""
    chosen = [f"{name}={os.environ[name]}" for name in CHOOSING if name in os.environ]
    return " ".join([*chosen, "python", f"tools/bench/{script}.py", *words])


def options(arguments: argparse.Namespace, places: Mapping[str, str]) -> list[str]:
    """Return a command line's words, defaults too, as those may change.

    Args:
        arguments: what was given.
        places: what stands for paths, which are nobody else's, by the name of the argument.
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


def made_by(command: str, environment: Mapping[str, Any]) -> str:
    """Return the line that says what a section's figures were made by, when, and where."""
    today = datetime.date.today()
    words = ", ".join(f"{key} {value}" for key, value in environment.items())
    return f"Made by `{command}` on {today.day} {today:%B %Y}; {words}."
