"""The manifest of a bulk job: a JSON line for the job and one for each finished part.

``manifest.jsonl`` is in the output folder. Its first line describes the job. A line is appended for
each part that is done or has failed, after its results are on disk. When the process is killed,
all finished parts are known; an incomplete last line is ignored. Shard i of n of a job writes
``manifest-i-of-n.jsonl`` beside the others.
"""

from __future__ import annotations

import errno
import json
import os
import reprlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, final

from flowwarp.errors import OutputError
from flowwarp.io.atomic import atomic_output, remove_abandoned
from flowwarp.io.files import check_regular, reason
from flowwarp.io.locks import lock

Shard = tuple[int, int]  # (i, n): part i of n, from 1

_SOURCE = ("source", "files")  # keys of a job: the paths that it reads, and their fingerprint

_ABANDONED = 60  # s after which a temporary file counts as abandoned; writing takes less


@final
@dataclass
class Manifest:
    """An open manifest, locked by this process.

    Args:
        path: the file.
        done: the line of each part that is done, by its key.
        fresh: whether the job begins with this call.
    """

    path: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    fresh: bool = True
    _file: FileIO | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
                if not _ends_in_newline(self.path):  # the incomplete line of a killed process
                    self._write(b"\n")
            self._write(f"{json.dumps(record)}\n".encode())
        except OSError as fault:
            raise self._fault(fault) from fault

    def close(self) -> None:
        """Flush all lines to disk.

        Raises:
            OutputError: some may be missing; their parts would be done again.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            with file:
                os.fsync(file.fileno())
        except OSError as fault:
            raise self._fault(fault) from fault

    def _fault(self, fault: OSError) -> OutputError:
        remedy = "free some space, then run the same command again"
        return OutputError(self.path, reason(fault), remedy)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def open_manifest(
    folder: Path,
    job: Mapping[str, Any],
    *,
    others: Sequence[Path] = (),
    shard: Shard | None = None,
    overwrite: bool = False,
) -> Iterator[Manifest]:
    """Lock an output folder, which is made if it is missing, and open the manifest in it.

    Args:
        folder: of the results.
        job: all that the results depend on, as JSON; ``"job"`` is the type of job. To resume, all
            values must be equal, except that one of ``"source"`` (the paths that it reads) and
            ``"files"`` (their fingerprint) is enough: files may be moved, or repaired in place.
        others: further folders of results.
        shard: the part of the job that this process does; None for all.
        overwrite: whether to begin again, whatever is there.

    Raises:
        Locked: another process does the same shard, or one whose manifest would be discarded.
        OutputError: see :func:`read_manifests`; or the folder or the manifest cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault
    suffix = "-{}-of-{}".format(*shard) if shard else ""
    path = folder / f"manifest{suffix}.jsonl"
    with ExitStack() as stack:
        # Shards begin one after the other: a manifest that is locked could not be discarded.
        shards_lock = lock(folder, "another shard begins", name=".lock-shards", wait=True)
        with shards_lock if shard else nullcontext():
            stack.enter_context(_lock_manifest(path))
            if overwrite:
                _discard(folder, path, job, alone=shard is None)
            done = read_manifests(folder, job, others=others, overwrite=overwrite)
            alone = shard is None and all(other == path for other in _manifests(folder))
            for written in (folder, *others):
                _remove_abandoned(written, alone=alone)
            if not path.exists():
                with atomic_output(path) as temporary:
                    temporary.write_bytes(f"{json.dumps(job)}\n".encode())
        manifest = Manifest(path, done or {}, done is None)
        try:
            yield manifest
        except BaseException:
            with suppress(OutputError):  # the error that ended the work is reported
                manifest.close()
            raise
        manifest.close()


def read_manifests(
    folder: Path,
    job: Mapping[str, Any],
    *,
    others: Sequence[Path] = (),
    overwrite: bool = False,
) -> dict[str, dict[str, Any]] | None:
    """Return the lines of all parts that are done, by their keys; None if there is no manifest.

    Args:
        folder: of the results, with the manifests of all shards.
        job: as for :func:`open_manifest`.
        others: further folders of results.
        overwrite: whether folders without a manifest may contain files.

    Raises:
        OutputError: the manifest is of another job; or there is none, but a folder of results
            contains files and ``overwrite`` is not set.
    """
    paths = _manifests(folder)
    if not paths:
        for written in () if overwrite else (folder, *others):
            _check_empty(written)
        return None
    done: dict[str, dict[str, Any]] = {}
    for path in paths:
        lines = _lines(path)
        _check_job(path, next(lines, {}), job)
        for record in lines:
            key = record.get("part")
            if isinstance(key, str) and record.get("status") == "done":
                done[key] = record
    return done


