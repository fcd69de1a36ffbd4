"""The folder of ``train-video``: its lock, and whether a run may begin or go on in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from flowwarp.errors import InputError, OutputError
from flowwarp.io.files import reason
from flowwarp.io.locks import lock
from flowwarp.pipelines.video.load import MODEL
from flowwarp.train.processes import is_first
from flowwarp.train.runs import check_writable, refuse_run
from flowwarp.train.video_plan import STAGES, Plan, read_plan

HOURS, SEED, PRESET = 1.0, 0, "own"


def choose_plan(
    folder: str | Path,
    resume: Literal["auto", "never"],
    *,
    hours: float | None = None,
    seed: int | None = None,
    preset: str | None = None,
    mirror: bool | None = None,
) -> Plan:
    """Return the plan of the run in a folder, or a new one; nothing is written.

    A plan that somebody wrote to the folder before the run began is followed as well.

    Args:
        folder: of the run.
        resume: ``never`` refuses a folder that holds a run.
        hours: wall time; None for that of the plan in the folder, or else one hour.
        seed: likewise; else 0.
        preset: likewise; else ``own``.
        mirror: likewise; else False.

    Raises:
        InputError: the plan is broken, or differs from what is asked for.
        OutputError: the folder holds a run and ``resume`` is ``never``, or cannot be written to.
    """
    folder = Path(folder)
    check_writable(folder)
    if resume == "never":
        _refuse(folder)
    plan = read_plan(folder)
    if plan is None:
        return Plan(
            HOURS if hours is None else hours,
            SEED if seed is None else seed,
            preset or PRESET,
            mirror=bool(mirror),
        )
    given = {"hours": hours, "seed": seed, "preset": preset, "mirror": mirror}
    for name, asked in given.items():
        planned = getattr(plan, name)
        if asked is not None and asked != planned:
            problem = f"{name} is {planned} in this run, not {asked}"
            raise InputError(folder, problem, "leave it out, or name another run")
    return plan


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Make the folder of a run and lock it; of several processes the first does.

    Raises:
        Locked: another process trains this run.
        OutputError: the folder cannot be made or locked.
    """
    if not is_first():
        yield
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault
    with lock(folder, "another process trains this run", "wait for it, or name another run"):
        yield


def _refuse(folder: Path) -> None:
    """Refuse a folder that holds a stage or a model.

    Raises:
        OutputError: it does.
    """
    refuse_run(folder)  # of another trainer
    if (folder / MODEL).exists() or any((folder / stage).exists() for stage in STAGES):
        raise OutputError(
            folder, "holds a run already", "resume it (--resume auto), or name another"
        )
