"""The folder of a training run: its lock, states, weights, metrics and pictures.

``state-00001200.safetensors`` holds all that step 1200 needs to go on (network, optimiser, average,
counters) in *one* file, written beside its predecessor and renamed: whenever the process dies,
the newest state is whole. The other files are made from it or made again on resuming.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, fields
from io import FileIO
from pathlib import Path
from typing import Any, Literal, final

from torch import Tensor

from flowwarp.errors import InputError, OutputError
from flowwarp.io.atomic import atomic_output, remove_abandoned, sync_folder
from flowwarp.io.checkpoints import load_tensors, save_tensors
from flowwarp.io.files import check_regular, is_writable, nearest, reason
from flowwarp.io.locks import lock
from flowwarp.train.settings import to_toml

Resume = Literal["never", "auto", "changed"]

CONFIG, METRICS, SAMPLES = "config.toml", "metrics.jsonl", "samples"
LAST, BEST = "last.safetensors", "best.safetensors"
_FORMAT = "flowwarp-state-1"
_STATES = "state-*.safetensors"  # not those that were broken and are set aside


@dataclass(frozen=True)
class State:
    """What a run needs to go on after a step."""

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]  # JSON: counters, the best so far, the machine


@final
class Run:
    """An open run: this process has its lock.

    Args:
        folder: where it is.
        keep: how many states to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self.validation_changed = False  # what was measured before was another thing
        self._metrics: FileIO | None = None

    def newest_state(self, warn: Callable[[str], None]) -> State | None:
        """Return the newest state that is whole; a broken one is set aside with a warning.

        Raises:
            InputError: there are states, and all are broken.
        """
        paths = self._states()
        broken: list[Path] = []
        for path in reversed(paths):
            try:
                state = _read_state(path)
            except InputError as fault:
                warn(f"{fault}; going back to the state before it")
                broken.append(path)
                continue
            for other in broken:
                other.replace(other.with_suffix(".broken"))
            return state
        if paths:
            raise InputError(self.folder, "none of its states is whole", "start another run")
        return None

    def save_state(self, state: State) -> None:
        """Write a state, then drop the oldest beyond ``keep``.

        Raises:
            OutputError: it cannot be written; those before it are untouched.
        """
        self._sync_metrics()
        path = self.folder / f"state-{state.step:08d}.safetensors"
        metadata = {"format": _FORMAT, "step": str(state.step), "facts": json.dumps(state.facts)}
        save_tensors(path, state.tensors, metadata)
        for old in self._states()[: -self.keep]:
            with suppress(OSError):
                old.unlink()

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; figures that are not finite, as JSON has none, as null.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.folder / METRICS
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        line = f"{json.dumps(finite)}\n".encode()
        try:
            if self._metrics is None:
                self._metrics = path.open("ab", buffering=0)
            if self._metrics.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as fault:
            raise OutputError(path, reason(fault), "free some space, then resume") from fault

    def rewind_metrics(self, step: int) -> None:
        """Drop what was logged after a state at ``step`` was saved.

        That is: lines of later steps, validations of this one (they come after the state), and
        whatever a crash left of a line.
        """
        path = self.folder / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_text("utf-8", "replace").splitlines(keepends=True):
            try:
                record = json.loads(line)
                after = record["step"] > step or (
                    record["step"] == step and record["split"] != "train"
                )
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            if after or not line.endswith("\n"):
                break
            kept.append(line)
        with atomic_output(path) as temporary:
            temporary.write_bytes("".join(kept).encode())

    def write_sample(self, step: int, name: str, image: Tensor) -> None:
        """Write a picture ``(3, H, W)``, 0…1, as ``samples/STEP-NAME.png``.

        Raises:
            OutputError: it cannot be written.
        """
        from flowwarp.io.images import write_image

        _make_folder(self.folder / SAMPLES)
        write_image(self.folder / SAMPLES / f"{step:08d}-{name}.png", image.float().cpu())

    def close(self) -> None:
        """Close metrics.jsonl."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def write_config(self, configs: Mapping[str, Any]) -> None:
        """Write config.toml: what the run is trained with from now on.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_output(self.folder / CONFIG) as temporary:
            temporary.write_bytes(_to_text(configs).encode())

    def _sync_metrics(self) -> None:
        if self._metrics is None:
            return
        try:
            os.fsync(self._metrics.fileno())
        except OSError as fault:
            raise OutputError(self.folder / METRICS, reason(fault)) from fault

    def _states(self) -> list[Path]:
        # Longer names last: eight digits are the least that a number has.
        return sorted(self.folder.glob(_STATES), key=lambda path: (len(path.name), path.name))


