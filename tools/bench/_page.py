"""BENCHMARKS.md as sections by heading, so that each benchmark renews its own."""

from __future__ import annotations

from pathlib import Path

PAGE = Path("BENCHMARKS.md")


def read_sections() -> dict[str, str]:
    """Return what the page says, by heading."""
    if not PAGE.exists():
        return {}
    parts = PAGE.read_text().split("\n## ")[1:]
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def write_sections(introduction: str, sections: dict[str, str]) -> None:
    body = "".join(f"\n## {title}\n{text}" for title, text in sections.items())
    PAGE.write_text(introduction + body)


def replace_section(title: str, text: str) -> None:
    """Write one section, in its place or else at the end."""
    introduction = PAGE.read_text().split("\n## ")[0]
    write_sections(introduction, read_sections() | {title: text})
