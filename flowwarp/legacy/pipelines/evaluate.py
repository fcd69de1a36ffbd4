"""How good generated video is: figures of each network, beside what originals have.

A table says of each figure what it is for whom: ``truth`` for originals, ``decoded`` for what the
discrete VAE makes of them, ``drawn`` for what the transformer makes of a prompt, ``described`` for
what it says of a video; and of frames at twice the size ``bicubic`` for plain enlargement, ``free``
for the upsampler frame by frame, ``held`` for the upsampler holding on to the frame before,
``estimated`` for the same where flow is estimated between decodes, as when a video is made.
Attributes are told by a network that learned from originals alone (``flowwarp.train.classifier``),
so that what it reads off the truth is the most that anything can have.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.clip import Clip
from flowwarp.data.media import VIDEO
from flowwarp.data.sprite_world.captions import prompt_for
from flowwarp.data.sprite_world.labels import JUDGED, Phrases, label_caption, label_clip, named
from flowwarp.defaults import BEST, CANDIDATES, STEPS
from flowwarp.io.checkpoints import build, bundled_weights
from flowwarp.legacy.data.tokens import join
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.models.gpt import SAMPLING, Sampling
from flowwarp.legacy.models.upsampler import SCALE, Upsampler, enlarge, halve, upsample_clip
from flowwarp.legacy.pipelines.captions import look, write_caption
from flowwarp.legacy.pipelines.choosing import draw_codes
from flowwarp.legacy.pipelines.clip_motion import enlarged_motion
from flowwarp.legacy.pipelines.generate import NOISE
from flowwarp.legacy.pipelines.hearing import hear
from flowwarp.legacy.pipelines.load import VideoModels
from flowwarp.legacy.pipelines.revising import revise_videos
from flowwarp.legacy.pipelines.sequences import MediaGPT, Prompt, describe, token_nats
from flowwarp.losses.photometric import ssim_distance
from flowwarp.losses.reconstruction import gradient_error
from flowwarp.metrics.perceptual import LPIPS
from flowwarp.metrics.temporal import fine_energy, fine_ratio, warping_error
from flowwarp.metrics.video import code_use, psnr
from flowwarp.models._attributes import attributes_from_card
from flowwarp.models.classifier import Classifier, ClassifierConfig
from flowwarp.models.flownet import FlowNet
from flowwarp.pipelines.flow.estimate import estimate_flow
from flowwarp.precision import fast_autocast

TRUTH, DECODED, DRAWN, DESCRIBED = "truth", "decoded", "drawn", "described"
BICUBIC, FREE, HELD, ESTIMATED = "bicubic", "free", "held", "estimated"
HEADING = "heading"

Table = dict[str, dict[str, float]]  # figure: whose it is: value
Item = TypeVar("Item")

_AT_ONCE = 16  # clips side by side; the transformer reads its weights once for all
_RIM = 8  # a frame's rim is so many-th of its side
_WORDING = 1  # the stream of numbers that words are drawn by
_COARSE = 16  # side of the frames by which clips are compared
_COLOR = "_color"  # how the names of such attributes end


# ------------------------------------------------------------------ the judge


def load_classifier(
    weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """Make the judge from weights.

    Args:
        weights: a ``.safetensors`` file with its card; by default the one in the package.
        device: where it shall be.

    Raises:
        InputError: the file is missing, broken, or of another network; or the package has none.
    """
    if weights is None:
        remedy = "train one with tools/train_classifier.py and give --classifier FILE"
        weights = bundled_weights("classifier", remedy)

    def make(settings: Mapping[str, Any]) -> Classifier:
        attributes = attributes_from_card(settings.get("attributes", ()))
        return Classifier(ClassifierConfig(**{**settings, "attributes": attributes}))

    net, _ = build(weights, "classifier", make)
    return net.to(device).eval()


def load_lpips(weights: str | Path) -> LPIPS:
    """Make LPIPS from a file of weights.

    Args:
        weights: a ``.safetensors`` file, from ``tools/lpips_weights.py``.

    Raises:
        InputError: the file is missing, broken, or of something else.
    """
    net, _ = build(weights, "lpips", lambda _: LPIPS())
    return net.eval()


@torch.inference_mode()
def read_labels(net: Classifier, videos: Tensor) -> list[dict[str, str]]:
    """Return what the judge reads off clips.

    Args:
        net: from :func:`load_classifier`.
        videos: (B, T, 3, S, S) in [0, 1], T more than the judge's ``apart``, of its size.

    Returns:
        For each clip the likeliest value of each attribute.

    Raises:
        ValueError: clips of another size, or too short.
    """
    device = next(net.parameters()).device
    with fast_autocast(device):
        scores = net(videos.to(device))
    chosen = {name: values.argmax(1).tolist() for name, values in scores.items()}
    return [
        {name: values[chosen[name][row]] for name, values in net.config.attributes}
        for row in range(len(videos))
    ]


@dataclass(frozen=True)
class Tally:
    """How often attributes were read as they are, by whose clips they were read off.

    Attributes:
        rights: of (attribute, whose).
        counts: how often each was asked for.
        confusions: of (attribute, whose, value, what was read instead).
    """

    rights: Counter[tuple[str, str]] = field(default_factory=Counter)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    confusions: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)

    def add(self, whose: str, read: Mapping[str, str], wanted: Mapping[str, str]) -> None:
        """Count a clip by the attributes that both name."""
        for name in [name for name in read if name in wanted]:  # not in an order of the moment
            self.counts[name, whose] += 1
            self.rights[name, whose] += read[name] == wanted[name]
            if read[name] != wanted[name]:
                self.confusions[name, whose, wanted[name], read[name]] += 1

    def table(self) -> Table:
        """Return percentages: of attributes, of all colors, and the mean of those of ``JUDGED``.

        Attributes come in the order of ``JUDGED``.
        """
        names = sorted({name for name, _ in self.counts}, key=_order)
        everyone = sorted({whose for _, whose in self.counts})
        groups = {name: [name] for name in names}
        groups["colors"] = [name for name in names if name.endswith(_COLOR)]
        table: Table = {}
        for group, members in groups.items():
            for whose in everyone:
                if asked := sum(self.counts[name, whose] for name in members):
                    right = sum(self.rights[name, whose] for name in members)
                    table.setdefault(f"{group} %", {})[whose] = 100 * right / asked
        judged = [table[f"{name} %"] for name in names if name in JUDGED]
        for whose in everyone:
            if shares := [row[whose] for row in judged if whose in row]:
                table.setdefault("mean %", {})[whose] = sum(shares) / len(shares)
        return table


def _order(name: str) -> tuple[int, str]:
    return (JUDGED.index(name), "") if name in JUDGED else (len(JUDGED), name)


def evaluate_classifier(
    net: Classifier, clips: Iterable[Clip]
) -> tuple[Table, list[tuple[str, str, str, int]]]:
    """Measure the judge on originals.

    Args:
        net: from :func:`load_classifier`.
        clips: of one actor each, of the judge's size.

    Returns:
        Percentages; and confusions, the commonest first: attribute, value, what was read, count.
    """
    tally = Tally()
    for batch in _batches(clips):
        for clip, read in zip(batch, read_labels(net, _stack(batch)), strict=True):
            tally.add(TRUTH, read, label_clip(clip.attributes))
    confusions = [
        (name, value, got, count) for (name, _, value, got), count in tally.confusions.most_common()
    ]
    return tally.table(), confusions


# ------------------------------------------------------------------ the discrete VAE


@torch.inference_mode()
def evaluate_dvae(dvae: DVAE, classifier: Classifier, clips: Iterable[Clip]) -> Table:
    """Measure what the discrete VAE leaves of clips.

    Args:
        dvae: from :func:`flowwarp.legacy.pipelines.tokens.load_dvae`.
        classifier: from :func:`load_classifier`; it reads the clips of one actor.
        clips: of the judge's size.

    Returns:
        PSNR in dB, the amplitude of high frequencies over that of the originals, the warping error
        by the exact flow, the share of the values of a code's digits that are in use in per cent,
        and the share of attributes that are read right off originals and off what is left of them.
    """
    tally, tables, used = Tally(), [], []
    for batch in _batches(clips):
        video = _stack(batch)
        codes, decoded = _through(dvae, video)
        used.append(codes)
        for clip, original, left in zip(batch, video, decoded, strict=True):
            tables.append(
                {
                    "psnr dB": {DECODED: _decibels(left, original)},
                    "fine": {DECODED: float(fine_ratio(left[None], original[None]))},
                    "warping": {
                        TRUTH: _exact_error(clip, original),
                        DECODED: _exact_error(clip, left),
                    },
                }
            )
        alone = [row for row, clip in enumerate(batch) if len(clip.attributes["actors"]) == 1]
        if alone:
            _judge(tally, classifier, {TRUTH: video[alone], DECODED: decoded[alone]}, [
                label_clip(batch[row].attributes) for row in alone
            ])  # fmt: skip
    use = code_use(torch.cat(used), dvae.config.dimensions, dvae.config.digits)
    shares = {"codes used %": {DECODED: 100 * use.used}}
    shares["codes effective %"] = {DECODED: 100 * use.effective}
    return mean_table(tables) | shares | tally.table()


def _judge(
    tally: Tally,
    classifier: Classifier,
    videos: Mapping[str, Tensor],
    wanted: Sequence[Mapping[str, str]],
) -> None:
    for whose, clips in videos.items():
        for read, labels in zip(read_labels(classifier, clips), wanted, strict=True):
            tally.add(whose, read, labels)


def _through(dvae: DVAE, video: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes of (B, T, 3, S, S) and what they decode to, on the CPU."""
    device = next(dvae.parameters()).device
    codes = dvae.encode(video.to(device))
    return codes.cpu(), dvae.decode(codes, video.shape[1]).cpu()