@contextmanager
def open_run(
    folder: str | Path,
    configs: Mapping[str, Any],
    *,
    resume: Resume = "never",
    keep: int = 2,
    free: frozenset[str] = frozenset(),
) -> Iterator[Run]:
    """Lock a run's folder, made if need be, and check its config.toml.

    Args:
        folder: the run.
        configs: a frozen dataclass for each section.
        resume: ``never`` refuses a folder that holds a run; ``auto`` continues it if it is there;
            ``changed`` does so even where the configuration is another.
        keep: how many states to keep.
        free: keys (``section.key``) that may change on resuming, as the result does not hang on
            them.

    Raises:
        Locked: another process trains this run.
        InputError: it cannot be resumed with this configuration; the first key is named. Or it has
            weights alone, which beginning anew would write over.
        OutputError: the folder cannot be made, or holds a run that was not to be resumed, or files
            of another program that would be written over, or links to such.
    """
    folder = Path(folder)
    _make_folder(folder)
    _refuse_links(folder)
    with lock(folder, "another process trains this run", "wait for it, or name another run"):
        for part in (folder, folder / SAMPLES):  # no folder of another run, which may be writing
            for left in part.glob(".flowwarp-*"):  # of a process that was killed in a write
                remove_abandoned(left)
        if resume == "never":
            refuse_run(folder)
        begun = _is_begun(folder)
        for name in (CONFIG, METRICS):
            check_regular(folder / name)
        _refuse_foreign(folder)
        run = Run(folder, keep)
        if begun:
            run.validation_changed = _check_configs(folder / CONFIG, configs, free, resume)
        try:
            yield run
        finally:
            run.close()


def _refuse_links(folder: Path) -> None:
    """Refuse a run with a file that would be written elsewhere; its folder itself may be a link.

    Raises:
        OutputError: there is one.
    """
    home = folder.resolve()
    names = (folder / name for name in (".lock", CONFIG, METRICS, LAST, BEST, SAMPLES))
    for path in (*names, *folder.glob(f"{SAMPLES}/*.png")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
            raise OutputError(path, "is a link that leads out of the run", "remove it")


def refuse_run(folder: str | Path) -> None:
    """Refuse a folder that holds states or weights of a run.

    Raises:
        OutputError: so it does, or it cannot be looked at.
    """
    folder = Path(folder)
    try:
        holds = any(folder.glob("state-*")) or _has_weights(folder)
    except OSError as fault:  # a name that is too long
        raise OutputError(folder, reason(fault)) from fault
    if holds:
        raise OutputError(
            folder, "holds a run already", "resume it (--resume auto), or name another"
        )


def _is_begun(folder: Path) -> bool:
    """Say whether a run has states to go on from.

    Raises:
        InputError: it has none, but weights, which beginning anew would write over.
    """
    begun = any(folder.glob(_STATES))
    if _has_weights(folder) and not begun:
        problem = "has weights, but no state to go on from"
        raise InputError(folder, problem, "begin another run with them (--start)")
    return begun


def _has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for name in (LAST, BEST))


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder whose config.toml or metrics.jsonl no run has written.

    Raises:
        OutputError: it is one.
    """
    configured = (folder / CONFIG).exists()
    if any(folder.glob("state-*")):
        return
    if not configured and (folder / METRICS).exists():
        raise OutputError(folder / METRICS, "is no run's of ours", "name another folder")
    if not configured:
        return
    try:
        ours = "loop" in tomllib.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        ours = False
    if not ours:
        raise OutputError(folder / CONFIG, "is no run's of ours", "name another folder")


def check_writable(folder: str | Path) -> None:
    """Refuse a folder where nothing can be written, before what takes long; writes nothing itself.

    Raises:
        OutputError: so it is, or it cannot be looked at.
    """
    try:
        existing = nearest(folder)
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault
    if not existing.is_dir():
        raise OutputError(existing, "is a file, not a folder")
    if not is_writable(existing):
        raise OutputError(folder, "read-only, or no permission to write there")


def check_settings(
    folder: str | Path, configs: Mapping[str, Any], free: frozenset[str], resume: Resume
) -> None:
    """Refuse what :func:`open_run` would of some sections, before what takes long.

    Args:
        folder: the run, if there is one.
        configs: a frozen dataclass for each section that is known by now.
        free: see :func:`open_run`.
        resume: likewise.

    Raises:
        InputError: the run cannot be resumed with this configuration; the first key is named.
        OutputError: its config.toml is no file.
    """
    folder = Path(folder)
    if resume == "never":  # that is refused where there is anything
        return
    begun = _is_begun(folder)
    if begun and resume == "auto":
        check_regular(folder / CONFIG)
        _check_configs(folder / CONFIG, configs, free, resume)


def begun_with(folder: str | Path, section: str, name: str) -> Any:
    """Return what a run's config.toml says of one setting; None where there is none to read."""
    path = Path(folder) / CONFIG
    try:
        check_regular(path)
        values = tomllib.loads(path.read_text("utf-8"))[section]
    except (OSError, ValueError, RecursionError, KeyError):  # opening the run will say so
        return None
    return values.get(name) if isinstance(values, dict) else None


