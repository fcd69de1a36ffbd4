"""Read many mutated files of one format; a clean refusal or a right answer, nothing else, is fine.

    python tools/fuzz.py --format flo --count 100000 --seed 0

A fault is any exception but the one line of a refusal, an answer of a wrong shape or range, more
than two seconds of CPU, an allocation beyond 1 GiB, or a line on stderr. The smallest file with a
fault is made smaller still and written to --keep. The last line printed is JSON; the exit code is 1
if there was a fault. A seed always gives the same files. Operators: ``tools/fuzz_ops.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import logging
import lzma
import math
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import av
import numpy as np
import torch

from flowwarp.bundled import bundled
from flowwarp.data.captioned import load_captioned
from flowwarp.data.clips import find_clips
from flowwarp.data.media import FRAME, MOTION, SKETCH, TEXT, VIDEO, VOCABULARY
from flowwarp.data.recipes import GroundTruthPair, load_recipe, pairs_of, read_pair
from flowwarp.data.sprite_world.layers import load_layers
from flowwarp.data.tokens import PATCH, Medium, Tokens, Vocabulary, join, train_pairs
from flowwarp.errors import InputError, OutputError
from flowwarp.io.checkpoints import Card, build, save_weights
from flowwarp.io.flow_files import read_flow, write_flow
from flowwarp.io.images import ImageFormat, read_image_with_format, write_image
from flowwarp.io.manifests import open_manifest, read_manifests
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_salvage import salvage_video
from flowwarp.io.video_writer import write_video
from flowwarp.models.captioner import Captioner, CaptionerConfig
from flowwarp.models.classifier import Classifier, ClassifierConfig
from flowwarp.models.dvae import DVAE, DVAEConfig, Residual
from flowwarp.models.flownet import FlowNet, FlowNetConfig
from flowwarp.models.gpt import GPT, GPTConfig
from flowwarp.models.reviser import Reviser, ReviserConfig
from flowwarp.models.upsampler import Upsampler, UpsamplerConfig, upsample_clip
from flowwarp.pipelines.video.captions import caption_nats, load_captioner, look, write_caption
from flowwarp.pipelines.video.evaluate import load_classifier
from flowwarp.pipelines.video.generate import generate
from flowwarp.pipelines.video.load import load_models, load_reviser, load_upsampler
from flowwarp.pipelines.video.sequences import describe, token_nats
from flowwarp.pipelines.video.tokens import load_dvae
from flowwarp.train.loop import LoopConfig
from flowwarp.train.runs import State, open_run
from flowwarp.train.settings import read_toml, to_toml

SECONDS, BYTES = 2.0, 2**30
# What a header field is set to: signs, overflows, and products that overflow.
NUMBERS = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (b"-1", b"0", b"99999999999999999999", b"1e999", b"nan", b"|O", b"<c8", b"<f8", b"True")
# What a field of a card is set to, of numbers beside what it is.
ODD: tuple[object, ...] = (
    0, 1, 2, 7, 100, -1, 2**15, 2**31 - 1, 2**31, 2**63, 10**9, 10**30, 0.0, 0.5, 1e-308, 1e308,
    -1e308, math.inf, -math.inf, math.nan, "", "x", "4", "none", "group", "video", None, True,
    False, [], {}, [1], [[2, 2]], [2, 2, 2], {"name": 1},
)  # fmt: skip
PAIR = ("frame1.png", "frame2.png")
FEW = 64  # tokens are soon written
SCRATCH = Path("/dev/shm")  # a disk would take a hundred times as long as the readers


def check_flow(path: Path) -> None:
    """Read a flow file and check what every flow file must give."""
    flow, valid = read_flow(path)
    assert flow.dtype == torch.float32
    assert valid.dtype == torch.bool
    assert flow.shape == (2, *valid.shape[1:])
    assert valid.shape[0] == 1
    assert flow.numel() > 0
    assert bool(flow.isfinite().all())
    assert not bool(flow[:, ~valid[0]].any())
    assert valid.numel() <= 2**27


def check_image(path: Path) -> None:
    """Read a picture and check shape and range."""
    image, format = read_image_with_format(path)
    assert image.shape[0] == 3 + format.alpha
    check_range(image)


def check_video(path: Path) -> None:
    """Read a video to its end and check shape and range of each frame."""
    for frame in read_video(path):
        arm()  # a long video is no hang, a frame that takes so long is
        assert frame.shape[0] == 3
        check_range(frame)


def check_salvage(path: Path) -> None:
    """Read what can be read of a video, to its end."""
    for frame in salvage_video(path):
        arm()
        if frame is not None:
            check_range(frame)


def check_packed(path: Path) -> None:
    """Read a pair whose flow is packed by xz."""
    frame1, frame2 = (path.parent / name for name in PAIR)
    truth = read_pair(GroundTruthPair("set", "pair", frame1, frame2, path))
    assert truth.flow_12.shape == (1, 2, 3, 5)


def check_weights(path: Path) -> None:
    """Make the network that a file of weights is of."""
    net, _ = build(path, "flownet", lambda settings: FlowNet(FlowNetConfig(**settings)))
    assert all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values())


def check_gpt(path: Path) -> None:
    """Load a transformer beside its VAE and its sketcher, and let it judge, write and describe."""
    dvae, sketcher = (path.with_name(f"{name}.safetensors") for name in ("dvae", "sketcher"))
    models = load_models(path, dvae, None, None, sketcher=sketcher)
    gpt, words = models.gpt, models.gpt.vocabulary
    grids = {medium.name: medium.grid for medium in words.media if medium.grid is not None}
    parts = [
        words.text("a dog"),
        *(words.segment(name, torch.zeros(grids[name])) for name in grids),
    ]
    tokens = join(
        Tokens(part.ids[:FEW], part.places[:FEW], part.media[:FEW], part.near[:FEW])
        for part in parts
    )
    nats = token_nats(gpt.net, tokens, words.all_choices())
    assert nats.shape == (len(tokens) - PATCH,)
    assert bool(nats.isfinite().all())
    if math.prod(grids[VIDEO]) * words[VIDEO].digits > FEW:
        return
    frames = models.window + models.goes_on  # and so with the end of another, where that can be
    made = list(generate(models, "a dog", frames=frames, best=2, candidates=4))
    assert len(made) == frames
    for frame in made:
        assert frame.shape == (3, models.small, models.small)
        check_range(frame)
    if words.text_limit <= FEW:
        assert len(describe(gpt, torch.zeros(1, *grids[VIDEO]))) == 1


def check_captioner(path: Path) -> None:
    """Load a captioner, and let it look at the shortest clip, sketch and describe it."""
    captioner = load_captioner(path)
    config = captioner.net.config
    clip = torch.rand(1, config.apart + 1, 3, config.size, config.size)
    seen = look(captioner, clip)
    assert seen.shape == (1, 1, config.joined)
    if config.kinds:
        kinds = captioner.net.sketch(clip)
        assert kinds.shape == (1, 1, captioner.net.side, captioner.net.side)
        assert bool(((kinds >= 0) & (kinds < config.kinds)).all())
    nats = caption_nats(captioner, seen, [write_caption(captioner, seen, beams=1)])
    assert nats.shape == (1,)
    assert bool(nats.isfinite().all())


def check_dvae(path: Path) -> None:
    """Load a VAE, and let it take a group of frames to codes and back."""
    net = load_dvae(path)
    side = net.config.stride
    video = torch.rand(1, net.config.stride_time, 3, side, side)
    codes = net.encode(video)
    assert codes.shape == (1, 1, 1, 1)
    assert 0 <= int(codes) < net.config.codes
    decoded = net.decode(codes)
    assert decoded.shape == video.shape
    for frame in decoded[0]:
        check_range(frame)


def check_upsampler(path: Path) -> None:
    """Load an upsampler that learned nothing: what is gray it must leave as it is."""
    net = load_upsampler(path)
    gray, still = torch.full((2, 3, 8, 8), 0.5), torch.zeros(1, 2, 16, 16)
    made = upsample_clip(net, gray, still, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made, torch.full((2, 3, 16, 16), 0.5), rtol=0, atol=1e-3)
    drawn = upsample_clip(net, gray, still, None, torch.Generator().manual_seed(0), steps=2)
    for frame in drawn:
        check_range(frame)


def check_classifier(path: Path) -> None:
    """Load a judge, and let it look at the shortest clip."""
    net = load_classifier(path)
    config = net.config
    with torch.inference_mode():
        read = net(torch.rand(1, config.apart + 1, 3, config.size, config.size))
    assert list(read) == [name for name, _ in config.attributes]
    for name, values in config.attributes:
        assert read[name].shape == (1, len(values))
        assert bool(read[name].isfinite().all())


def check_reviser(path: Path) -> None:
    """Load a reviser that learned nothing: told anything, it must leave groups as they are."""
    net = load_reviser(path)
    config = net.config
    group = torch.rand(1, config.frames, 3, config.stride, config.stride)
    for known in ({name: values[-1] for name, values in config.attributes if values}, {}):
        revised = list(net.revise([group, group], net.tell([known])))
        assert len(revised) == 2
        for made in revised:
            torch.testing.assert_close(made, group, rtol=0, atol=1e-3)
            for frame in made[0]:
                check_range(frame)


def check_state(path: Path) -> None:
    """Take up a training state, of which there is no other."""
    with open_run(path.parent, {"loop": LoopConfig()}, resume="changed") as run:
        state = run.newest_state(lambda line: None)
    if state is None:  # set aside, for next time
        raise InputError(path, "is broken")
    assert state.step >= 0


def check_config(path: Path) -> None:
    """Read a configuration, and write it again."""
    configs = read_toml(path, {"loop": LoopConfig(), "model": FlowNetConfig()})
    path.write_text(to_toml(configs), "utf-8")
    assert read_toml(path, configs) == configs


def check_recipe(path: Path) -> None:
    """Read a recipe, and look for its files."""
    pairs_of(load_recipe(path), path.parent)


def check_captioned(path: Path) -> None:
    """Prepare a folder, or a tar file, of captioned videos."""
    source = path if path.suffix == ".tar" else path.parent
    with mock.patch("flowwarp.data.clips.use"):  # a file that stays open, of each of 20,000 caches
        store = load_captioned(source, 8, 2, cache=path.parent / "cache")
    for number in range(len(store)):
        clip = store[number]
        assert clip.video.shape == (2, 3, 8, 8)
        assert 0 < len(clip.caption) <= 1000
        assert clip.caption.splitlines() == [clip.caption]


def check_list(path: Path) -> None:
    """Read a list of pairs."""
    for clip in find_clips([path]):
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


def check_range(image: torch.Tensor) -> None:
    """Check for float32 in [0, 1]."""
    assert image.dtype == torch.float32
    assert image.ndim == 3
    assert image.numel() > 0
    assert bool(((image >= 0) & (image <= 1)).all())


def make_flow(extension: str) -> Callable[[Path], None]:
    """Return a maker of a small valid flow file."""

    def make(path: Path) -> None:
        flow = torch.arange(30, dtype=torch.float32).reshape(2, 3, 5)
        write_flow(path.with_suffix(extension), flow, flow[:1] != 4)

    return make


def make_image(extension: str, format: ImageFormat | None = None) -> Callable[[Path], None]:
    """Return a maker of a small valid picture."""

    def make(path: Path) -> None:
        image = torch.linspace(0, 1, 3 * 6 * 7).reshape(3, 6, 7)
        write_image(path.with_suffix(extension), image, format)

    return make


def make_gif(path: Path) -> None:
    """Make a small valid GIF."""
    write_video(path.with_suffix(".gif"), torch.rand(2, 3, 6, 7).unbind())


def make_video(extension: str) -> Callable[[Path], None]:
    """Return a maker of a small valid video."""

    def make(path: Path) -> None:
        frames = torch.linspace(0, 1, 4 * 3 * 16 * 16).reshape(4, 3, 16, 16)
        write_video(path.with_suffix(extension), frames.unbind())

    return make


def make_film(extension: str) -> Callable[[Path], None]:
    """Return a maker of a small valid video of a kind that is only read."""

    def make(path: Path) -> None:
        with av.open(path.with_suffix(extension), "w") as container:
            stream: Any = container.add_stream("mpeg4", Fraction(25))
            stream.width = stream.height = 16
            stream.pix_fmt = "yuv420p"
            for level in range(4):
                pixels = np.full((16, 16, 3), 60 * level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode(None))

    return make


def make_packed(path: Path) -> None:
    """Make a valid flow file, packed by xz, and its frames."""
    for name in PAIR:
        write_image(path.parent / name, torch.rand(3, 3, 5))
    plain = path.with_suffix("")
    write_flow(plain, torch.ones(2, 3, 5))
    path.write_bytes(lzma.compress(plain.read_bytes()))


def make_weights(path: Path) -> None:
    """Make the weights of the smallest flow network there is."""
    save_network(path, "flownet", FlowNet(FlowNetConfig((1, 1), 1, (1, 1), 1, 1)))


def make_gpt(path: Path) -> None:
    """Make the weights of a transformer that knows sketches, of its VAE and of its sketcher."""
    make_dvae(path.with_name("dvae.safetensors"))
    make_captioner(path.with_name("sketcher.safetensors"))
    words = Vocabulary(
        (
            Medium(TEXT, TOKENIZER.size),
            Medium(VIDEO, 4, (2, 2, 2), digits=2),
            Medium(FRAME, 4, (1, 2, 2), first=0, shares=VIDEO, digits=2),
            Medium(MOTION, 5, (1, 1, 1)),
            Medium(SKETCH, 3, (1, 2, 2)),
        ),
        TOKENIZER,
        text_limit=4,
    )
    net = GPT(GPTConfig(words.size, 4, 16, 16, 1, 2, 1, 8, 8, 1, 8, kinds=3))
    save_network(path, "gpt", net, **{VOCABULARY: words.to_json()})


def make_captioner(path: Path) -> None:
    """Make the weights of a captioner that sorts places into kinds."""
    config = CaptionerConfig(
        TOKENIZER.size + 1, size=16, apart=1, numbers=2, kinds=3, widths=(8, 8), blocks=(1, 0),
        embedded=4, hidden=4, joined=4,
    )  # fmt: skip
    words = Vocabulary((Medium(TEXT, TOKENIZER.size),), TOKENIZER, text_limit=4)
    save_network(path, "captioner", Captioner(config), **{VOCABULARY: words.to_json()})


def make_dvae(path: Path) -> None:
    """Make the weights of a VAE whose codes are vectors of two books."""
    config = DVAEConfig(
        (4, 2), (1, 2), (8, 8), 0, (1, 1), "residual", (2, 2), 2, 4, beams=2, chroma=2.0
    )
    net = DVAE(config)
    assert isinstance(net.quantiser, Residual)
    torch.nn.init.normal_(net.quantiser.books)  # as if they had been found
    save_network(path, "dvae", net)


def make_rounding_dvae(path: Path) -> None:
    """Make the weights of a VAE whose codes are rounded numbers."""
    save_network(path, "dvae", DVAE(DVAEConfig((2, 2), (1, 2), (8, 8), 1, (1, 1), levels=(2, 3))))


def make_upsampler(path: Path) -> None:
    """Make the weights of an upsampler."""
    config = UpsamplerConfig((8, 8), (1, 1), 2, 4, sharpness=2.0)
    save_network(path, "upsampler", Upsampler(config))


def make_classifier(path: Path) -> None:
    """Make the weights of a judge."""
    attributes = (("color", ("red", "blue")), ("shape", ("a", "b", "c")))
    config = ClassifierConfig(attributes, size=16, apart=1, widths=(8, 8), blocks=(1, 0))
    save_network(path, "classifier", Classifier(config))


def make_reviser(path: Path) -> None:
    """Make the weights of a reviser."""
    attributes = (("color", ("red", "blue")), ("shape", ("a", "b", "c")))
    config = ReviserConfig(attributes, frames=2, widths=(8, 16), blocks=(1, 0), embedding=4)
    save_network(path, "reviser", Reviser(config))


def save_network(path: Path, name: str, net: Any, **notes: str) -> None:
    """Write weights whose card says all of the configuration."""
    save_weights(path, net, Card(name, dataclasses.asdict(net.config), 3, notes))


def make_state(path: Path) -> None:
    """Make a run with one training state."""
    with open_run(path.parent, {"loop": LoopConfig()}) as run:
        run.save_state(State(1, {"model.a": torch.arange(5.0)}, {"best": None}))


def make_text(text: str) -> Callable[[Path], object]:
    """Return a maker of a text file."""
    return lambda path: path.write_text(text, "utf-8")


def make_recipe(path: Path) -> None:
    """Make a recipe, and files that it finds."""
    path.write_text(RECIPE, "utf-8")
    for name in ("frame1.png", "frame2.png", "flow_1.flo"):
        path.with_name(name).touch()


def make_captioned(path: Path) -> None:
    """Make a video, a table with its caption, and a tar file of both."""
    film = path.with_name("film.gif")
    write_video(film, torch.rand(3, 3, 6, 7).unbind())
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


RECIPE = """title = "a set"
terms = "none"
footage = ["clips/*"]
complete = true
[sets.clean]
frame1 = "{*deep}/frame{n}.{kind}"
frame2 = "{*deep}/frame{n+1}.{kind}"
flow = "{*deep}/flow_{n}.flo"
"""
TOKENIZER = train_pairs(["a dog runs", "a dog walks"], 4)
LIST = "# pairs\na.png b.png\n\n'a b.png' \"c.png\"\n"


# Each name with its extension, what makes a valid file, and what checks one.
FORMATS: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], None]]] = {
    "flo": (".flo", make_flow(".flo"), check_flow),
    "kitti": (".png", make_flow(".png"), check_flow),
    "pfm": (".pfm", make_flow(".pfm"), check_flow),
    "npy": (".npy", make_flow(".npy"), check_flow),
    "npz": (".npz", make_flow(".npz"), check_flow),
    "png": (".png", make_image(".png"), check_image),
    "png16": (".png", make_image(".png", ImageFormat(16)), check_image),
    "jpg": (".jpg", make_image(".jpg"), check_image),
    "webp": (".webp", make_image(".webp"), check_image),
    "bmp": (".bmp", make_image(".bmp"), check_image),
    "tif": (".tif", make_image(".tif"), check_image),
    "ppm": (".ppm", make_image(".ppm"), check_image),
    "gif": (".gif", make_gif, check_image),
    "mp4": (".mp4", make_video(".mp4"), check_video),
    "mkv": (".mkv", make_video(".mkv"), check_video),
    "gifvideo": (".gif", make_video(".gif"), check_video),
    "webpvideo": (".webp", make_video(".webp"), check_video),
    "avi": (".avi", make_film(".avi"), check_video),
    "mpg": (".mpg", make_film(".mpg"), check_video),
    "salvage_mp4": (".mp4", make_video(".mp4"), check_salvage),
    "salvage_avi": (".avi", make_film(".avi"), check_salvage),
    "xz": (".flo.xz", make_packed, check_packed),
    "weights": (".safetensors", make_weights, check_weights),
    "card_flownet": (".safetensors", make_weights, check_weights),
    "card_gpt": (".safetensors", make_gpt, check_gpt),
    "card_captioner": (".safetensors", make_captioner, check_captioner),
    "card_dvae": (".safetensors", make_dvae, check_dvae),
    "card_rounding_dvae": (".safetensors", make_rounding_dvae, check_dvae),
    "card_upsampler": (".safetensors", make_upsampler, check_upsampler),
    "card_classifier": (".safetensors", make_classifier, check_classifier),
    "card_reviser": (".safetensors", make_reviser, check_reviser),
    "state": (".safetensors", make_state, check_state),
    "config": (".toml", make_text(to_toml({"loop": LoopConfig(), "model": FlowNetConfig()})),
               check_config),
    "recipe": (".toml", make_recipe, check_recipe),
    "captions": (".csv", make_captioned, check_captioned),
    "tar": (".tar", make_captioned, check_captioned),
    "list": (".txt", make_text(LIST), check_list),
    "layers": (".json", make_layers, check_layers),
    "manifest": (".jsonl", make_manifest, check_manifest),
}  # fmt: skip
# Where the name says what it is.
NAMES = {
    "state": "state-00000001.safetensors",
    "captions": "captions.csv",
    "layers": "attributes.json",
    "manifest": "manifest.jsonl",
}

GROUPS = {
    "all": list(FORMATS),
    "flow": [name for name, parts in FORMATS.items() if parts[2] is check_flow],
    "image": [name for name, parts in FORMATS.items() if parts[2] is check_image],
    "video": [name for name, parts in FORMATS.items() if parts[2] in (check_video, check_salvage)],
}
GROUPS["other"] = [
    name for name in FORMATS if not any(name in GROUPS[kind] for kind in ("flow", "image", "video"))
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a file in one to four places, mostly where its headers are."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        # Headers are in front; a zip, and an mp4 before it is rearranged, has one at the end.
        where = rng.choice((16, 64, 64, len(out), len(out)))
        at = rng.randrange(min(where, len(out)))
        if rng.random() < 0.15:
            at = len(out) - 1 - at
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind in (2, 3):
            width, order = rng.choice((2, 4)), rng.choice("<>")
            value = rng.choice(NUMBERS) % 2 ** (8 * width)
            out[at : at + width] = struct.pack(order + {2: "H", 4: "I"}[width], value)
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            del out[at : at + rng.randint(1, 8)]
        elif kind == 6:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            numbers = list(re.finditer(rb"-?\d+(\.\d+)?|<f4|False", out[:128]))
            if numbers:
                found = rng.choice(numbers)
                out[found.start() : found.end()] = rng.choice(WORDS)
    return bytes(out)


def mend_png(data: bytes) -> bytes:
    """Set the checksums right, so that what lies behind them is reached as well."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        out += data[at : end - 4] + struct.pack(">I", zlib.crc32(data[at + 4 : end - 4]))
        at = end
    return out + data[at:]


