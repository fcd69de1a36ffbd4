"""``flowwarp convert``: convert flow files between formats."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from flowwarp.cli import _paths
from flowwarp.cli._options import (
    dry_run_option,
    input_argument,
    json_option,
    output_option,
    overwrite_option,
)
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.errors import InputError, OutputError
from flowwarp.io.file_types import FLOW_EXTENSIONS, FLOW_FORMATS


@click.command()
@input_argument("inputs", "IN...", nargs=-1)
@output_option("The flow file to write; for several inputs, a folder.", required=True)
@click.option(
    "--to",
    type=click.Choice(FLOW_FORMATS),
    help="Output format; needed if OUT is a folder.  [default: OUT's extension]",
)
@overwrite_option()
@json_option("paths")
@dry_run_option()
def command(
    inputs: tuple[str, ...],
    output: str,
    to: str | None,
    overwrite: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Convert flow files between formats: .flo (Middlebury), .png (KITTI), .pfm, .npy and .npz.

    IN is one or more flow files, folders or globs; images that `flowwarp show` wrote there are
    skipped. The paths are printed on stdout. A broken file does not stop the others.

    \b
    flowwarp convert flow.flo -o flow.png            one file
    flowwarp convert kitti/flow_occ -o out --to flo  a folder
    """  # noqa: D301 - click wants the character itself
    from flowwarp.io.atomic import atomic_output
    from flowwarp.io.flow_files import encode_flow, read_flow

    extension = f".{to}" if to else Path(output).suffix.lower()
    folder = _paths.wants_folder(inputs, output)
    if folder and to is None:
        raise click.UsageError("give --to FORMAT when OUT is a folder")
    if folder:
        _paths.check_folder_name(output, "many inputs need a folder, but OUT is")
    if extension not in FLOW_EXTENSIONS or (
        not folder and Path(output).suffix.lower() != extension
    ):
        raise click.UsageError(f"OUT must end in .{to or ', .'.join(FLOW_FORMATS)}, got {output!r}")

    sources = _paths.expand_flows(inputs)
    targets = _paths.name_outputs(sources, Path(output), extension) if folder else [Path(output)]
    read = _paths.real_names(sources)
    for source, target in zip(sources, targets, strict=True):
        # An input that is read later must not be replaced.
        _paths.check_output(target, overwrite=overwrite, read=read, source=source)
    _check_distinct(targets)

    results: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    single = len(sources) == 1
    jobs = list(zip(sources, targets, strict=True))
    with progress_bar(jobs, "convert", shown=not single) as pairs:
        for source, target in pairs:
            try:
                flow, valid = read_flow(source)
                data = encode_flow(target, flow, valid)  # before the folder is created
                if not dry_run:
                    _paths.check_output(
                        target, overwrite=overwrite
                    )  # again: earlier ones may take long
                    _paths.make_folder(target.parent)
                    with atomic_output(target) as temporary:
                        temporary.write_bytes(data)
            except InputError as fault:  # an OutputError, such as a full disk, stops everything
                if single:
                    raise
                failed.append({"input": str(source), "error": str(fault)})
                continue
            if not as_json:
                print_path(target)
            results.append(
                {
                    "input": str(source),
                    "output": str(target),
                    "height": flow.shape[1],
                    "width": flow.shape[2],
                    "valid": round(valid.double().mean().item(), 6),
                }
            )
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "results": results, "failed": failed}))
    raise_if_failed(failed, len(sources))


def _check_distinct(targets: Sequence[Path]) -> None:
    """Refuse two outputs that are one file by a link.

    Raises:
        OutputError: there are two.
    """
    outputs: dict[str, Path] = {}
    for target in targets:
        real = os.path.realpath(target)
        if other := outputs.get(real):
            raise OutputError(target, f"is the same file as the output {other}", "name another OUT")
        outputs[real] = target
