"""The folder of a training run: its lock, states, weights, metrics and pictures.

``state-00001200.safetensors`` holds all that is needed to continue after step 1200 (network,
optimiser, average, counters) in *one* file, written under another name and renamed. So whenever the
process dies, the newest state is intact. The other files follow from it, and are written again on
resuming.
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
from flowwarp.io.files import check_regular, is_writable, nearest_existing, reason
from flowwarp.io.locks import lock
from flowwarp.train.settings import to_toml

Resume = Literal["never", "auto", "changed"]

CONFIG, METRICS, SAMPLES = "config.toml", "metrics.jsonl", "samples"
LAST, BEST = "last.safetensors", "best.safetensors"
_FORMAT = "flowwarp-state-1"
_STATES = "state-*.safetensors"  # broken ones are renamed to .broken


@dataclass(frozen=True)
class State:
    """The data that a run needs to continue after a step."""

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]  # JSON: counters, the best figure, the machine


@final
class Run:
    """An open run: this process holds its lock.

    Args:
        folder: the run's folder.
        keep: number of states to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self.validation_changed = False  # whether earlier validation figures are not comparable
        self._metrics: FileIO | None = None

    def newest_state(self, warn: Callable[[str], None]) -> State | None:
        """Return the newest intact state; broken ones are renamed, with a warning.

        Raises:
            InputError: all states are broken.
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
            raise InputError(self.folder, "all of its states are broken", "start another run")
        return None

    def save_state(self, state: State) -> None:
        """Write a state, then drop the oldest beyond ``keep``.

        Raises:
            OutputError: it cannot be written; earlier states are untouched.
        """
        self._sync_metrics()
        path = self.folder / f"state-{state.step:08d}.safetensors"
        metadata = {"format": _FORMAT, "step": str(state.step), "facts": json.dumps(state.facts)}
        save_tensors(path, state.tensors, metadata)
        for old in self._states()[: -self.keep]:
            with suppress(OSError):
                old.unlink()

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; figures that are not finite become null.

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

        That is: lines of later steps, validations of this step (they come after the state), and
        a line that a crash cut short.
        """
        path = self.folder / METRICS
        if not path.exists():
            return
        lines = []
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
            lines.append(line)
        with atomic_output(path) as temporary:
            temporary.write_bytes("".join(lines).encode())

    def write_sample(self, step: int, name: str, image: Tensor) -> Path:
        """Write a picture ``(3, H, W)`` in [0, 1] as ``samples/STEP-NAME.png``.

        Returns:
            Its path.

        Raises:
            OutputError: it cannot be written.
        """
        from flowwarp.io.images import write_image

        _make_folder(self.folder / SAMPLES)
        path = self.folder / SAMPLES / f"{step:08d}-{name}.png"
        write_image(path, image.float().cpu())
        return path

    def close(self) -> None:
        """Close metrics.jsonl."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def write_config(self, configs: Mapping[str, Any]) -> None:
        """Write config.toml: the settings of the run from now on.

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
        # Longer names last: a number has eight digits or more.
        return sorted(self.folder.glob(_STATES), key=lambda path: (len(path.name), path.name))


@contextmanager
def open_run(
    folder: str | Path,
    configs: Mapping[str, Any],
    *,
    resume: Resume = "never",
    keep: int = 2,
    may_change: frozenset[str] = frozenset(),
) -> Iterator[Run]:
    """Lock a run's folder, made if necessary, and check its config.toml.

    Args:
        folder: the run's folder.
        configs: a frozen dataclass for each section.
        resume: ``never`` refuses a folder that holds a run; ``auto`` continues a run if there is
            one; ``changed`` does so even with another configuration.
        keep: number of states to keep.
        may_change: keys (``section.key``) that may change on resuming, as the result does not
            depend on them.

    Raises:
        Locked: another process trains this run.
        InputError: it cannot be resumed with this configuration; the first key is named. Or it has
            weights but no state, and a new run would overwrite them.
        OutputError: the folder cannot be made; or it holds a run and ``resume`` is ``never``; or it
            holds another program's files that the run would overwrite, or links to such.
    """
    folder = Path(folder)
    _make_folder(folder)
    _refuse_links(folder)
    with lock(folder, "another process trains this run", "wait for it, or name another run"):
        # Remove what a process killed while writing left here and in samples/. Not further below:
        # another run there may be writing.
        for part in (folder, folder / SAMPLES):
            for left in part.glob(".flowwarp-*"):
                remove_abandoned(left)
        if resume == "never":
            refuse_run(folder)
        begun = _check_resumable(folder)
        for name in (CONFIG, METRICS):
            check_regular(folder / name)
        _refuse_foreign(folder)
        run = Run(folder, keep)
        if begun:
            run.validation_changed = _check_configs(folder / CONFIG, configs, may_change, resume)
        try:
            yield run
        finally:
            run.close()