def find_done(
    done: Mapping[str, dict[str, Any]], about: Mapping[str, Any], paths: Sequence[Path]
) -> dict[str, Any] | None:
    """Return the line of a part that is complete; None if it must be done again.

    Args:
        done: see :func:`read_manifests`.
        about: values that its line must have: its key, as ``"part"``, and its sources.
        paths: its results, which must exist with the sizes that the line has in ``"bytes"``; if it
            has none, they must not be empty.
    """
    record = done.get(about["part"], {})
    same = all(key in record and record[key] == value for key, value in about.items())
    found = sizes(paths)
    return record if same and all(found) and record.get("bytes", found) == found else None


def sizes(paths: Sequence[Path]) -> list[int | None]:
    """Return the size of each file in bytes, or None for one that is missing."""
    return [status[0] if (status := stamp(path)) else None for path in paths]


def stamp(path: Path) -> list[int] | None:
    """Return size and time of a file, which change when it does; None if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that are complete JSON objects."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict) and line.endswith(b"\n"):
                    yield record
    except OutputError:
        raise
    except OSError as fault:
        raise OutputError(path, reason(fault)) from fault


def _check_job(path: Path, found: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    if found.get("job") != job.get("job"):
        raise OutputError(path, "is not a manifest of this command", "name another folder")
    same_source = any(key in found and found[key] == job.get(key) for key in _SOURCE)
    for key in dict.fromkeys([*job, *found]):
        if found.get(key) != job.get(key) and not (same_source and key in _SOURCE):
            old, new = reprlib.repr(found.get(key)), reprlib.repr(job.get(key))
            raise OutputError(
                path.parent,
                f"contains another job, whose {key} is {old}, not {new}",
                "name another folder, or begin again with --overwrite",
            )


def _check_empty(folder: Path) -> None:
    try:
        full = folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault
    if full:
        raise OutputError(
            folder,
            "is not empty, and contains no job to resume",
            "name another folder, or use --overwrite",
        )


def _discard(folder: Path, own: Path, job: Mapping[str, Any], *, alone: bool) -> None:
    """Remove manifests: all if this is the only process, else its own and those of other jobs.

    Raises:
        Locked: another process writes one of them.
        OutputError: one cannot be removed.
    """
    paths = [
        path for path in _manifests(folder) if alone or path == own or not _is_of_job(path, job)
    ]
    with ExitStack() as locks:  # all are locked before one is removed
        for path in paths:
            if path != own:
                locks.enter_context(_lock_manifest(path))
        for path in paths:
            try:
                path.unlink()
            except OSError as fault:
                raise OutputError(path, reason(fault)) from fault


def _is_of_job(path: Path, job: Mapping[str, Any]) -> bool:
    try:
        _check_job(path, next(_lines(path), {}), job)
    except OutputError:
        return False
    return True


def _lock_manifest(path: Path) -> AbstractContextManager[None]:
    """Lock a manifest; ``.lock-1-of-2`` is the lock of ``manifest-1-of-2.jsonl``."""
    name = f".lock{path.stem.removeprefix('manifest')}"
    return lock(path.parent, "another process works on this", "wait for it", name=name)


def _manifests(folder: Path) -> list[Path]:
    return sorted([*folder.glob("manifest.jsonl"), *folder.glob("manifest-*-of-*.jsonl")])


def _remove_abandoned(folder: Path, *, alone: bool) -> None:
    """Remove temporary files of killed processes.

    Another shard may be writing on another machine, and not every file system shares locks. Unless
    this is the only process, only old files are removed.
    """
    for path in folder.glob("**/.flowwarp-*"):
        with suppress(OSError):
            if alone or time.time() - path.stat().st_mtime > _ABANDONED:
                remove_abandoned(path)


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