# ------------------------------------------------------------------ the transformer


@torch.inference_mode()
def evaluate_gpt(
    models: VideoModels,
    classifier: Classifier,
    clips: Iterable[Clip],
    phrases: Phrases,
    *,
    seed: int = 0,
    sampling: Sampling = SAMPLING,
    candidates: int = CANDIDATES,
    best: int = BEST,
) -> Table:
    """Measure whether the transformer draws what prompts say, and says what clips show.

    A prompt names all that a clip shows. Only what it names counts, of the originals too.

    Args:
        models: with a flow network; the upsampler is not used. A captioner describes the clips in
            place of the transformer.
        classifier: from :func:`load_classifier`.
        clips: of one actor each, of the judge's size.
        phrases: of ``labels.phrases_of``, of the layers the clips are made of.
        seed: of wordings and samples.
        sampling: how codes are drawn.
        candidates: see :func:`flowwarp.legacy.pipelines.generate.generate`.
        best: likewise.

    Returns:
        Bits a token of the originals, with and without the caption; the share of attributes that
        the judge reads as the prompt says, and of walkers before a camera that stands still whose
        flow leads where the prompt says; the share of described attributes that are right, and how
        many are said of those there are.
    """
    assert models.flownet is not None
    tally, said, could, tables = Tally(), 0, 0, []
    number = 0
    for batch in _batches(clips):
        labels = [label_clip(clip.attributes) for clip in batch]
        wanted = [named(label) for label in labels]
        numbers = range(number, number + len(batch))
        number += len(batch)
        prompts = [prompt_of(clip, seed, n) for clip, n in zip(batch, numbers, strict=True)]
        video = _stack(batch)
        codes, decoded = _through(models.dvae, video)
        heard = [hear(models.gpt, prompt).text for prompt in prompts]
        drawn, _ = draw_codes(
            models,
            [Prompt(text) for text in heard],
            [(seed + n) % 2**63 for n in numbers],
            sampling,
            candidates,
            best,
        )
        shown = revise_videos(models, _decode(models.dvae, drawn, len(video[0])), heard)
        videos = {TRUTH: video, DECODED: decoded, DRAWN: shown}
        _judge(tally, classifier, videos, wanted)
        for whose, some in videos.items():
            for label, clip in zip(labels, some, strict=True):
                if label["action"] == "walk" and label["camera"] == "still":
                    found = heading(models.flownet, clip)
                    tally.add(whose, {HEADING: found}, {HEADING: label["direction"]})
        texts = _describe(models, video, codes)
        for label, there, text in zip(labels, wanted, texts, strict=True):
            read = label_caption(text, phrases)
            tally.add(DESCRIBED, read, label)  # what is said to be there and is not, too
            said += len(read.keys() & there.keys())
            could += len(there)
        for clip, tokens in zip(batch, codes, strict=True):
            tables.append(
                {
                    "bits a token": {TRUTH: video_bits(models.gpt, tokens, clip.caption)},
                    "bits, no caption": {TRUTH: video_bits(models.gpt, tokens, None)},
                }
            )
    return mean_table(tables) | tally.table() | {"said %": {DESCRIBED: 100 * said / max(could, 1)}}


