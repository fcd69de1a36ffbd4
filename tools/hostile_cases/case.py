"""A case: one call of a command and how it must end; and arguments that many cases share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HEIGHT, WIDTH = 24, 32  # of the valid pictures, in pixels
EXECUTED = "executed"  # the folder that code in a file would make

NET = "--weights net.safetensors --quality fast"
EVAL_VIDEO = "eval-video --part upsampler --clips 1 --no-held-out"
VIDEO_NETS = "--gpt gpt.safetensors --dvae dvae.safetensors --no-upsampler"
DVAE = "--dvae dvae.safetensors"
WRITER = f"{DVAE} --gpt gpt.safetensors"
PAIR = "pairs/set/one"  # the valid pair with known flow
HUGE = 2**31 - 1

Prepare = Callable[[Path], object]  # writes the files of a case into its folder
NOTHING: Prepare = lambda folder: None  # noqa: E731


@dataclass(frozen=True)
class Case:
    """One call of a command.

    Args:
        name: kind of fault, then the fault.
        call: the arguments, as a list or as one text; ``-o`` with a file name means a second run
            with ``--overwrite``.
        prepare: writes what the folder holds besides the valid files.
        code: expected exit code.
        check: whether the result of a successful call is right, given the folder and stdout.
        writes: patterns of file names that the command may write although it fails.
        message: text that the last line on stderr must contain.
    """

    name: str
    call: str | Sequence[str]
    prepare: Prepare = NOTHING
    code: int = 3
    check: Callable[[Path, str], bool] | None = None
    writes: Sequence[str] = ()
    message: str = ""

    @property
    def words(self) -> list[str]:
        """The arguments."""
        return self.call.split() if isinstance(self.call, str) else list(self.call)


def train(command: str, data: str, more: str = "") -> str:
    """Return a call that trains a very small network for one step."""
    sets = {
        "train-flow": "height=64 width=64 margin=8 student_margin=8 fitted_pairs=0",
        "train-dvae": "size=16 frames=4 validation=1 widths=8,16,32",
        "train-gpt": "clips=2 checked=1 data.size=16 data.frames=4",
        "train-captioner": "clips=2 checked=1 model.size=16 length=8",
        "train-upsampler": "data.size=32 length=4 frames=2",
        "train-reviser": "clips=2 checked=1 size=16 length=8 groups=1 model.widths=8,16",
    }[command]
    settings = " ".join(f"--set {item}" for item in f"{sets} batch_size=2".split())
    return f"{command} {data} --preset tiny --steps 1 --run runs/x {settings} {more}"