def mutate_npz(data: bytes, rng: random.Random) -> bytes:
    """Mutate an array inside the archive, the archive itself being right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), mutate(old.read(name), rng))
    return buffer.getvalue()


def mend_tar(data: bytes) -> bytes:
    """Set the checksum of the first header right."""
    if len(data) < 512:
        return data
    total = sum(data[:148]) + sum(data[156:512]) + 8 * ord(" ")
    return data[:148] + b"%06o\0 " % total + data[156:]


def mend_weights(data: bytes) -> bytes:
    """Take the checksum of the tensors away, so that changed ones are looked at."""
    return data.replace(b'"sha256"', b'"sha255"', 1)


def mutate_card(data: bytes, rng: random.Random) -> bytes:
    """Put odd values into what weights say of themselves; their tensors are those written."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    card = header["__metadata__"]
    part = rng.choice([name for name in ("config", VOCABULARY) if name in card])
    tree = json.loads(card[part])
    for _ in range(rng.randint(1, 3)):
        tree = spoil(tree, rng)
    card[part] = json.dumps(tree)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[start:]


def spoil(tree: Any, rng: random.Random) -> Any:
    """Return a value of JSON with one place in it changed."""
    if isinstance(tree, dict | list) and tree and rng.random() < 0.95:
        new: Any = tree.copy()
        key: Any = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        kind = rng.randrange(10)
        if kind == 0:
            del new[key]
        elif kind == 1 and isinstance(tree, dict):
            new["more"] = rng.choice(ODD)
        elif kind == 1:
            new.insert(key, rng.choice((tree[key], *ODD)))
        elif kind == 2:  # which no object minds
            new = dict(reversed(tree.items())) if isinstance(tree, dict) else tree[::-1]
        else:
            new[key] = spoil(tree[key], rng)
        return new
    if isinstance(tree, int | float) and rng.random() < 0.4:
        return rng.choice((tree + 1, tree - 1, 2 * tree, -tree, float(tree), str(tree)))
    return rng.choice(ODD)