def _describe(models: VideoModels, video: Tensor, codes: Tensor) -> list[str]:
    """Describe clips by the captioner where there is one, else by the transformer."""
    eye = models.captioner
    if eye is not None:
        return [write_caption(eye, seen[None]) for seen in look(eye, video)]
    return describe(models.gpt, codes)


def prompt_of(clip: Clip, seed: int, number: int) -> str:
    """Return a complete prompt for a clip.

    Args:
        clip: what it shall show.
        seed: of wordings.
        number: of the clip.
    """
    # Not from the numbers (seed, number) alone, which drew what the clip shows.
    return prompt_for(clip.attributes, np.random.default_rng([seed, number, _WORDING]))


def video_bits(gpt: MediaGPT, codes: Tensor, caption: str | None) -> float:
    """Return minus the log-likelihood of a video's codes, in bits a token.

    Args:
        gpt: from :func:`flowwarp.legacy.pipelines.sequences.load_gpt`.
        codes: (t, h, w).
        caption: what comes before; None for nothing.
    """
    words = gpt.vocabulary
    video = words.segment(VIDEO, codes)
    tokens = video if caption is None else join([words.text(caption), video])
    device = gpt.net.head.weight.device
    choices = [ids.to(device) for ids in words.choices(VIDEO)]
    with torch.inference_mode(), fast_autocast(device):
        nats = token_nats(gpt.net, tokens, choices)
    return float(nats.sum()) / (codes.numel() * words[VIDEO].digits) / math.log(2)


