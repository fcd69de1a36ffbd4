"""Hugging Face: model folders in the layout of diffusers, pretrained VAEs, and CLIP scores.

:func:`export_folder` and :func:`import_folder` need no further packages. :func:`vae_codec` and
:func:`clip_judge` need the extra ``hf`` (transformers and diffusers) and a model on disk. Nothing
is downloaded, weights are read from safetensors only, and no code that comes with a model is run.
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
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.models.dvae import DVAE, DVAEConfig
from flowwarp.legacy.models.gpt import GPT, GPTConfig
from flowwarp.legacy.models.reviser import reviser_from_card
from flowwarp.legacy.models.upsampler import Upsampler, UpsamplerConfig
from flowwarp.models.flownet import FlowNet, FlowNetConfig
from flowwarp.tensors import check_frames, check_video

INDEX, CONFIG, PAGE = "model_index.json", "config.json", "README.md"
WEIGHTS = "diffusion_pytorch_model.safetensors"
LIBRARY = "flowwarp"


# By the model's name in the card: its class, and a function from the card's config to a network.
_NETWORKS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], nn.Module]]] = {
    "flownet": ("FlowNet", lambda settings: FlowNet(FlowNetConfig(**settings))),
    "dvae": ("DVAE", lambda settings: DVAE(DVAEConfig(**settings))),
    "gpt": ("GPT", lambda settings: GPT(GPTConfig(**settings))),
    "captioner": ("Captioner", lambda settings: Captioner(CaptionerConfig(**settings))),
    "upsampler": ("Upsampler", lambda settings: Upsampler(UpsamplerConfig(**settings))),
    "reviser": ("Reviser", reviser_from_card),
}
# Of a part and of its folder: without "/" and "..", it cannot lead outside.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LARGEST_JSON = 2**20  # bytes
_MAX_MESSAGE = 200  # characters of another library's message that are printed
_MAX_NOTE = 200  # characters of a note in README.md …
_FULL_NOTES = ("licence", "data")  # … except those that give credit

Codes = Callable[[Tensor], Tensor]
Judge = Callable[[Iterable[Tensor], str], Tensor]


# ------------------------------------------------------------------ folders


def export_folder(folder: str | Path, parts: Mapping[str, str | Path]) -> None:
    """Write networks as a folder for the Hugging Face hub.

    ``model_index.json`` lists the parts. Each has a folder with ``config.json`` and the weights,
    which are an exact copy of the given file, card included. ``README.md`` is the model card.

    Args:
        folder: a new or empty folder; it is written atomically.
        parts: file of weights of each part, by a name such as ``dvae``.

    Raises:
        InputError: a file is missing, broken, or holds none of these networks: flownet, dvae, gpt,
            captioner, upsampler and reviser.
        OutputError: the folder cannot be written, or is not empty.
        ValueError: there are no parts, or a name has other characters than a-z, 0-9 and _.
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
            # Outside of open_input, which blames the weights for an OSError.
            (work / name / WEIGHTS).write_bytes(data)
        _write_json(work / INDEX, index)
        (work / PAGE).write_text(_page(cards), "utf-8")


def import_folder(folder: str | Path) -> dict[str, Path]:
    """Check a folder that :func:`export_folder` wrote, and return the paths of its weights.

    Args:
        folder: for instance, the result of ``huggingface_hub.snapshot_download``.

    Returns:
        The file of each part by its name, for ``load_dvae``, ``load_gpt`` and so on.

    Raises:
        InputError: a part is missing, broken, a pickle, or another network than the index says.
    """
    path = Path(folder, INDEX)
    parts = {name: kind for name, kind in _read_json(path).items() if not name.startswith("_")}
    if not parts:
        raise InputError(path, "names no parts")
    models = {class_name: model for model, (class_name, _) in _NETWORKS.items()}
    found = {}
    for name, kind in parts.items():  # kind: [library, class name]
        if not _NAME.fullmatch(name):
            raise InputError(path, f"has a part {name!r}; names must be a-z, 0-9 and _")
        if not (isinstance(kind, list) and len(kind) == 2 and kind[0] == LIBRARY):
            raise InputError(path, f"its part {name!r} is not of {LIBRARY}")
        model = models.get(kind[1]) if isinstance(kind[1], str) else None
        if model is None:
            raise InputError(path, f"its part {name!r} is a network that flowwarp does not have")
        _refuse_pickles(Path(folder, name))
        weights = Path(folder, name, WEIGHTS)
        card = _check(weights, model)
        if _read_json(Path(folder, name, CONFIG)) != json.loads(json.dumps(_config(card))):
            raise InputError(Path(folder, name, CONFIG), f"differs from the card in {WEIGHTS}")
        found[name] = weights
    return found


