"""Run every command on broken and hostile input, and on unusual input that is valid.

    python tools/hostile.py                 all cases, as a table
    python tools/hostile.py --only weights  cases with a word in their name

The cases are in ``hostile_cases/``. Each runs in a folder of its own, which holds valid files of
every kind and the broken one. It must end with its exit code and one line on stderr that begins
with "flowwarp: ", without a traceback. A command that fails must leave the folder unchanged, also
with ``--overwrite`` and an old result. It has ten seconds of CPU time and 1.5 GiB of memory. The
last line printed is JSON; the exit code is 1 if a case failed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch

from flowwarp.cli import main as flowwarp
from hostile_cases import (
    captions,
    flow_files,
    folders,
    layers,
    names,
    pictures,
    runs,
    settings,
    train_video,
    valid_calls,
    videos,
    weights,
)
from hostile_cases.case import EXECUTED, Case
from hostile_cases.valid_files import write_valid_files

SECONDS, BYTES = 10.0, 3 * 2**29


def cases() -> list[Case]:
    """Return all cases."""
    makers = (
        valid_calls.cases, flow_files.cases, pictures.broken, pictures.unusual, videos.cases,
        weights.cases, settings.recipes, settings.configurations, settings.numbers,
        captions.captions, captions.prompts, captions.lists, folders.cases, names.strange,
        names.too_long, runs.cases, layers.cases, train_video.cases,
    )  # fmt: skip
    found = [case for maker in makers for case in maker()]
    assert len({case.name for case in found}) == len(found), "two cases have the same name"
    return found


@dataclass
class Finding:
    """The result of a case.

    Args:
        code: the exit code.
        line: the last line on stderr.
        faults: what differs from what the case expects.
        seconds: of both runs together.
    """

    code: int
    line: str
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def perform(case: Case, valid: Path, folder: Path) -> Finding:
    """Run a case in a new folder, which gets a copy of the files in ``valid``."""
    started = time.perf_counter()
    shutil.copytree(valid, folder, dirs_exist_ok=True)
    with contextlib.chdir(folder), environment(folder.parent / f"{folder.name}-cache"):
        case.prepare(folder)
        finding = _run(case, case.words)
        target = _target(case)
        if not finding.faults and case.code in (3, 4) and target and not os.path.lexists(target):
            with contextlib.suppress(OSError, ValueError):  # a name that no file can have
                target.write_bytes(b"precious")
            again = _run(case, [*case.words, "--overwrite"])
            finding.faults += [f"{fault} (--overwrite)" for fault in again.faults]
    finding.seconds = time.perf_counter() - started
    return finding


def _target(case: Case) -> Path | None:
    """Return the file that a call would write, if an older file could have that name."""
    if "-o" not in case.words:
        return None
    path = Path(case.words[case.words.index("-o") + 1])
    return path if path.suffix and path.parent.is_dir() else None


def _run(case: Case, call: Sequence[str]) -> Finding:
    before = _snapshot(case)
    code, out, err = capture(call)
    after = _snapshot(case)
    lines = err.splitlines()
    finding = Finding(code, lines[-1] if lines else "")
    if code != case.code:
        finding.faults.append(f"exit {code}, not {case.code}")
    elif case.message not in finding.line:
        finding.faults.append(f"does not say {case.message!r}")
    if "Traceback" in err:
        finding.faults.append("traceback")
        finding.line = next((x for x in reversed(lines) if not x.startswith("flowwarp")), "")
    finding.faults += _stderr_faults(case, call, lines)
    if Path(EXECUTED).exists():
        finding.faults.append("executed code")
    if case.code and code == case.code and before != after:
        changed = sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        )
        finding.faults.append(f"changed {', '.join(changed)[:80]}")
    if code == case.code and case.check is not None and not case.check(Path.cwd(), out):
        finding.faults.append("wrong result")
    return finding


def _stderr_faults(case: Case, call: Sequence[str], lines: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the number and kind of lines on stderr."""
    messages = [line for line in lines if line.startswith("flowwarp: ")]
    others = [line for line in lines if not line.startswith("flowwarp: ")]
    # generate-video warns of words of a prompt that it never learned, and makes the video.
    if case.code == 0 and messages and call[0] != "generate-video":
        yield "complains"
    if case.code in (2, 3, 4, 6) and len(messages) != 1:
        yield f"{len(messages)} lines"
    if case.code == 5 and len(messages) < 2:
        yield "no list"
    # Training reports what it skips and prepares; no other command prints more than the fault.
    if others and not call[0].startswith(("train-", "datasets")) and case.code != 0:
        yield f"noise: {others[0][:60]}"


def _snapshot(case: Case) -> dict[str, str]:
    """Return the hash of each file by its name."""
    found = {}
    for path in sorted(Path().rglob("*")):
        if path.is_file() and not any(path.match(pattern) for pattern in case.writes):
            found[os.fspath(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def capture(call: Sequence[str]) -> tuple[int, str, str]:
    """Run a command line; return its exit code, stdout and stderr, with what C code prints."""
    terminal = [os.dup(1), os.dup(2)]
    sys.stdout.flush()
    sys.stderr.flush()
    texts = [
        io.TextIOWrapper(tempfile.TemporaryFile(), "utf-8", errors, write_through=True)  # noqa: SIM115
        for errors in ("strict", "backslashreplace")  # as Python opens stdout and stderr
    ]
    for number, text in enumerate(texts, start=1):
        os.dup2(text.fileno(), number)
    code: Any = 0
    handler = signal.signal(signal.SIGPROF, _alarm)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
            flowwarp(call)
    except SystemExit as stop:
        code = stop.code
    except TooSlow:
        code = "too slow"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        for number, descriptor in enumerate(terminal, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
    out, err = map(_content, texts)
    return code, out, err


def _content(text: io.TextIOWrapper) -> str:
    with cast("io.BufferedRandom", text.detach()) as buffer:
        buffer.seek(0)
        return buffer.read().decode("utf-8", "surrogateescape")


class TooSlow(BaseException):
    """Not an Exception, so that no command takes it for a fault of its input."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise TooSlow


@contextlib.contextmanager
def environment(cache: Path) -> Iterator[None]:
    """Keep prepared data out of the user's cache."""
    before = os.environ.get("FLOWWARP_CACHE_DIR")
    os.environ["FLOWWARP_CACHE_DIR"] = str(cache)
    try:
        yield
    finally:
        if before is None:
            del os.environ["FLOWWARP_CACHE_DIR"]
        else:
            os.environ["FLOWWARP_CACHE_DIR"] = before


def main() -> int:
    """Run the cases and print the result of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", metavar="WORD", help="Cases with it in their name.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    chosen = [case for case in cases() if options.only in case.name]
    bad = 0
    width = max((len(ascii(case.name)) for case in chosen), default=0)
    with tempfile.TemporaryDirectory() as work:
        valid = Path(work, "valid")
        valid.mkdir()
        write_valid_files(valid)
        for number, case in enumerate(chosen):
            finding = perform(case, valid, Path(work, str(number)))
            bad += bool(finding.faults)
            verdict = "; ".join(finding.faults) or "ok"
            line = finding.line.encode("ascii", "backslashreplace").decode()
            print(f"{case.name:{width}} {finding.code!s:>3} {verdict:8} {line[:150]}", flush=True)
            shutil.rmtree(Path(work, str(number)), ignore_errors=True)
    commands = {case.words[0] for case in chosen}
    print(json.dumps({"cases": len(chosen), "commands": len(commands), "faults": bad}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
