"""What ``generate-video`` makes: its prompts, and where the video of each goes."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from flowwarp.cli import _paths, _video_output
from flowwarp.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_LIST = 2**24  # bytes of prompts
MOST_FRAMES = 10_000  # 14 minutes at 12 a second; more is a slip, and would take days
LONGEST_NAME = 60  # characters made of a prompt; every file system takes 143
# Names that Windows keeps for devices, whatever their extension.
_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)\d")


@dataclass(frozen=True)
class Job:
    """A prompt, and where its video goes.

    Attributes:
        prompt: on one line.
        target: a video file, or a folder of frames.
        folder: whether it is the latter.
    """

    prompt: str
    target: Path
    folder: bool


def read_prompts(prompts: Sequence[str], listed: str | None) -> list[str]:
    """Return all prompts, each on one line and once.

    Raises:
        click.UsageError: there is none.
        InputError: one is empty, or the list cannot be read or holds none.
    """
    if not prompts and listed is None:
        raise click.UsageError("say what to show: PROMPT, or --prompts FILE")
    found = [" ".join(prompt.split()) for prompt in prompts]
    if "" in found:
        raise InputError("PROMPT", "is empty", "say what the video shall show")
    if listed is not None:
        lines = [" ".join(line.split()) for line in _read_list(listed).split("\n")]
        if not any(lines):
            raise InputError(listed, "holds no prompt", "write one a line")
        found += filter(None, lines)
    return list(dict.fromkeys(found))


def _read_list(listed: str) -> str:
    from flowwarp.io.files import open_input

    if listed == "-":
        data = sys.stdin.buffer.read(LARGEST_LIST + 1)
    else:
        with open_input(listed) as (file, _):
            data = file.read(LARGEST_LIST + 1)
    if len(data) > LARGEST_LIST:
        raise InputError(listed, f"has more than {LARGEST_LIST >> 20} MB", "split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise InputError(listed, "is not a text file in UTF-8") from fault


def plan_jobs(
    prompts: Sequence[str], output: str | None, kind: str | None, *, many: bool
) -> list[Job]:
    """Say where the video of each prompt goes, and of what ``kind`` it is.

    Raises:
        click.UsageError: OUT is no name for one, or says of what kind it is.
    """
    if len(prompts) == 1 and not many:
        if output and kind:
            raise click.UsageError("--format is of several prompts; of one, OUT says it")
        target = Path(output or f"{name_of(prompts[0])}.{kind or 'mp4'}")
        return [Job(prompts[0], target, not _video_output.is_video_name(str(output or target)))]
    folder = Path(output or ".")
    if folder.suffix.lower() in _video_output.VIDEOS and not _paths.wants_folder((), output or "."):
        listed = "a list of prompts needs" if len(prompts) == 1 else "several prompts need"
        raise click.UsageError(f"{listed} a folder, but OUT is {output!r}")
    jobs, taken = [], Counter[str]()
    for prompt in prompts:
        name = base = _own_name_of(prompt)
        while taken[name]:
            taken[base] += 1
            name = f"{base}_{taken[base]}"
        taken[name] = 1
        jobs.append(Job(prompt, folder / f"{name}.{kind or 'mp4'}", False))
    return jobs


def is_there(job: Job) -> bool:
    """Return whether a video has been made: frames are put into their folder all at once."""
    if job.folder and job.target.is_dir():
        return any(job.target.iterdir())
    return os.path.lexists(job.target)


def name_of(prompt: str) -> str:
    """Return a name for a prompt's video that every file system takes, without extension.

    >>> name_of("A knight -- in PLATE armor!")
    'a_knight_in_plate_armor'
    """
    name = _spell(prompt)[:LONGEST_NAME].rstrip("_")
    if not name or _DEVICES.fullmatch(name):
        return f"video_{name}".rstrip("_")
    return name


def _own_name_of(prompt: str) -> str:
    """Return a name that tells a prompt from others, wherever in a list it stands.

    Where it cannot have all letters, a number stands for the prompt: what was made of another one
    shall not pass for its video.
    """
    name, letters = name_of(prompt), unicodedata.normalize("NFKD", prompt)
    spelt = "".join(letter for letter in letters.lower() if letter.isalnum())
    if spelt and spelt == _spell(prompt).replace("_", "") and len(_spell(prompt)) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9].rstrip('_')}_{digest}"


def _spell(prompt: str) -> str:
    """Return the words of a prompt, or of the beginning of a long one, in plain letters."""
    plain = unicodedata.normalize("NFKD", prompt[: 4 * LONGEST_NAME])
    return "_".join(re.findall(r"[a-z0-9]+", plain.encode("ascii", "ignore").decode().lower()))


def shown(prompt: str) -> str:
    """Return a prompt as messages name it."""
    return repr(prompt if len(prompt) <= LONGEST_NAME else f"{prompt[:LONGEST_NAME]}…")


def over_gray(image: Tensor) -> Tensor:
    """Lay a picture (4, H, W) over gray, so that nothing shows that nobody could see."""
    return image[:3] * image[3:] + (1 - image[3:]) * 0.5


def say(line: str) -> None:
    """Print a line for the user on stderr."""
    click.echo(f"flowwarp: {line}", err=True)


def given_options() -> dict[str, Any]:
    """Return the options of the command line that were given, by name."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def refuse_options(refused: Collection[str], given: Mapping[str, Any]) -> None:
    """Refuse options of the package's weights beside a model of train-video.

    Raises:
        click.UsageError: one is given.
    """
    context = click.get_current_context()
    names = sorted(
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in given and parameter.name in refused
    )
    if names:
        raise click.UsageError(f"{', '.join(names)}: not with --weights, a model of train-video")
