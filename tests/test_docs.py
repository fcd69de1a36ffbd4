"""The pages that users read: links, sizes, examples."""

import ast
import importlib
import re
import shlex
import time
from pathlib import Path

import click
import pytest
import torch

from flowwarp.cli import COMMANDS, cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def text_of(name):
    return (ROOT / name).read_text("utf-8")


def code_in(name, language=""):
    """Return the fenced blocks of a page that are in a language; shells have none."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(name), re.S | re.M)
    return [code for marked, code in blocks if marked == language]


def without_code(text):
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


def anchor(heading):
    """Return the anchor of a heading, as GitHub and the site make it."""
    words = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def anchors(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {*map(anchor, headings), *re.findall(r'<a id="([^"]+)"', text)}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name):
    page = ROOT / name
    wrong = []
    for link in ("".join(groups) for groups in LINK.findall(without_code(text_of(name)))):
        if re.match(r"https?:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        known = target.exists() and target.is_relative_to(ROOT)
        if not known or (fragment and fragment not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize(("name", "limit"), [("README.md", 9216), ("BENCHMARKS.md", 8192)])
def test_the_first_pages_are_short(name, limit):
    assert len((ROOT / name).read_bytes()) <= limit
    assert [line for line in text_of(name).splitlines() if len(line) > 120] == []


def test_lines_of_contributing_are_short():
    assert [line for line in text_of("CONTRIBUTING.md").splitlines() if len(line) > 120] == []


def test_experiments_are_a_page():
    assert len((ROOT / "docs/experiments.md").read_bytes()) <= 10_000


@pytest.mark.parametrize("name", [name for name in NAMES if name != "docs/video.md"])
def test_no_command_needs_a_row_of_settings(name):
    commands = "\n".join(code_in(name)).replace("\\\n", " ").splitlines()
    assert [command for command in commands if command.count("--set ") > 1] == []
    if name == "README.md":
        assert "--set" not in text_of(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_example_in_the_help_has_a_row_of_settings(name):
    lines = (cli.get_command(click.Context(cli), name).help or "").splitlines()
    assert [line for line in lines if line.count("--set ") > 1] == []


def commands_in(name):
    for block in code_in(name):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["flowwarp"]:
                yield words[1:]


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_options_exist(name):
    for command, *words in commands_in(name):
        assert command in COMMANDS
        found = cli.get_command(click.Context(cli), command)
        if isinstance(found, click.Group):
            found = found.commands[words[0]]
        options = {"--help"}
        for parameter in found.params:
            options |= {*parameter.opts, *parameter.secondary_opts}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= options, (command, given - options)


def test_the_python_example_takes_two_seconds(tmp_path, monkeypatch):
    (code,) = code_in("README.md", "python")
    imports = re.search(r"^from flowwarp import (.*)$", code, re.M)[1].split(", ")
    for name in imports:  # what importing takes is not the example's
        getattr(importlib.import_module("flowwarp"), name)
    monkeypatch.chdir(tmp_path)
    code = code.replace("datasets/sample", str(ROOT / "datasets/sample"))
    names, start = {}, time.process_time()
    exec(code, names)
    assert time.process_time() - start < 2
    assert torch.isfinite(names["flow"].grad).all()
    assert (tmp_path / "warped.png").exists()


@pytest.mark.parametrize("name", NAMES)
def test_python_blocks_import_what_exists(name):
    for block in code_in(name, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("flowwarp"):
                module = importlib.import_module(node.module)
                assert [one.name for one in node.names if not hasattr(module, one.name)] == []


def test_the_gallery_shows_the_commands_that_make_it():
    import gallery

    assert text_of("docs/gallery.md") == gallery.page()
    made = {path.stem for path in gallery.IMAGES.iterdir()}
    assert made == {picture.name for picture in gallery.PICTURES}
    assert sum(path.stat().st_size for path in gallery.IMAGES.iterdir()) <= 600_000


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("docs/reference/")])
def test_the_reference_names_modules(name):
    modules = re.findall(r"^::: (\S+)$", text_of(name), re.M)
    assert modules
    for module in modules:
        importlib.import_module(module)


def test_python_page_names_what_exists():
    text = text_of("docs/python.md")
    for module, names in re.findall(r"^\| `(flowwarp\.[\w.]+)`: (.*?) \|", text, re.M):
        for name in re.findall(r"`(\w+)", names):
            assert hasattr(importlib.import_module(module), name), (module, name)


def test_the_table_of_contributing_names_what_exists():
    text = text_of("CONTRIBUTING.md")
    table = text[text.index("## Where things are") : text.index("## How code should read")]
    paths = re.findall(r"`((?:flowwarp|cuda|datasets|docs|tools|tests)/[\w/.]*)`", table)
    assert len(paths) > 20
    made = {"flowwarp/_cuda", "flowwarp/_datasets"}  # of cuda/ and datasets/, when they are packed
    assert [path for path in paths if path not in made and not (ROOT / path).exists()] == []
