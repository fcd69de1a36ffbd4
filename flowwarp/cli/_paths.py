"""Expand input folders and globs; name and check output files and folders."""

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
from flowwarp.io.files import fold_case, is_writable, nearest_existing, reason

_SHOW_SUFFIXES = ("flow", "arrows", "error")  # `show` names pictures NAME_flow.png, ...


def expand_inputs(inputs: Sequence[str], extensions: frozenset[str]) -> list[Path]:
    """Expand folders and globs into files, in natural order, without duplicates.

    A folder or glob gives the files whose extension is in ``extensions``, ``frame2`` before
    ``frame10``; subfolders are skipped. A file name is returned whatever its extension, so that
    the reader reports what is wrong with it.

    Raises:
        InputError: a folder or glob contains no such file.
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
            if folders := expand_folders(within):  # `flow` writes one per clip
                remedy += f"; give one of its folders, such as {folders[0]}"
            raise InputError(name, "holds no file that can be read", remedy)
        found.update(dict.fromkeys(files))
    return list(found)


def expand_flows(inputs: Sequence[str]) -> list[Path]:
    """Expand folders and globs into flow files, as ``expand_inputs`` does.

    Pictures that `show` wrote beside their flow are left out of folders and globs. They are
    recognised by name and PNG header, because a flow file may have such a name, too.

    Raises:
        InputError: a folder or glob contains no flow file.
    """
    from flowwarp.io.png import peek_header

    found = expand_inputs(inputs, FLOW_EXTENSIONS)
    beside = {name_beside(path, tag, ".png") for path in found for tag in _SHOW_SUFFIXES}
    headers = {path: peek_header(path) for path in beside.intersection(found)}
    pictures = {path for path, header in headers.items() if header and not header.is_flow}
    return [path for path in found if path not in pictures.difference(map(Path, inputs))]


def expand_glob(pattern: str) -> list[Path]:
    """Return what a pattern matches, ``frame2`` before ``frame10``."""
    matches = glob.glob(pattern)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return [Path(match) for match in sorted(matches, key=natural_order)]


def expand_clips(pattern: str) -> list[Path]:
    """Return the folders, pictures and videos that a pattern matches."""
    known = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    return [path for path in expand_glob(pattern) if path.is_dir() or path.suffix.lower() in known]


def expand_folders(pattern: str) -> list[Path]:
    """Return the folders that a pattern matches."""
    return [path for path in expand_glob(pattern) if path.is_dir()]


def expand_patterns(names: Sequence[str], expand: Callable[[str], list[Path]]) -> list[Path]:
    """Expand the patterns among some names.

    Raises:
        InputError: a pattern matches nothing.
    """
    found: list[Path] = []
    for name in names:
        paths = expand(name) if is_glob(name) else [Path(name)]
        if not paths:
            raise InputError(name, "matches no file that can be read")
        found += paths
    return found


def wants_folder(inputs: Sequence[str], output: str) -> bool:
    """Return whether ``output`` names a folder for results, not a single file.

    It does if there can be several inputs, or if it is an existing folder or ends in a slash.
    """
    several = len(inputs) > 1 or any(is_folder(name) or is_glob(name) for name in inputs)
    return several or output.endswith(("/", os.sep)) or is_folder(output)


def check_folder_name(name: str, problem: str) -> None:
    """Refuse a name with a file's extension where a folder is needed.

    Args:
        name: the user's value; an existing folder is accepted whatever its name.
        problem: the start of the message, before the name.

    Raises:
        click.UsageError: the name has the extension of a flow, image or video file.
    """
    kind = Path(name).suffix.lower()
    known = FLOW_EXTENSIONS | IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    if kind in known and not wants_folder((), name):
        raise click.UsageError(f"{problem} {name!r}")


def name_outputs(sources: Sequence[Path], folder: Path, extension: str) -> list[Path]:
    """Name one result per source: ``folder/STEM.extension``.

    Raises:
        OutputError: two sources would get the same name.
    """
    return name_each(sources, lambda source: folder / f"{source.stem}{extension}")


def name_each(sources: Sequence[Path], name: Callable[[Path], Path]) -> list[Path]:
    """Call ``name`` on each source and return the results, which must differ.

    Raises:
        OutputError: two sources would get the same name.
    """
    named: dict[str, Path] = {}
    targets: list[Path] = []
    for source in sources:
        target = name(source)
        key = fold_case(target)
        if key in named:
            raise OutputError(
                target,
                f"would be the output of both {named[key]} and {source}",
                "write them to different folders",
            )
        named[key] = source
        targets.append(target)
    return targets


def name_beside(source: Path, tag: str, extension: str | None = None) -> Path:
    """Name a result beside its source: ``image.png`` and ``warped`` give ``image_warped.png``."""
    return source.with_name(f"{source.stem}_{tag}{extension or source.suffix}")


def name_folder_beside(source: Path, tag: str) -> Path:
    """Name a result beside a folder: ``clips`` and ``flow`` give ``clips_flow``.

    ``.`` and ``..`` are resolved first.

    Raises:
        click.UsageError: the folder is the root of the file system.
    """
    source = source if source.name not in ("", "..") else source.resolve()
    if not source.name:
        raise click.UsageError(f"give -o FOLDER when the frames are in {source}")
    return source.with_name(f"{source.name}_{tag}")


def real_names(files: Iterable[str | Path]) -> dict[str, Path]:
    """Return a dictionary from each file's real path, links resolved, to its given path."""
    return {os.path.realpath(file): Path(file) for file in files}


def folders_of(files: Iterable[Path]) -> set[Path]:
    """Return the folders of some files, and those of the files that links among them point to.

    Writing to a link replaces the file it points to, so a result in either folder may replace one
    of these files.
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
    """Refuse an output file that could not be written at the end of the work; write nothing.

    A missing folder is fine: ``make_folder`` creates it.

    Args:
        path: the output file.
        overwrite: whether it may replace an existing file.
        read: the command's input files from `real_names`; they are never replaced.
        source: the exception: the only input that this output is made from.

    Raises:
        OutputError: ``path`` exists and ``overwrite`` is off, is an input, is a folder, or is in a
            folder that cannot be written.
    """
    try:
        real = os.path.realpath(path)
        if read and real in read and (source is None or real != os.path.realpath(source)):
            raise OutputError(path, f"is the input {read[real]}", "name another file to write")
        if path.is_dir():
            raise OutputError(path, "is a folder", "give a file name")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(path, "exists", "use --overwrite to replace it")
        folder = nearest_existing(path.parent)
        if not folder.is_dir():
            raise OutputError(path, f"{folder} is not a folder")
        if not is_writable(folder):
            raise OutputError(path, f"no permission to write in {folder}", "name another (-o)")
    except OutputError:
        raise
    except OSError as fault:  # for example, the name is too long
        raise OutputError(path, reason(fault)) from fault


def make_folder(folder: Path) -> None:
    """Create a folder for results, and its parents, unless they exist.

    Raises:
        OutputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault


def is_folder(name: str | Path) -> bool:
    """Return whether a folder of this name exists."""
    return os.path.isdir(name)  # noqa: PTH112 - False, not an exception, if the name is too long


def is_glob(name: str) -> bool:
    """Return whether a name is a pattern: it has a wildcard, and no file of that name exists."""
    return glob.has_magic(name) and not os.path.lexists(name)