def _check(path: str | Path, model: str | None = None) -> Card:
    """Return the card of a file of weights, after building its network from it.

    Args:
        path: the file.
        model: the network that it must hold; None for the one that its metadata name.
    """
    if model is None:
        tensors, metadata = load_tensors(path)
        del tensors
        model = metadata.get("model", "")
        if model not in _NETWORKS:
            raise InputError(path, f"holds none of these networks: {', '.join(_NETWORKS)}")
    return build(path, model, _NETWORKS[model][1])[1]


def _config(card: Card) -> dict[str, Any]:
    return {"_class_name": _NETWORKS[card.model][0], **card.config}


def _page(cards: Mapping[str, Card]) -> str:
    """Return the text of ``README.md``, with the hub's metadata as YAML at the top."""
    lines = ["---", f"library_name: {LIBRARY}", f"tags: [{LIBRARY}]", "---", ""]
    lines += ["# Networks for flowwarp", "", "| part | network | steps |", "|---|---|---|"]
    lines += [f"| {name} | {card.model} | {card.step or ''} |" for name, card in cards.items()]
    for name, card in cards.items():
        shown = {
            k: note for k, note in card.notes.items() if k in _FULL_NOTES or len(note) <= _MAX_NOTE
        }
        lines += ["", f"## {name}", ""]
        lines += [f"- {key}: {' '.join(note.split())}" for key, note in shown.items()]
    return "\n".join([*lines, ""])


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    with open_input(path) as (file, size):
        if size > _LARGEST_JSON:
            raise InputError(path, f"has {size} bytes; at most {_LARGEST_JSON} are read")
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

LEVELS = 256  # to which each number of a latent is rounded
_REACH = 4.0  # standard deviations from the mean that the levels cover