def heading(net: FlowNet, video: Tensor) -> str:
    """Say where the one who moves before a camera that stands still goes, by estimated flow.

    Flow is estimated between enlarged frames, as the finest level of the network is coarse.

    Args:
        net: a flow network.
        video: (T, 3, H, W) in [0, 1].
    """
    large = enlarge(video).clamp(0, 1).to(next(net.parameters()).device)
    return main_direction(estimate_flow(net, large[:-1], large[1:], "fast").cpu())


def main_direction(flow: Tensor) -> str:
    """Return left, right, up or down: where what moves goes, on the whole.

    What the rim of the frame does is taken for the ground's motion.

    Args:
        flow: (T, 2, H, W).
    """
    height, width = flow.shape[-2:]
    rim = torch.ones(height, width, dtype=torch.bool)
    rim[height // _RIM : -(height // _RIM), width // _RIM : -(width // _RIM)] = False
    ground = flow[:, :, rim].median(2).values
    x, y = (flow - ground[:, :, None, None])[:, :, ~rim].sum((0, 2)).tolist()
    if abs(x) >= abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


# ------------------------------------------------------------------ the upsampler


def compare_upsampling(
    clip: Clip, decode: Tensor, videos: Mapping[str, Tensor], perceptual: LPIPS | None = None
) -> Table:
    """Judge the upsampling of a clip, beside what is had without it and the truth's own figures.

    Args:
        clip: the original.
        decode: (T, 3, H / 2, W / 2) in [0, 1], what was given.
        videos: what was drawn, (T, 3, H, W) in [0, 1] each, by how: ``free`` and so on.
        perceptual: tells how different pictures look.

    Returns:
        ``psnr`` in dB; ``ssim``; ``lpips``, if there is what measures it; ``gradient``, the mean
        absolute error of the change from pixel to pixel; ``fine``, the amplitude of high
        frequencies over that of the original; ``consistency``, the PSNR in dB of the output,
        averaged down, against the decode; and ``warping``, the error against the frame before where
        flow is exact.
    """
    truth = clip.video.float() / 255
    bicubic = enlarge(decode).clamp(0, 1)
    table: Table = {}
    for whose, video in {TRUTH: truth, BICUBIC: bicubic, **videos}.items():
        if whose != TRUTH:
            table.setdefault("psnr", {})[whose] = _decibels(video, truth)
            table.setdefault("ssim", {})[whose] = _ssim(video, truth)
            if perceptual is not None:
                table.setdefault("lpips", {})[whose] = float(perceptual(video, truth).mean())
            table.setdefault("gradient", {})[whose] = float(gradient_error((video - truth)[None]))
            table.setdefault("fine", {})[whose] = float(fine_ratio(video[None], truth[None]))
        small = F.avg_pool2d(video, SCALE)
        table.setdefault("consistency", {})[whose] = _decibels(small, decode)
        table.setdefault("warping", {})[whose] = _exact_error(clip, video)
    return table


STEADY = ("psnr", "fine", "warping")  # what holding on shall change, and what it shall not


@torch.inference_mode()
def evaluate_upsampler(
    dvae: DVAE,
    upsampler: Upsampler,
    clips: Iterable[Clip],
    *,
    seed: int = 0,
    steps: int = STEPS,
    perceptual: LPIPS | None = None,
    flownet: FlowNet | None = None,
) -> Table:
    """Measure what the upsampler makes of reconstructions.

    Args:
        dvae: whose frames are upsampled.
        upsampler: the network.
        clips: at full size.
        seed: of the noise.
        steps: of sampling.
        perceptual: see :func:`compare_upsampling`.
        flownet: estimates flow between decodes; without it nothing is drawn by such.

    Returns:
        The means of :func:`compare_upsampling`.
    """
    tables = []
    for number, clip in enumerate(clips):
        decode = _through(dvae, halve(clip.video)[None])[1][0]
        draw = partial(_upsample, upsampler, decode, seed=seed + number, steps=steps)
        exact = clip.flow_21, clip.visible_21
        videos = {FREE: draw(exact, temporal=False), HELD: draw(exact)}
        if flownet is not None:
            videos[ESTIMATED] = draw(enlarged_motion(flownet, decode, dvae.config.stride_time))
        tables.append(compare_upsampling(clip, decode, videos, perceptual))
    return mean_table(tables)


@torch.inference_mode()
def evaluate_samples(
    models: VideoModels,
    clips: Iterable[Clip],
    *,
    seed: int = 0,
    steps: int = STEPS,
    sampling: Sampling = SAMPLING,
    candidates: int = CANDIDATES,
    best: int = BEST,
) -> Table:
    """Measure whether free samples hold still, by estimated flow.

    Flow is estimated on the small frames, as when a video is made, so that all ways of enlarging
    them are judged by the same. So it is on the originals.

    Args:
        models: with upsampler and flow network.
        clips: of one actor each, at full size; they give the prompts, and the truth's figures.
        seed: of wordings, samples and noise.
        steps: of the upsampler.
        sampling: how codes are drawn.
        candidates: see :func:`flowwarp.legacy.pipelines.generate.generate`.
        best: likewise.

    Returns:
        ``warping``, and ``fine``, the amplitude of high frequencies over the originals'.
    """
    assert models.upsampler is not None
    assert models.flownet is not None
    apart = models.dvae.config.stride_time
    tables = []
    number = 0
    for batch in _batches(clips):
        numbers = range(number, number + len(batch))
        number += len(batch)
        told = [prompt_of(clip, seed, n) for clip, n in zip(batch, numbers, strict=True)]
        heard = [hear(models.gpt, prompt).text for prompt in told]
        prompts = [Prompt(text) for text in heard]
        seeds = [(seed + n) % 2**63 for n in numbers]
        codes, _ = draw_codes(models, prompts, seeds, sampling, candidates, best)
        decodes = revise_videos(models, _decode(models.dvae, codes, len(batch[0].video)), heard)
        for clip, decode, n in zip(batch, decodes, seeds, strict=True):
            motion = enlarged_motion(models.flownet, decode, apart)
            draw = partial(_upsample, models.upsampler, decode, motion, seed=n + NOISE, steps=steps)
            free, held = draw(temporal=False), draw()
            truth = clip.video.float() / 255
            videos = {BICUBIC: enlarge(decode).clamp(0, 1), FREE: free, HELD: held}
            error = {whose: _error(video, *motion) for whose, video in videos.items()}
            theirs = enlarged_motion(models.flownet, halve(clip.video), apart)
            error[TRUTH] = _error(truth, *theirs)
            energy = {whose: float(fine_energy(v).mean()) for whose, v in videos.items()}
            energy[TRUTH] = float(fine_energy(truth).mean())
            tables.append({"warping": error, "energy": energy})
    means = mean_table(tables)
    energies = means.pop("energy")
    wanted = energies.pop(TRUTH)
    return means | {"fine": {name: math.sqrt(e / wanted) for name, e in energies.items()}}


def _upsample(
    upsampler: Upsampler,
    decode: Tensor,
    motion: tuple[Tensor, Tensor],
    *,
    seed: int,
    steps: int,
    temporal: bool = True,
) -> Tensor:
    device = upsampler.head.weight.device
    flow, visible = (tensor.to(device) for tensor in motion)
    with fast_autocast(device):
        return upsample_clip(
            upsampler,
            decode.to(device),
            flow,
            visible,
            torch.Generator().manual_seed(seed % 2**63),
            steps=steps,
            temporal=temporal,
        ).cpu()


# ------------------------------------------------------------------ samples beside training clips


def nearest_clips(samples: Tensor, clips: Iterable[Clip]) -> tuple[Tensor, Tensor]:
    """Find for each sample the clip that looks most like it: what was learned by heart is found.

    Distances are between all frames, averaged down to 16 pixels a side.

    Args:
        samples: (N, T, 3, S, S) in [0, 1].
        clips: of the same length; any number, one at a time.

    Returns:
        The root mean square distance, (N,), and the clips (N, T, 3, S', S') in [0, 1].
    """
    coarse = _coarse(samples)
    best = torch.full((len(samples),), math.inf)
    found: list[Tensor] = [torch.empty(0)] * len(samples)
    for clip in clips:
        video = clip.video.float() / 255
        distances = (coarse - _coarse(video[None])).square().mean((1, 2, 3, 4)).sqrt()
        for row in (distances < best).nonzero()[:, 0].tolist():
            found[row], best[row] = video, distances[row]
    return best, torch.stack(found)


def _coarse(videos: Tensor) -> Tensor:
    small = F.adaptive_avg_pool2d(videos.flatten(0, 1), _COARSE)
    return small.view(*videos.shape[:3], _COARSE, _COARSE)


# ------------------------------------------------------------------ numbers


def mean_table(tables: Sequence[Table]) -> Table:
    """Return the mean of each figure over tables of the same figures; NaN does not count."""
    means: Table = {}
    for figure in tables[0] if tables else ():
        means[figure] = {}
        for whose in tables[0][figure]:
            values = [table[figure][whose] for table in tables]
            known = [value for value in values if not math.isnan(value)]
            means[figure][whose] = math.fsum(known) / len(known) if known else math.nan
    return means


def _decibels(video: Tensor, target: Tensor) -> float:
    return float(psnr(video[None], target[None]))


def _ssim(video: Tensor, target: Tensor) -> float:
    return 1 - 2 * float(ssim_distance(video, target).mean())


def _exact_error(clip: Clip, video: Tensor) -> float:
    return _error(video, clip.flow_21, clip.visible_21 & clip.valid_21)


def _error(video: Tensor, flow_21: Tensor, known: Tensor) -> float:
    return float(warping_error(video[None], flow_21[None], known[None]))


def _decode(dvae: DVAE, codes: Tensor, frames: int) -> Tensor:
    return dvae.decode(codes.to(next(dvae.parameters()).device), frames).cpu()


def _stack(clips: Sequence[Clip]) -> Tensor:
    return torch.stack([clip.video for clip in clips]).float() / 255


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, _AT_ONCE)):
        yield batch