def case(name: str, data: bytes, rng: random.Random) -> bytes:
    """Make one mutated file."""
    if name.startswith("card_"):
        return mutate_card(data, rng)
    if name == "tar" and rng.random() < 0.5:
        return mend_tar(mutate(data, rng))
    if name in ("weights", "state") and rng.random() < 0.5:
        return mutate(mend_weights(data), rng)
    if name == "xz" and rng.random() < 0.5:
        return lzma.compress(mutate(lzma.decompress(data), rng), preset=0)
    if name == "npz" and rng.random() < 0.5:
        return mutate_npz(data, rng)
    mutated = mutate(data, rng)
    mend = name in ("kitti", "png", "png16") and rng.random() < 0.7
    return mend_png(mutated) if mend else mutated


class TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for a broken file."""


def arm() -> None:
    """Give the reader its time."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)


def alarm(signum: int, frame: FrameType | None) -> None:
    """Break off a read that hangs."""
    raise TooSlow


def attempt(path: Path, data: bytes, check: Callable[[Path], None]) -> BaseException | None:
    """Read one file; return what went wrong, an InputError if it was refused."""
    path.write_bytes(data)
    for broken in path.parent.glob("*.broken"):
        broken.unlink()
    try:
        try:
            arm()
            check(path)
        finally:  # which may be too late: hence inside the other
            signal.setitimer(signal.ITIMER_PROF, 0)
    except (Exception, TooSlow) as fault:  # noqa: BLE001 - to find whatever it is
        return fault
    return None