def _refuse_links(folder: Path) -> None:
    """Refuse a run with a file that is a link out of its folder; the folder itself may be a link.

    Raises:
        OutputError: there is such a link.
    """
    home = folder.resolve()
    names = (folder / name for name in (".lock", CONFIG, METRICS, LAST, BEST, SAMPLES))
    for path in (*names, *folder.glob(f"{SAMPLES}/*.png")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
            raise OutputError(path, "is a link that leads out of the run", "remove it")


def refuse_run(folder: str | Path) -> None:
    """Refuse a folder that holds states or weights of a run.

    Raises:
        OutputError: it holds some, or it cannot be read.
    """
    folder = Path(folder)
    try:
        holds = any(folder.glob("state-*")) or _has_weights(folder)
    except OSError as fault:  # such as a name that is too long
        raise OutputError(folder, reason(fault)) from fault
    if holds:
        raise OutputError(
            folder, "holds a run already", "resume it (--resume auto), or name another"
        )


def _check_resumable(folder: Path) -> bool:
    """Return whether there are states to resume from.

    Raises:
        InputError: it has weights but no states, and a new run would overwrite them.
    """
    begun = any(folder.glob(_STATES))
    if _has_weights(folder) and not begun:
        problem = "has weights, but no state to resume from"
        raise InputError(folder, problem, "start another run from them (--start)")
    return begun


def _has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for name in (LAST, BEST))


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder whose config.toml or metrics.jsonl was not written by a run.

    Raises:
        OutputError: one of them was not.
    """
    configured = (folder / CONFIG).exists()
    if any(folder.glob("state-*")):
        return
    if not configured and (folder / METRICS).exists():
        raise OutputError(
            folder / METRICS, "was not written by a training run", "name another folder"
        )
    if not configured:
        return
    try:
        ours = "loop" in tomllib.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        ours = False
    if not ours:
        raise OutputError(
            folder / CONFIG, "was not written by a training run", "name another folder"
        )


def check_writable(folder: str | Path) -> None:
    """Refuse a folder that cannot be written to, before slow work; this writes nothing itself.

    Raises:
        OutputError: it cannot be written to, or not be read.
    """
    try:
        existing = nearest_existing(folder)
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault
    if not existing.is_dir():
        raise OutputError(existing, "is a file, not a folder")
    if not is_writable(existing):
        raise OutputError(folder, "read-only, or no permission to write there")


def check_settings(
    folder: str | Path, configs: Mapping[str, Any], may_change: frozenset[str], resume: Resume
) -> None:
    """Refuse some sections as :func:`open_run` would, before slow work.

    Args:
        folder: the run's folder, if there is one.
        configs: a frozen dataclass for each section that is known so far.
        may_change: see :func:`open_run`.
        resume: likewise.

    Raises:
        InputError: the run cannot be resumed with this configuration; the first key is named.
        OutputError: its config.toml is not a regular file.
    """
    folder = Path(folder)
    if resume == "never":  # `refuse_run` is for that
        return
    begun = _check_resumable(folder)
    if begun and resume == "auto":
        check_regular(folder / CONFIG)
        _check_configs(folder / CONFIG, configs, may_change, resume)


def saved_setting(folder: str | Path, section: str, name: str) -> Any:
    """Return one setting of a run's config.toml; None if it cannot be read."""
    path = Path(folder) / CONFIG
    try:
        check_regular(path)
        values = tomllib.loads(path.read_text("utf-8"))[section]
    except (OSError, ValueError, RecursionError, KeyError):  # opening the run will report it
        return None
    return values.get(name) if isinstance(values, dict) else None


def _check_configs(
    path: Path, configs: Mapping[str, Any], may_change: frozenset[str], resume: Resume
) -> bool:
    """Refuse to continue with another configuration, unless ``resume`` is ``changed``.

    Returns:
        Whether validation may have changed: a setting outside ``[loop]`` differs, or the seed.

    Raises:
        InputError: the first key that differs.
    """
    try:
        before = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        if resume == "changed":
            return True
        raise InputError(path, f"cannot be read ({fault})") from fault
    validation_changed = False
    for section, values in tomllib.loads(_to_text(configs)).items():
        old_values = before.get(section)
        old_values = old_values if isinstance(old_values, dict) else {}
        for name in dict.fromkeys([*values, *old_values]):
            key, old, new = f"{section}.{name}", old_values.get(name), values.get(name)
            if old == new or key in may_change:
                continue
            added = old_values and name not in old_values
            if added and new == _default(configs[section], name):
                continue  # the run is older than this setting
            if resume == "auto":
                raise InputError(
                    path,
                    f"{key} is {old!r} in this run, not {new!r}",
                    "give the old value, name another run, or change it for good "
                    "(--resume changed)",
                )
            # The seed decides which examples are held out.
            validation_changed |= section != "loop" or name == "seed"
    return validation_changed


def _to_text(configs: Mapping[str, Any]) -> str:
    r"""Return config.toml, with bytes of paths that are not UTF-8 written as ``\\udcff``.

    Python represents such a byte by a lone surrogate, for which TOML has no notation.
    """
    return re.sub("[\ud800-\udfff]", lambda lone: rf"\\u{ord(lone[0]):04x}", to_toml(configs))


def _default(config: Any, name: str) -> Any:
    """Return the default of a setting, as TOML has it; None if it has no default."""
    found = [item.default for item in fields(config) if item.name == name]
    if found in ([], [MISSING]):
        return None
    return list(found[0]) if isinstance(found[0], tuple) else found[0]


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
