"""Valid files of every kind, which the folder of each case holds."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch

from flowwarp.data.media import VOCABULARY
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import write_image
from flowwarp.io.video_writer import write_video
from flowwarp.legacy.data.tokens import Medium, Vocabulary, train_pairs
from flowwarp.legacy.models import captioner, dvae, gpt, reviser, upsampler
from flowwarp.models import classifier, flownet
from hostile_cases.case import HEIGHT, WIDTH


def write_valid_files(folder: Path) -> None:
    """Write valid files of every kind."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(3, HEIGHT, WIDTH + 8, generator=generator)
    frames = [picture[:, :, i : i + WIDTH] for i in range(8)]
    for name, frame in (("a", frames[0]), ("b", frames[1])):
        write_image(folder / f"{name}.png", frame)
    write_flow(folder / "flow.flo", torch.full((2, HEIGHT, WIDTH), 0.5))
    write_flow(folder / "zero.flo", torch.zeros(2, HEIGHT, WIDTH))
    write_video(folder / "clip.mp4", frames)
    (folder / "frames").mkdir()
    for number, frame in enumerate(frames[:4]):
        write_image(folder / "frames" / f"{number}.png", frame)
    pair = folder / "pairs" / "set" / "one"
    pair.mkdir(parents=True)
    for name, frame in (("frame1", frames[0]), ("frame2", frames[1])):
        write_image(pair / f"{name}.png", frame)
    write_flow(pair / "flow.flo", torch.full((2, HEIGHT, WIDTH), 0.5))
    (folder / "captioned").mkdir()
    shutil.copy(folder / "clip.mp4", folder / "captioned" / "clip.mp4")
    (folder / "captioned" / "clip.txt").write_text("a dog runs")
    write_networks(folder)


def write_networks(folder: Path) -> None:
    """Write the weights of small, untrained networks of every kind."""
    torch.manual_seed(0)
    save_network(folder / "net.safetensors", "flownet", flownet.FlowNet(flownet.TINY))
    config = dataclasses.replace(dvae.TINY, widths=(8, 16, 32), levels=(3, 3))
    vae = dvae.DVAE(config)
    save_network(folder / "dvae.safetensors", "dvae", vae)
    save_network(folder / "up.safetensors", "upsampler", upsampler.Upsampler(upsampler.TINY))
    pairs = train_pairs(["a dog runs", "a cat walks"], 20)
    media = (
        Medium("text", pairs.size),
        Medium("video", config.codes, (2, 4, 4)),
        Medium("frame", config.codes, (1, 4, 4), first=0, shares="video"),
    )
    words = Vocabulary(media, pairs, text_limit=8)
    net = gpt.GPT(dataclasses.replace(gpt.TINY, vocabulary=words.size, depth=1))
    save_network(folder / "gpt.safetensors", "gpt", net, **{VOCABULARY: words.to_json()})
    sizes = captioner.CaptionerConfig(pairs.size + 1, size=16, widths=(8, 8), hidden=8, joined=8)
    describe = captioner.Captioner(sizes)
    judge = classifier.Classifier(
        classifier.ClassifierConfig((("color", ("red", "blue")),), size=16, widths=(8, 8))
    )
    save_network(folder / "judge.safetensors", "classifier", judge)
    save_network(folder / "say.safetensors", "captioner", describe, **{VOCABULARY: words.to_json()})
    revising = reviser.ReviserConfig(
        (("hair_color", ("red", "blue")),), widths=(8, 16), blocks=(1, 1), embedding=8
    )
    save_network(folder / "mend.safetensors", "reviser", reviser.Reviser(revising))


def save_network(path: Path, name: str, net: Any, **notes: str) -> None:
    """Write weights whose card holds the whole configuration."""
    save_weights(path, net, Card(name, dataclasses.asdict(net.config), notes=notes))