def _check_configs(
    path: Path, configs: Mapping[str, Any], free: frozenset[str], resume: Resume
) -> bool:
    """Refuse to continue under another configuration, but where it was changed on purpose.

    Returns:
        Whether what validations measure may have changed: a setting that is not the loop's, or the
        seed.

    Raises:
        InputError: the first key that differs.
    """
    try:
        before = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        if resume == "changed":
            return True
        raise InputError(path, f"cannot be read ({fault})") from fault
    anew = False
    for section, values in tomllib.loads(_to_text(configs)).items():
        kept = before.get(section)
        kept = kept if isinstance(kept, dict) else {}
        for name in dict.fromkeys([*values, *kept]):
            key, old, new = f"{section}.{name}", kept.get(name), values.get(name)
            if old == new or key in free:
                continue
            if kept and name not in kept and new == _default(configs[section], name):
                continue  # a run of before there was such a setting
            if resume == "auto":
                raise InputError(
                    path,
                    f"{key} is {old!r} in this run, not {new!r}",
                    "give the old value, name another run, or change it for good "
                    "(--resume changed)",
                )
            anew |= section != "loop" or name == "seed"  # which says what is held out
    return anew


def _to_text(configs: Mapping[str, Any]) -> str:
    r"""Return config.toml, in which a byte of a path that is not UTF-8 stands as ``\\udcff``.

    TOML has no form of its own for what Python makes of one, a lone surrogate.
    """
    return re.sub("[\ud800-\udfff]", lambda lone: rf"\\u{ord(lone[0]):04x}", to_toml(configs))


def _default(config: Any, name: str) -> Any:
    """Return what a setting is where nobody says it; None if it has to be said."""
    found = [item.default for item in fields(config) if item.name == name]
    if found in ([], [MISSING]):
        return None
    return list(found[0]) if isinstance(found[0], tuple) else found[0]  # as TOML has it


def _read_state(path: Path) -> State:
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise InputError(path, "is not a training state of this version")
    try:
        step = int(metadata["step"])
        if step < 0:
            raise ValueError(f"step {step}")
        return State(step, tensors, json.loads(metadata["facts"]))
    except (KeyError, ValueError, RecursionError) as fault:
        raise InputError(path, f"its facts are broken ({fault})") from fault


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except FileExistsError as fault:
        raise OutputError(folder, "is a file, not a folder") from fault
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault
