"""Which files a command reads and writes: folders and globs in, names, refusals and folders out."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import click

from flowwarp.errors import InputError, OutputError
from flowwarp.io.file_types import (
    FLOW_EXTENSIONS,
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    kind_of,
    list_folder,
    natural_order,
)
from flowwarp.io.files import folded, is_writable, nearest, reason

_PICTURES = ("flow", "arrows", "error")  # what names of pictures end in that `show` makes


def expand_inputs(inputs: Sequence[str], extensions: frozenset[str]) -> list[Path]:
    """Turn files, folders and globs into files, in order, each once.

    A folder gives its files of the kinds ``extensions``, ``frame2`` before ``frame10``, without
    those in folders below; so does a glob. A file is taken as it is, whatever its extension, so
    that reading it says what is wrong with it.

    Raises:
        InputError: a folder or glob without such a file.
    """
    found: dict[Path, None] = {}
    for name in inputs:
        path = Path(name)
        if is_folder(name):
            files = list_folder(path, extensions)
        elif is_glob(name):
            files = [file for file in expand_glob(name) if kind_of(file) in extensions]
        else:
            files = [path]
        if not files:
            remedy = f"known are {', '.join(sorted(extensions))}"
            within = str(Path(glob.escape(name), "*")) if is_folder(name) else name
            if folders := expand_folders(within):  # as `flow` makes of several clips
                remedy += f"; give one of its folders, such as {folders[0]}"
            raise InputError(name, "no file here can be read", remedy)
        found.update(dict.fromkeys(files))
    return list(found)


def expand_flows(inputs: Sequence[str]) -> list[Path]:
    """Turn files, folders and globs into flow files, as ``expand_inputs`` does.

    Of a folder or glob, pictures that `show` put beside their flow are left out. Their name alone
    does not make them that: flow may have it too, and would be lost.

    Raises:
        InputError: likewise.
    """
    from flowwarp.io._png import peek_header

    found = expand_inputs(inputs, FLOW_EXTENSIONS)
    beside = {name_beside(path, tag, ".png") for path in found for tag in _PICTURES}
    headers = {path: peek_header(path) for path in beside.intersection(found)}
    pictures = {path for path, header in headers.items() if header and not header.is_flow}
    return [path for path in found if path not in pictures.difference(map(Path, inputs))]


def expand_glob(pattern: str) -> list[Path]:
    """Return what a pattern matches, ``frame2`` before ``frame10``."""
    matches = glob.glob(pattern)  # noqa: PTH207 - absolute
    return [Path(match) for match in sorted(matches, key=natural_order)]


def expand_clips(pattern: str) -> list[Path]:
    """Return the folders, pictures and videos that a pattern matches."""
    known = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    return [path for path in expand_glob(pattern) if path.is_dir() or path.suffix.lower() in known]


def expand_folders(pattern: str) -> list[Path]:
    """Return the folders that a pattern matches."""
    return [path for path in expand_glob(pattern) if path.is_dir()]


def expand_patterns(names: Sequence[str], expand: Callable[[str], list[Path]]) -> list[Path]:
    """Return names with the patterns among them expanded.

    Raises:
        InputError: a pattern matches nothing.
    """
    found: list[Path] = []
    for name in names:
        paths = expand(name) if is_glob(name) else [Path(name)]
        if not paths:
            raise InputError(name, "matches nothing that can be read here")
        found += paths
    return found


def wants_folder(inputs: Sequence[str], output: str) -> bool:
    """Return whether results go into the folder ``output`` rather than into one file of that name.

    So it is when there can be several inputs, or ``output`` is a folder or ends in a slash.
    """
    several = len(inputs) > 1 or any(is_folder(name) or is_glob(name) for name in inputs)
    return several or output.endswith(("/", os.sep)) or is_folder(output)


def check_folder_name(name: str, problem: str) -> None:
    """Refuse what names a file where a folder is meant, unless there is such a folder.

    Args:
        name: what a user gave.
        problem: what to say of it.

    Raises:
        click.UsageError: it does.
    """
    kind = Path(name).suffix.lower()
    known = FLOW_EXTENSIONS | IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    if kind in known and not wants_folder((), name):
        raise click.UsageError(f"{problem} {name!r}")


def name_outputs(sources: Sequence[Path], folder: Path, extension: str) -> list[Path]:
    """Name a result in ``folder`` for each source, with the source's stem.

    Raises:
        OutputError: two sources would get the same name.
    """
    return name_apart(sources, lambda source: folder / f"{source.stem}{extension}")


def name_apart(sources: Sequence[Path], name: Callable[[Path], Path]) -> list[Path]:
    """Name a result for each source.

    Raises:
        OutputError: two sources would get the same name.
    """
    named: dict[str, Path] = {}
    targets: list[Path] = []
    for source in sources:
        target = name(source)
        key = folded(target)
        if key in named:
            raise OutputError(
                target,
                f"is wanted by both {named[key]} and {source}",
                "give each a run of its own",
            )
        named[key] = source
        targets.append(target)
    return targets


def name_beside(source: Path, tag: str, extension: str | None = None) -> Path:
    """Name a result beside its source: ``image.png`` and ``warped`` give ``image_warped.png``."""
    return source.with_name(f"{source.stem}_{tag}{extension or source.suffix}")


def name_folder_beside(source: Path, tag: str) -> Path:
    """Name a result beside a folder, also if that is given as ``.`` or ``..``.

    Raises:
        click.UsageError: it is the root of all.
    """
    source = source if source.name not in ("", "..") else source.resolve()
    if not source.name:
        raise click.UsageError(f"say -o FOLDER when the frames are in {source}")
    return source.with_name(f"{source.name}_{tag}")


def real_names(files: Iterable[str | Path]) -> dict[str, Path]:
    """Return files by what they are once links are followed."""
    return {os.path.realpath(file): Path(file) for file in files}


def folders_of(files: Iterable[Path]) -> set[Path]:
    """Return the folders in which a result may replace one of these files: its own, a link's too.

    A result is written through a link, so that both are to be looked at.
    """
    files = list(files)
    linked = (Path(os.path.realpath(file)) for file in files if file.is_symlink())
    return {folder.resolve() for folder in {file.parent for file in (*files, *linked)}}


def check_output(
    path: Path,
    *,
    overwrite: bool,
    read: Mapping[str, Path] | None = None,
    source: Path | None = None,
) -> None:
    """Refuse early what could not be written at the end of the work; writes nothing.

    Missing folders are no fault: ``make_folder`` makes them.

    Args:
        path: where a result goes.
        overwrite: whether it may replace what is there.
        read: what the command reads, by `real_names`; none of that is replaced, though asked to.
        source: the one of them that may be: what this very result, and no other, is made from.

    Raises:
        OutputError: ``path`` exists and ``overwrite`` is off, is to be read, is a folder, or lies
            where nothing can be written.
    """
    try:
        real = os.path.realpath(path)
        if read and real in read and (source is None or real != os.path.realpath(source)):
            raise OutputError(path, f"is the input {read[real]}", "name another file to write")
        if path.is_dir():
            raise OutputError(path, "is a folder", "give a file name")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(path, "exists", "use --overwrite to replace it")
        folder = nearest(path.parent)
        if not folder.is_dir():
            raise OutputError(path, f"{folder} is not a folder")
        if not is_writable(folder):
            raise OutputError(path, f"no permission to write in {folder}", "name another (-o)")
    except OutputError:
        raise
    except OSError as fault:  # a name too long for the file system
        raise OutputError(path, reason(fault)) from fault


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those above it, unless they exist.

    Raises:
        OutputError: that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault


def is_folder(name: str | Path) -> bool:
    """Return whether a name is a folder's."""
    return os.path.isdir(name)  # noqa: PTH112 - False, not an exception, for a name too long


def is_glob(name: str) -> bool:
    """Return whether a name is a pattern."""
    # A file whose name holds a bracket is that file.
    return glob.has_magic(name) and not os.path.lexists(name)
