"""The manifest of a bulk job: what it is and what became of each of its parts, a line each.

``manifest.jsonl`` lies in the output folder. Its first line is the job, the others are only ever
added: one for each part that is done or has failed, after its results are on disk. Whenever the
process dies, all that was finished is known, and at most the last line is half and ignored.
A job can be shared out: shard i of n then writes ``manifest-i-of-n.jsonl`` beside the others.
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

Shard = tuple[int, int]  # the i-th of n, from 1

_SOURCE = ("source", "files")  # of a job: where what it reads lies, and what that is

_ABANDONED = 60  # s; no file takes that long to be written


@final
@dataclass
class Manifest:
    """An open manifest: this process has its lock.

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
                if not _ends_in_newline(self.path):  # half a line, of a process that was killed
                    self._write(b"\n")
            self._write(f"{json.dumps(record)}\n".encode())
        except OSError as fault:
            raise self._fault(fault) from fault

    def close(self) -> None:
        """Bring all lines to disk.

        Raises:
            OutputError: they may not all be there; what is missing would be done again.
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
    """Lock an output folder, made if need be, and open the manifest in it.

    Args:
        folder: where the results go.
        job: what they depend on; JSON, with its kind as ``"job"``. Of ``"source"``, where what it
            reads lies, and ``"files"``, what that is, one must be the same for it to be gone on
            with: what was moved is the same files, what was repaired is in the same place.
        others: folders that results go into as well.
        shard: which part of the job this process does.
        overwrite: begin again, whatever is there.

    Raises:
        Locked: another process does the same part, or one whose manifest was to be discarded.
        OutputError: see :func:`read_manifests`; or the folder cannot be written, or the manifest
            not be brought to disk in the end.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault
    suffix = "-{}-of-{}".format(*shard) if shard else ""
    path = folder / f"manifest{suffix}.jsonl"
    with ExitStack() as stack:
        # One shard after the other, as what one holds from here on, another could not discard.
        turn = lock(folder, "another shard begins", name=".lock-shards", wait=True)
        with turn if shard else nullcontext():
            stack.enter_context(_locked(path))
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
            with suppress(OutputError):  # what ended the work is what is to be told
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
    """Return the lines of what is done in a folder, by all shards; None if nothing was begun.

    Raises:
        OutputError: the folder holds another job; or there is no manifest, but a folder of results
            holds files and ``overwrite`` is off.
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
    """Return the line of a part that need not be done again; None if it has to be.

    Args:
        done: see :func:`read_manifests`.
        about: what its line must say: its key, as ``"part"``, and what it is made from.
        paths: its results, which must still be there, as long as its line says in ``"bytes"``; of
            one that does not say, they must not be empty.
    """
    record = done.get(about["part"], {})
    same = all(key in record and record[key] == value for key, value in about.items())
    found = sizes(paths)
    return record if same and all(found) and record.get("bytes", found) == found else None


def sizes(paths: Sequence[Path]) -> list[int | None]:
    """Return the bytes of each result, as ``"bytes"`` of a line; None for one that is not there."""
    return [status[0] if (status := stamp(path)) else None for path in paths]


def stamp(path: Path) -> list[int] | None:
    """Return what changes when a file does; None if there is none, which reading it will say."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that are whole."""
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
        raise OutputError(path, "is no manifest of this command", "name another folder")
    same_source = any(key in found and found[key] == job.get(key) for key in _SOURCE)
    for key in dict.fromkeys([*job, *found]):
        if found.get(key) != job.get(key) and not (same_source and key in _SOURCE):
            old, new = reprlib.repr(found.get(key)), reprlib.repr(job.get(key))
            raise OutputError(
                path.parent,
                f"holds another job, whose {key} is {old}, not {new}",
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
            "is not empty, and holds no job to go on with",
            "name another folder, or use --overwrite",
        )


def _discard(folder: Path, own: Path, job: Mapping[str, Any], *, alone: bool) -> None:
    """Remove manifests: all, or, where there are other shards, the own one and another job's.

    Raises:
        Locked: another process writes one of them.
        OutputError: one cannot be removed.
    """
    paths = [
        path for path in _manifests(folder) if alone or path == own or not _is_of_job(path, job)
    ]
    with ExitStack() as held:  # all, before any of them goes
        for path in paths:
            if path != own:
                held.enter_context(_locked(path))
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


def _locked(path: Path) -> AbstractContextManager[None]:
    """Hold a manifest: ``.lock-1-of-2`` is that of ``manifest-1-of-2.jsonl``."""
    name = f".lock{path.stem.removeprefix('manifest')}"
    return lock(path.parent, "another process works on this", "wait for it", name=name)


def _manifests(folder: Path) -> list[Path]:
    return sorted([*folder.glob("manifest.jsonl"), *folder.glob("manifest-*-of-*.jsonl")])


def _remove_abandoned(folder: Path, *, alone: bool) -> None:
    """Remove what a killed process left of a write.

    Another shard may be in one on another machine, whose locks not every file system shows.
    """
    for path in folder.glob("**/.flowwarp-*"):
        with suppress(OSError):
            if alone or time.time() - path.stat().st_mtime > _ABANDONED:
                remove_abandoned(path)


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
