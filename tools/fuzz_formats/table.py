"""The formats: file extension, maker of a valid file, check of a mutated one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flowwarp.io.file_types import FLOW_FORMATS
from flowwarp.io.images import ImageFormat
from flowwarp.models.flownet import FlowNetConfig
from flowwarp.train.loop import LoopConfig
from flowwarp.train.settings import to_toml
from fuzz_formats.data import (
    LIST,
    check_captioned,
    check_config,
    check_layers,
    check_list,
    check_manifest,
    check_recipe,
    check_state,
    make_captioned,
    make_layers,
    make_manifest,
    make_recipe,
    make_state,
    make_text,
)
from fuzz_formats.flow import check_flow, check_packed, make_flow, make_packed
from fuzz_formats.networks import (
    check_captioner,
    check_classifier,
    check_dvae,
    check_gpt,
    check_reviser,
    check_upsampler,
    check_weights,
    make_captioner,
    make_classifier,
    make_dvae,
    make_gpt,
    make_reviser,
    make_rounding_dvae,
    make_upsampler,
    make_weights,
)
from fuzz_formats.pictures import check_image, make_gif, make_image
from fuzz_formats.videos import check_salvage, check_video, make_film, make_video

# Extension, maker of a valid file, and check, by format.
FORMATS: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], None]]] = {
    **{
        "kitti" if name == "png" else name: (f".{name}", make_flow(f".{name}"), check_flow)
        for name in FLOW_FORMATS
    },
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
    "captions_jsonl": (".jsonl", make_captioned, check_captioned),
    "tar": (".tar", make_captioned, check_captioned),
    "list": (".txt", make_text(LIST), check_list),
    "layers": (".json", make_layers, check_layers),
    "manifest": (".jsonl", make_manifest, check_manifest),
}  # fmt: skip

# Names of files that are found by their name.
NAMES = {
    "state": "state-00000001.safetensors",
    "captions": "captions.csv",
    "captions_jsonl": "captions.jsonl",
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
