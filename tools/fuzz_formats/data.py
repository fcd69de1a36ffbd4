"""States, configurations and descriptions of data: makers of valid files, and checks."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from flowwarp.bundled import bundled
from flowwarp.data.captioned import load_captioned
from flowwarp.data.captioned_survey import format_survey, survey
from flowwarp.data.footage import find_footage
from flowwarp.data.recipes import load_recipe, pairs_of
from flowwarp.data.sprite_world.layers import load_layers
from flowwarp.errors import InputError, OutputError
from flowwarp.io.manifests import open_manifest, read_manifests
from flowwarp.io.video_writer import write_video
from flowwarp.models.flownet import FlowNetConfig
from flowwarp.train.loop import LoopConfig
from flowwarp.train.runs import State, open_run
from flowwarp.train.settings import read_toml, to_toml

RECIPE = """title = "a set"
terms = "none"
footage = ["clips/*"]
complete = true
[sets.clean]
frame1 = "{*deep}/frame{n}.{kind}"
frame2 = "{*deep}/frame{n+1}.{kind}"
flow = "{*deep}/flow_{n}.flo"
"""

LIST = "# pairs\na.png b.png\n\n'a b.png' \"c.png\"\n"


def check_state(path: Path) -> None:
    """Resume the only training state of a run."""
    with open_run(path.parent, {"loop": LoopConfig()}, resume="changed") as run:
        state = run.newest_state(lambda line: None)
    if state is None:  # the state is set aside
        raise InputError(path, "is broken")
    assert state.step >= 0


def check_config(path: Path) -> None:
    """Read a configuration and write it; reading it again must give the same."""
    configs = read_toml(path, {"loop": LoopConfig(), "model": FlowNetConfig()})
    path.write_text(to_toml(configs), "utf-8")
    assert read_toml(path, configs) == configs


def check_recipe(path: Path) -> None:
    """Read a recipe and find its files."""
    pairs_of(load_recipe(path), path.parent)


def check_captioned(path: Path) -> None:
    """Look through a folder or tar file of captioned videos, and prepare them."""
    source = path if path.suffix == ".tar" else path.parent
    assert format_survey(survey(source)).replace("\n", "").isprintable()
    with mock.patch("flowwarp.data.frame_store.mark_used"):  # it keeps files open
        store = load_captioned(source, 8, 2, cache=path.parent / "cache")
    for number in range(len(store)):
        clip = store[number]
        assert clip.video.shape == (2, 3, 8, 8)
        assert 0 < len(clip.caption) <= 1000
        assert clip.caption.splitlines() == [clip.caption]


def check_list(path: Path) -> None:
    """Read a list of pairs."""
    for clip in find_footage([path]):
        assert len(clip.files) == 2
        assert all("\0" not in str(file) for file in clip.files)


def check_layers(path: Path) -> None:
    """Read a folder of sprite layers."""
    assert load_layers(path.parent).layers


def check_manifest(path: Path) -> None:
    """Read the manifest of a bulk job."""
    try:
        done = read_manifests(path.parent, {"job": "flow", "source": ["a"]})
    except OutputError as fault:
        raise InputError(path, str(fault)) from fault
    assert done is not None
    assert all(isinstance(record, dict) for record in done.values())


def make_state(path: Path) -> None:
    """Make a run with one training state."""
    with open_run(path.parent, {"loop": LoopConfig()}) as run:
        run.save_state(State(1, {"model.a": torch.arange(5.0)}, {"best": None}))


def make_text(text: str) -> Callable[[Path], object]:
    """Return a maker of a text file."""
    return lambda path: path.write_text(text, "utf-8")


def make_recipe(path: Path) -> None:
    """Make a recipe and the files that it finds."""
    path.write_text(RECIPE, "utf-8")
    for name in ("frame1.png", "frame2.png", "flow_1.flo"):
        path.with_name(name).touch()


def make_captioned(path: Path) -> None:
    """Make a video, a table with its caption, and a tar file of both."""
    film = path.with_name("film.gif")
    write_video(film, torch.rand(5, 3, 6, 7).unbind())
    if path.suffix == ".jsonl":
        lines = [{"file": film.name, "caption": 'a "cat", 猫'}, {"file_name": "x", "text": "y"}]
        path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
        return
    if path.suffix != ".tar":
        path.write_text('file,caption\nfilm.gif,a dog\nfilm.gif,"a ""cat"", Katze, 猫"\n', "utf-8")
        return
    with tarfile.open(path, "w") as archive:
        archive.add(film, "a/film.gif")
        for name, text in (("a/film.txt", "a dog"), ("b.json", '{"caption": "a cat"}')):
            about = tarfile.TarInfo(name)
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text.encode()))
    film.unlink()


def make_layers(path: Path) -> None:
    """Copy one of the layers in the package."""
    folder = bundled("datasets") / "sprites"
    table = json.loads((folder / "attributes.json").read_text("utf-8"))
    layer = next(layer for layer in table["layers"] if layer["category"] == "body")
    (path.parent / "layers").mkdir(exist_ok=True)
    (path.parent / layer["file"]).write_bytes((folder / layer["file"]).read_bytes())
    path.write_text(json.dumps({"layers": [layer]}), "utf-8")


def make_manifest(path: Path) -> None:
    """Make the manifest of a job with two parts."""
    with open_manifest(path.parent, {"job": "flow", "source": ["a"]}) as manifest:
        for part, status in (("a/1", "done"), ("a/2", "failed")):
            manifest.append({"part": part, "status": status, "size": [4, 5]})
