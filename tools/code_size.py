"""Count lines of code by area, and find what is over the limits in CONTRIBUTING.md.

    python tools/code_size.py            lines of code of each area
    python tools/code_size.py --files    … and of each file
    python tools/code_size.py --check    exit with 1 if a file, function or signature is too long

A line of code holds a token that is neither a comment nor a docstring. Each file belongs to one
area: the first line of ``AREAS`` with a pattern that its path matches.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MOST_IN_FILE, MOST_IN_FUNCTION, MOST_PARAMETERS = 400, 70, 8

# (area, regular expression that the whole path matches); the first match counts.
AREAS: tuple[tuple[str, str], ...] = (
    ("sprite world", r"flowwarp/data/sprite_world/.*"),
    (
        "text to video before train-video",
        r"flowwarp/(legacy/.*|cli/(_splits|_video_options|eval_video|generate_video|describe_video"
        r"|train_(dvae|gpt|upsampler|captioner|reviser))\.py|models/_(attributes|seeing)\.py"
        r"|train/classifier\.py|data/(stage|digits)\.py)",
    ),
    (
        "text to video",
        r"flowwarp/(models/(dvae|gpt|gpt_decoder|upsampler|quantizers|sampling|classifier)"
        r"|train/(dvae|gpt|upsampler|video_.*)|pipelines/video/.*"
        r"|cli/(train_video|_video_(check|jobs|model|output)|_eval_model)"
        r"|metrics/(video|temporal|perceptual)|losses/reconstruction|ops/noise"
        r"|data/(tokens|captioned.*|clip.*|sources|crops|media))\.py",
    ),
    ("warp and other operators", r"flowwarp/(ops/.*|tensors\.py|nn\.py|precision\.py)"),
    ("kernels in C++ and CUDA", r"cuda/.*"),
    (
        "flow",
        r"flowwarp/(models/.*|losses/.*|metrics/.*|pipelines/.*|data/.*|train/(flow|fitted).*)",
    ),
    ("training loop", r"flowwarp/train/.*"),
    ("files", r"flowwarp/io/.*"),
    ("command line and web page", r"flowwarp/(cli/.*|web.*|__main__\.py)"),
    ("self-test", r"flowwarp/selftest/.*"),
    ("other", r"flowwarp/.*"),
    ("tools", r"(tools/.*|setup\.py)"),
    ("tests", r"tests/.*"),
)

# What `train-video` is about to replace; the limits hold for what replaces it.
EXEMPT = "text to video before train-video"

# Entry points that a user calls with keywords may have as many parameters as they have options.
ENTRY_POINTS = ("flowwarp/cli/*.py:command", "flowwarp/cli/*.py:*_command")


def main() -> int:
    """Print the table; return 1 if ``--check`` finds something over its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", action="store_true", help="print each file, too")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is exceeded")
    arguments = parser.parse_args()

    sizes = {path: len(code_lines(path)) for path in source_files()}
    totals: Counter[str] = Counter()
    for path, size in sizes.items():
        totals[area_of(path)] += size
        if arguments.files:
            print(f"{size:6,}  {path}")
    for area, _ in AREAS:
        print(f"{totals[area]:7,}  {area}")
    print(f"{totals.total():7,}  in all")

    if not arguments.check:
        return 0
    faults = list(over_limits(sizes))
    for fault in faults:
        print(fault, file=sys.stderr)
    return int(bool(faults))


def source_files() -> list[str]:
    """Return the Python, C++ and CUDA files that git tracks, relative to the root."""
    command = ["git", "ls-files", "*.py", "*.cpp", "*.cu", "*.h"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.splitlines() if (ROOT / path).is_file()]


def area_of(path: str) -> str:
    """Return the one area that a file belongs to.

    Raises:
        ValueError: no pattern matches it.
    """
    for area, pattern in AREAS:
        if re.fullmatch(pattern, path):
            return area
    raise ValueError(f"{path} belongs to no area: add it to AREAS in {__file__}")


def code_lines(path: str) -> set[int]:
    """Return the numbers of the lines that hold code."""
    source = (ROOT / path).read_text(encoding="utf-8")
    return _python_lines(source) if path.endswith(".py") else _c_lines(source)


def _python_lines(source: str) -> set[int]:
    layout = (
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
        *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
    )
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(_lines_of(node.body[0]))
    return lines


def _lines_of(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _c_lines(source: str) -> set[int]:
    """Return the lines of C++ that are left when comments become blanks."""

    def blank(match: re.Match[str]) -> str:
        text = match[0]
        return text if text[0] in "\"'" else "\n" * text.count("\n")

    literal_or_comment = r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*|/\*.*?\*/'
    code = re.sub(literal_or_comment, blank, source, flags=re.DOTALL)
    return {number for number, line in enumerate(code.splitlines(), 1) if line.strip()}


def over_limits(sizes: dict[str, int]) -> Iterator[str]:
    """Yield a line for each file, function and signature that is over its limit."""
    for path, size in sizes.items():
        if area_of(_subject(path)) == EXEMPT:
            continue
        if size > MOST_IN_FILE:
            yield f"{path}: {size} lines of code, at most {MOST_IN_FILE}"
        if path.endswith(".py") and not path.startswith("tests/"):
            yield from _long_functions(path)


def _subject(path: str) -> str:
    """Return the module that a test file is for, of any other file the file itself."""
    tested = re.sub(r"^tests/(.*/)?test_(\w+)\.py$", r"flowwarp/\1\2.py", path)
    return tested if tested.startswith("flowwarp/") else path


def _long_functions(path: str) -> Iterator[str]:
    lines = code_lines(path)
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        place = f"{path}:{node.lineno} {node.name}"
        size = len(lines.intersection(_lines_of(node)))
        if size > MOST_IN_FUNCTION:
            yield f"{place}: {size} lines of code, at most {MOST_IN_FUNCTION}"
        count = _parameters(node)
        if count > MOST_PARAMETERS and not is_entry_point(path, node.name):
            yield f"{place}: {count} parameters, at most {MOST_PARAMETERS}"


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count parameters without ``self`` and ``cls``."""
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def is_entry_point(path: str, name: str) -> bool:
    """Say whether a function is one of ``ENTRY_POINTS``."""
    return any(fnmatch(f"{path}:{name}", pattern) for pattern in ENTRY_POINTS)


if __name__ == "__main__":
    sys.exit(main())