def vae_codec(folder: str | Path, device: str = "cpu") -> tuple[Codes, Codes, int]:
    """Return a pretrained image VAE (diffusers' ``AutoencoderKL``) as a codec of video.

    Frames are encoded one by one, and each number of a latent is rounded to one of 256 levels. An
    upsampler can be trained on its decodes as on those of the discrete VAE.

    Args:
        folder: with ``config.json`` and ``diffusion_pytorch_model.safetensors``.
        device: where to compute.

    Returns:
        The arguments of :class:`legacy.train.upsampler.Codec`: a function from video (1, T, 3, H,
        W) in [0, 1] to codes (1, T, C * h, w), one from codes to video, and the number of codes.
        The first raises ``ValueError`` if H or W is not a multiple of the VAE's stride.

    Raises:
        InputError: the extra ``hf`` is missing, or the folder does not hold such a VAE.
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
        unit = (torch.cat(latents).float() - shift) * scale  # (T, C, h, w), about unit variance
        level = ((unit / _REACH).clamp(-1, 1) + 1) * ((LEVELS - 1) / 2)
        return level.round().to(torch.int64).flatten(1, 2)[None]

    @torch.no_grad()
    def decode(codes: Tensor) -> Tensor:
        shape = codes.shape[1], channels, -1, codes.shape[3]  # (T, C, h, w)
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

        # The config could describe a network of any size: without memory, its parameters are
        # compared with those of the file first.
        with torch.device("meta"), at_most(4 * len(tensors) + 64):
            described = AutoencoderKL.from_config(config)
        expected = sum(parameter.numel() for parameter in described.parameters())
        present = sum(tensor.numel() for tensor in tensors.values())
        if expected != present:
            raise InputError(folder, f"describes {expected} parameters, and has {present}")
        del tensors, described
        # Unlike load_state_dict, this translates names of weights in older files.
        net, report = AutoencoderKL.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True,
            low_cpu_mem_usage=False,
        )  # fmt: skip
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            key = report[problem][0]
            raise InputError(folder, f"its weights do not fit its network ({key})")
    return net


# ------------------------------------------------------------------ CLIP scores


def clip_judge(folder: str | Path, device: str = "cpu") -> Judge:
    """Return a function that scores how well videos match a caption, by a pretrained CLIP.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021. Frames are scored one by one, so motion does not count.

    Args:
        folder: with a ``CLIPModel`` of transformers as ``model.safetensors``, its tokenizer and,
            optionally, ``preprocessor_config.json`` or ``processor_config.json``.
        device: where to compute.

    Returns:
        A function of videos, each (T, 3, H, W) in [0, 1], and a caption. It returns scores (B,) in
        [-1, 1] on the CPU: the cosine between frame and caption, averaged over frames.

    Raises:
        InputError: the extra ``hf`` is missing, or the folder does not hold such a model.
    """
    folder = Path(folder)
    if _read_json(folder / CONFIG).get("model_type") != "clip":
        raise InputError(folder / CONFIG, "does not describe a CLIP")
    mean, deviation = _colour_statistics(folder)
    with _extra("transformers", folder):
        from transformers import AutoTokenizer, CLIPModel

        if not any(folder.glob("model*.safetensors*")):  # one file, or the index of several
            raise InputError(folder, "has no safetensors", "it must hold model.safetensors")
        net, report = CLIPModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for problem in ("missing_keys", "mismatched_keys"):
        if report[problem]:
            raise InputError(folder, f"its weights do not fit its network ({problem})")
    net = net.float().to(device).eval().requires_grad_(False)  # may be stored in float16
    side = net.config.vision_config.image_size
    longest = net.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def judge(videos: Iterable[Tensor], caption: str) -> Tensor:
        text = tokenizer(
            caption, truncation=True, max_length=longest, return_tensors="pt",
            return_token_type_ids=False,  # CLIP has no token types, and transformers warns of them
        )  # fmt: skip
        words = F.normalize(_features(net.get_text_features(**text.to(device))), dim=-1)  # (1, D)
        scores = []
        for video in videos:  # one by one, to save memory
            check_video(video[None])
            pixels = F.interpolate(video, (side, side), mode="bicubic", antialias=True)
            pixels = (pixels.clamp(0, 1) - mean) / deviation
            frames = F.normalize(_features(net.get_image_features(pixels.to(device))), dim=-1)
            scores.append((frames @ words[0]).mean().cpu())  # frames: (T, D)
        return torch.stack(scores) if scores else torch.zeros(0)

    return judge


def _features(output: Any) -> Tensor:
    """Return the features (N, D) of a model's output, an object since transformers 5."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features.float()


def _colour_statistics(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation of colours, (3, 1, 1) each, that a CLIP was trained with."""
    path = folder / "preprocessor_config.json"
    settings = _read_json(path) if path.exists() else {}
    new_path = folder / "processor_config.json"  # since transformers 5
    if not path.exists() and new_path.exists():
        path, settings = new_path, _read_json(new_path).get("image_processor", {})
        if not isinstance(settings, dict):
            raise InputError(path, "its image_processor is not a JSON object")
    statistics = []
    for name, default in (
        ("image_mean", (0.48145466, 0.4578275, 0.40821073)),
        ("image_std", (0.26862954, 0.26130258, 0.27577711)),
    ):
        value = settings.get(name, default)
        if not (isinstance(value, Sequence) and len(value) == 3):
            raise InputError(path, f"its {name} is not three numbers")
        try:
            statistics.append(torch.tensor([float(number) for number in value]).view(3, 1, 1))
        except (TypeError, ValueError) as fault:
            raise InputError(path, f"its {name} is not three numbers") from fault
    return statistics[0], statistics[1]


@contextmanager
def _extra(library: str, folder: Path) -> Any:
    """Turn errors of an optional library into an ``InputError`` of one line."""
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
        problem = " ".join(str(fault).split())[:_MAX_MESSAGE]
        raise InputError(folder, f"cannot be read by {library} ({problem})") from fault