def is_fault(fault: BaseException | None, folder: Path) -> bool:
    """Say whether this is neither an answer nor a refusal that names the file."""
    if fault is None:
        return False
    line = str(fault)
    named = str(folder) in line and len(line.splitlines()) == 1
    return not (isinstance(fault, InputError) and named)


def shrink(data: bytes, fails: Callable[[bytes], bool], tries: int = 400) -> bytes:
    """Leave out what can be left out of a file that fails (Zeller's delta debugging)."""
    step = len(data) // 2
    while step:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + step :]
            tries -= 1
            if tries < 0:
                return data
            if fails(shorter):
                data = shorter
            else:
                at += step
        step //= 2
    return data


def fuzz(name: str, count: int, seed: int, folder: Path, keep: Path) -> dict[str, object]:
    """Read ``count`` mutated files and count how that went."""
    extension, make, check = FORMATS[name]
    path = folder / NAMES.get(name, f"case{extension}")
    make(path)
    data = path.read_bytes()
    signal.signal(signal.SIGPROF, alarm)
    check(path)  # imports and pools are made before memory is limited
    signal.setitimer(signal.ITIMER_PROF, 0)
    rng = random.Random(seed)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    counts: Counter[str] = Counter()
    heard = os.fstat(2).st_size
    smallest: bytes | None = None
    slowest, started = 0.0, time.perf_counter()
    for number in range(count):
        mutated = case(name, data, rng)
        before = time.perf_counter()
        fault = attempt(path, mutated, check)
        slowest = max(slowest, time.perf_counter() - before)
        if is_fault(fault, folder):
            counts["faults"] += 1
            if smallest is None or len(mutated) < len(smallest):
                smallest = mutated
        else:
            counts["read" if fault is None else "refused"] += 1
        noise = os.fstat(2).st_size
        if noise > heard:
            counts["noise"] += 1
            heard = noise
        if number % 1000 == 999:
            shutil.rmtree(folder / "cache", ignore_errors=True)
    seconds = time.perf_counter() - started
    if smallest is not None:
        smallest = shrink(smallest, lambda data: is_fault(attempt(path, data, check), folder))
        (keep / f"fuzz_{name}_{seed}{extension}").write_bytes(smallest)
        fault = attempt(path, smallest, check)
        traceback.print_exception(fault, file=sys.stdout)
    return {
        "format": name,
        "count": count,
        "seed": seed,
        "read": counts["read"],
        "refused": counts["refused"],
        "faults": counts["faults"],
        "noise": counts["noise"],
        "seconds": round(seconds, 1),
        "slowest_ms": round(slowest * 1000, 1),
    }


def main() -> int:
    """Run one format, or a group of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--format", choices=[*FORMATS, *GROUPS], default="all")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()  # what is left out of a folder is told by a log
    names = GROUPS.get(options.format, [options.format])
    reports = []
    if SCRATCH.is_dir():
        tempfile.tempdir = os.fspath(SCRATCH)
    with tempfile.TemporaryFile() as stderr:
        # A library that prints from C goes past sys.stderr; catch the descriptor itself.
        terminal = os.dup(2)
        os.dup2(stderr.fileno(), 2)
        try:
            for name in names:
                with tempfile.TemporaryDirectory() as folder:
                    report = fuzz(name, options.count, options.seed, Path(folder), options.keep)
                reports.append(report)
                print(json.dumps(report), flush=True)
        finally:
            os.dup2(terminal, 2)
        stderr.seek(0)
        noise = stderr.read().decode(errors="replace").splitlines()
    if noise:
        print(f"{len(noise)} lines on stderr, the first: {noise[0]}")
    faults = len(noise) + sum(int(str(report["faults"])) for report in reports)
    print(json.dumps({"formats": len(reports), "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
