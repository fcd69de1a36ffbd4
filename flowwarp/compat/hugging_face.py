"""Bridges to Hugging Face: folders laid out as by diffusers, a pretrained VAE, a pretrained judge.

:func:`export_folder` and :func:`import_folder` need nothing but what flowwarp needs. The other two
need the extra ``hf`` (transformers and diffusers) and models that lie on disk: nothing is
downloaded here, weights are read from safetensors only, and no code that comes with a model runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.errors import InputError, missing_extra
from flowwarp.io.atomic import atomic_folder
from flowwarp.io.checkpoints import PICKLES, Card, at_most, build, load_tensors
from flowwarp.io.files import open_input
from flowwarp.models.captioner import Captioner, CaptionerConfig
from flowwarp.models.dvae import DVAE, DVAEConfig
from flowwarp.models.flownet import FlowNet, FlowNetConfig
from flowwarp.models.gpt import GPT, GPTConfig
from flowwarp.models.reviser import reviser_from_card
from flowwarp.models.upsampler import Upsampler, UpsamplerConfig
from flowwarp.tensors import check_frames, check_video

INDEX, CONFIG, PAGE = "model_index.json", "config.json", "README.md"
WEIGHTS = "diffusion_pytorch_model.safetensors"
LIBRARY = "flowwarp"


# By the name in the card: the class, and how to make one.
_NETWORKS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], nn.Module]]] = {
    "flownet": ("FlowNet", lambda settings: FlowNet(FlowNetConfig(**settings))),
    "dvae": ("DVAE", lambda settings: DVAE(DVAEConfig(**settings))),
    "gpt": ("GPT", lambda settings: GPT(GPTConfig(**settings))),
    "captioner": ("Captioner", lambda settings: Captioner(CaptionerConfig(**settings))),
    "upsampler": ("Upsampler", lambda settings: Upsampler(UpsamplerConfig(**settings))),
    "reviser": ("Reviser", reviser_from_card),
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # of a part, and so of a folder: it leads nowhere else
_LARGEST_JSON = 2**20
_SHOWN = 200  # characters of a note on the page, or of another library's message
_WHOLE = ("licence", "data")  # notes that are shown however long: they give credit

Codes = Callable[[Tensor], Tensor]
Judge = Callable[[Iterable[Tensor], str], Tensor]


# ------------------------------------------------------------------ folders


def export_folder(folder: str | Path, parts: Mapping[str, str | Path]) -> None:
    """Write networks as a folder that tools of the hub can store and show.

    ``model_index.json`` names the parts; each has a folder of its name with ``config.json`` and the
    weights, which are the file that was given, byte for byte, its card included. ``README.md`` says
    what they are.

    Args:
        folder: a new or an empty one; it appears whole or not at all.
        parts: names, such as ``dvae``, and files of weights with their cards.

    Raises:
        InputError: a file is missing, broken, or of none of the networks that such a folder takes:
            flownet, dvae, gpt, captioner, upsampler and reviser.
        OutputError: the folder cannot be written, or is not empty.
        ValueError: no parts, or a name that is no plain word.
    """
    if not parts:
        raise ValueError("parts must not be empty")
    for name in parts:
        if not _NAME.fullmatch(name):
            raise ValueError(f"names of parts must be a-z, 0-9 and _, got {name!r}")
    cards = {name: _check(path) for name, path in parts.items()}
    index: dict[str, Any] = {"_class_name": "Flowwarp"}
    with atomic_folder(folder) as work:
        for name, path in parts.items():
            card = cards[name]
            index[name] = [LIBRARY, _NETWORKS[card.model][0]]
            (work / name).mkdir()
            _write_json(work / name / CONFIG, _config(card))
            with open_input(path) as (file, _):
                data = file.read()
            # Not while it is read, whose faults are the file's.
            (work / name / WEIGHTS).write_bytes(data)
        _write_json(work / INDEX, index)
        (work / PAGE).write_text(_page(cards), "utf-8")


def import_folder(folder: str | Path) -> dict[str, Path]:
    """Check a folder that :func:`export_folder` wrote, and say where its weights are.

    Args:
        folder: such as ``huggingface_hub.snapshot_download`` returns.

    Returns:
        For each part its file, for ``load_dvae``, ``load_gpt`` and so on.

    Raises:
        InputError: a part is missing, broken, of another network than it says, or a pickle.
    """
    path = Path(folder, INDEX)
    parts = {name: what for name, what in _read_json(path).items() if not name.startswith("_")}
    if not parts:
        raise InputError(path, "names no parts")
    models = {kind: model for model, (kind, _) in _NETWORKS.items()}
    found = {}
    for name, what in parts.items():
        if not _NAME.fullmatch(name):
            raise InputError(path, f"names a part {name!r}, which is no plain word")
        if not (isinstance(what, list) and len(what) == 2 and what[0] == LIBRARY):
            raise InputError(path, f"its part {name!r} is not of {LIBRARY}")
        model = models.get(what[1]) if isinstance(what[1], str) else None
        if model is None:
            raise InputError(path, f"its part {name!r} is of a network that flowwarp does not have")
        _refuse_pickles(Path(folder, name))
        weights = Path(folder, name, WEIGHTS)
        card = _check(weights, model)
        if _read_json(Path(folder, name, CONFIG)) != json.loads(json.dumps(_config(card))):
            raise InputError(Path(folder, name, CONFIG), f"is not what the card in {WEIGHTS} says")
        found[name] = weights
    return found


def _check(path: str | Path, model: str | None = None) -> Card:
    """Return the card of weights that fit the network they are of."""
    if model is None:
        tensors, metadata = load_tensors(path)
        del tensors
        model = metadata.get("model", "")
        if model not in _NETWORKS:
            raise InputError(path, f"is not of a network for such folders ({', '.join(_NETWORKS)})")
    return build(path, model, _NETWORKS[model][1])[1]


def _config(card: Card) -> dict[str, Any]:
    return {"_class_name": _NETWORKS[card.model][0], **card.config}


def _page(cards: Mapping[str, Card]) -> str:
    """Return what the hub shows of a folder, with what it looks for at the top."""
    lines = ["---", f"library_name: {LIBRARY}", f"tags: [{LIBRARY}]", "---", ""]
    lines += ["# Networks for flowwarp", "", "| part | network | steps |", "|---|---|---|"]
    lines += [f"| {name} | {card.model} | {card.step or ''} |" for name, card in cards.items()]
    for name, card in cards.items():
        shown = {k: note for k, note in card.notes.items() if k in _WHOLE or len(note) <= _SHOWN}
        lines += ["", f"## {name}", ""]
        lines += [f"- {key}: {' '.join(note.split())}" for key, note in shown.items()]
    return "\n".join([*lines, ""])


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    with open_input(path) as (file, size):
        if size > _LARGEST_JSON:
            raise InputError(path, f"has {size} bytes, too many for a description")
        data = file.read()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise InputError(path, f"is not JSON ({fault})") from fault
    if not isinstance(content, dict):
        raise InputError(path, "is not a JSON object")
    return content


def _refuse_pickles(folder: Path) -> None:
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in PICKLES:
            raise InputError(
                path,
                "is a pickle; flowwarp loads safetensors only",
                "loading one would run the code in it; remove it",
            )


# ------------------------------------------------------------------ a pretrained VAE

LEVELS = 256  # that a number of the latent is rounded to
_REACH = 4.0  # standard deviations that the levels cover


def vae_codec(folder: str | Path, device: str = "cpu") -> tuple[Codes, Codes, int]:
    """Return a pretrained image VAE (diffusers' ``AutoencoderKL``) as a codec of video.

    Frames are encoded one by one, each number of a latent is rounded to one of 256 levels: what an
    upsampler can learn to restore and, as with the discrete VAE, what can go wrong.

    Args:
        folder: with ``config.json`` and ``diffusion_pytorch_model.safetensors``.
        device: where it shall work.

    Returns:
        From video (1, T, 3, h, w) in [0, 1] to codes (1, T, C * h', w'); back; and how many codes
        there are: the arguments of :class:`flowwarp.train.upsampler.Codec`. Sides that are no
        multiple of what each latent stands for are a ``ValueError``.

    Raises:
        InputError: the extra ``hf`` is missing, or the folder is no such VAE.
    """
    net = _load_vae(Path(folder)).to(device).eval().requires_grad_(False)
    scale = float(net.config.scaling_factor)
    shift = float(net.config.shift_factor or 0.0)
    channels = int(net.config.latent_channels)
    stride = 2 ** (len(net.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(video: Tensor) -> Tensor:
        check_frames(video, stride)
        latents = [
            net.encode(2 * frame - 1).latent_dist.mode() for frame in torch.split(video[0], 1)
        ]
        unit = (torch.cat(latents).float() - shift) * scale  # about unit variance
        level = ((unit / _REACH).clamp(-1, 1) + 1) * ((LEVELS - 1) / 2)
        return level.round().to(torch.int64).flatten(1, 2)[None]

    @torch.no_grad()
    def decode(codes: Tensor) -> Tensor:
        shape = codes.shape[1], channels, -1, codes.shape[3]
        unit = (codes[0].reshape(shape) * (2 / (LEVELS - 1)) - 1) * _REACH
        latents = unit / scale + shift
        frames = [net.decode(latent).sample for latent in torch.split(latents, 1)]
        return ((torch.cat(frames) + 1) / 2).clamp(0, 1)[None]

    return encode, decode, LEVELS


def _load_vae(folder: Path) -> Any:
    config = _read_json(folder / CONFIG)
    if config.get("_class_name") != "AutoencoderKL":
        raise InputError(folder / CONFIG, f"is of a {config.get('_class_name')}, not AutoencoderKL")
    tensors, _ = load_tensors(folder / WEIGHTS)
    with _extra("diffusers", folder):
        from diffusers import AutoencoderKL

        # What is described is compared with what is there before memory is taken for it.
        with torch.device("meta"), at_most(4 * len(tensors) + 64):
            described = AutoencoderKL.from_config(config)
        wanted = sum(parameter.numel() for parameter in described.parameters())
        there = sum(tensor.numel() for tensor in tensors.values())
        if wanted != there:
            raise InputError(folder, f"describes {wanted} parameters, and has {there}")
        del tensors, described
        # Older files have other names for the same weights, which this translates.
        net, told = AutoencoderKL.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True,
            low_cpu_mem_usage=False,
        )  # fmt: skip
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told[problem]:
            raise InputError(folder, f"its weights are not of its network ({told[problem][0]})")
    return net


# ------------------------------------------------------------------ a pretrained judge


def clip_judge(folder: str | Path, device: str = "cpu") -> Judge:
    """Return a judge of videos: how well each fits a caption, by a pretrained CLIP.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML
    2021. It sees single frames, so what moves where it does not know.

    Args:
        folder: with a ``CLIPModel`` of transformers as ``model.safetensors``, its tokenizer, and
            perhaps ``preprocessor_config.json`` or ``processor_config.json``.
        device: where it shall work.

    Returns:
        A function of videos, each (T, 3, H, W) in [0, 1], and a caption to scores (B,) in [-1, 1],
        on the CPU: the mean over frames of the cosine between picture and caption.

    Raises:
        InputError: the extra ``hf`` is missing, or the folder is no such model.
    """
    folder = Path(folder)
    if _read_json(folder / CONFIG).get("model_type") != "clip":
        raise InputError(folder / CONFIG, "is not of a CLIP")
    mean, deviation = _colours(folder)
    with _extra("transformers", folder):
        from transformers import AutoTokenizer, CLIPModel

        if not any(folder.glob("model*.safetensors*")):  # one file, or an index of several
            raise InputError(folder, "has no safetensors", "it must hold model.safetensors")
        net, told = CLIPModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for problem in ("missing_keys", "mismatched_keys"):
        if told[problem]:
            raise InputError(folder, f"its weights are not of its network ({problem})")
    net = net.float().to(device).eval().requires_grad_(False)  # whatever it was saved in
    side = net.config.vision_config.image_size
    longest = net.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def judge(videos: Iterable[Tensor], caption: str) -> Tensor:
        text = tokenizer(caption, truncation=True, max_length=longest, return_tensors="pt")
        words = F.normalize(_features(net.get_text_features(**text.to(device))), dim=-1)
        scores = []
        for video in videos:  # one by one: memory stays small
            check_video(video[None])
            pixels = F.interpolate(video, (side, side), mode="bicubic", antialias=True)
            pixels = (pixels.clamp(0, 1) - mean) / deviation
            seen = F.normalize(_features(net.get_image_features(pixels.to(device))), dim=-1)
            scores.append((seen @ words[0]).mean().cpu())
        return torch.stack(scores) if scores else torch.zeros(0)

    return judge


def _features(found: Any) -> Tensor:
    """Return the features themselves, which transformers 5 has wrapped."""
    features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return features.float()


def _colours(folder: Path) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of colours, (3, 1, 1) each, that a CLIP was trained with."""
    path = folder / "preprocessor_config.json"
    told = _read_json(path) if path.exists() else {}
    both = folder / "processor_config.json"  # where transformers 5 saves them
    if not path.exists() and both.exists():
        path, told = both, _read_json(both).get("image_processor", {})
        if not isinstance(told, dict):
            raise InputError(path, "its image_processor is not a JSON object")
    found = []
    for name, usual in (
        ("image_mean", (0.48145466, 0.4578275, 0.40821073)),
        ("image_std", (0.26862954, 0.26130258, 0.27577711)),
    ):
        value = told.get(name, usual)
        if not (isinstance(value, Sequence) and len(value) == 3):
            raise InputError(path, f"its {name} is not three numbers")
        try:
            found.append(torch.tensor([float(number) for number in value]).view(3, 1, 1))
        except (TypeError, ValueError) as fault:
            raise InputError(path, f"its {name} is not three numbers") from fault
    return found[0], found[1]


@contextmanager
def _extra(library: str, folder: Path) -> Any:
    """Say in one line that a library is missing, or cannot read a folder."""
    from safetensors import SafetensorError

    try:
        yield
    except InputError:
        raise
    except ImportError as fault:
        raise missing_extra(library, "hf") from fault
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError,
        RecursionError, SafetensorError,
    ) as fault:  # fmt: skip
        problem = " ".join(str(fault).split())[:_SHOWN]
        raise InputError(folder, f"cannot be read by {library} ({problem})") from fault
