"""Pretrained models of Hugging Face: a VAE as a codec, and CLIP scores."""

import dataclasses
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flowwarp.compat import hugging_face
from flowwarp.compat.hugging_face import (
    CONFIG,
    LEVELS,
    WEIGHTS,
    clip_judge,
    vae_codec,
)
from flowwarp.errors import InputError
from flowwarp.io.video_writer import write_video
from flowwarp.legacy.models import upsampler
from flowwarp.models import flownet


class Code:
    def __reduce__(self):
        return (sys.exit, (77,))


# A pretrained VAE


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    diffusers = pytest.importorskip("diffusers", reason="the extra hf is not installed")
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    net = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    )
    net.save_pretrained(folder)
    return net.eval(), folder


@torch.no_grad()
def test_a_vae_is_a_codec(vae):
    net, folder = vae
    encode, decode, entries = vae_codec(folder)
    video = torch.rand(1, 3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    codes = encode(video)
    assert codes.shape == (1, 3, 3 * 8, 12)
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) < int(codes.max()) < entries == LEVELS
    latent = net.encode(2 * video[0] - 1).latent_dist.mode()
    # The rounding: half a level of 256 over eight deviations, each 1 / 0.5 wide.
    unit = codes[0].view(3, 3, 8, 12) * (8 / 255) - 4
    assert float((unit / 0.5 + 0.25 - latent).abs().max()) <= 8 / 255
    expected = (net.decode(unit / 0.5 + 0.25).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decode(codes)[0], expected, rtol=0, atol=1e-5)
    assert torch.equal(encode(video[:, 1:2])[0, 0], codes[0, 1])  # frame by frame


def test_frames_must_be_multiples_of_the_vae_s_stride(tmp_path, monkeypatch):
    def load(folder):
        net = torch.nn.AvgPool2d(4)
        net.config = SimpleNamespace(
            scaling_factor=1, shift_factor=None, latent_channels=3, block_out_channels=(8, 8, 8)
        )
        net.encode = lambda frame: SimpleNamespace(
            latent_dist=SimpleNamespace(mode=lambda: net(frame))
        )
        return net

    monkeypatch.setattr(hugging_face, "_load_vae", load)
    encode, _, _ = vae_codec(tmp_path)
    assert encode(torch.rand(1, 2, 3, 8, 12)).shape == (1, 2, 3 * 2, 3)
    for shape in ((1, 2, 3, 8, 14), (1, 2, 3, 6, 12), (1, 2, 1, 8, 12)):
        with pytest.raises(ValueError, match="with H and W multiples of 4, got shape"):
            encode(torch.rand(shape))


def test_an_upsampler_learns_from_a_vae(vae):
    from flowwarp.data.digits import compose_digits
    from flowwarp.legacy.train.upsampler import (
        Codec,
        ConditionConfig,
        UpsamplerDataConfig,
        draw_batch,
        upsampler_losses,
    )

    codec = Codec(*vae_codec(vae[1]))
    data = UpsamplerDataConfig(size=32, length=4, frames=2, spoilt=1.0, errors=0.5)
    source = lambda seed, number: compose_digits(seed, number, 32, 4)  # noqa: E731
    examples = draw_batch(source, codec, 0, range(2), data, ConditionConfig())
    assert examples["decode"].shape == (2, 2, 3, 16, 16)
    clean = dataclasses.replace(data, spoilt=0.0)
    other = draw_batch(source, codec, 0, range(2), clean, ConditionConfig())
    assert not torch.equal(other["decode"], examples["decode"])
    net = upsampler.Upsampler(upsampler.TINY)
    loss = upsampler_losses(net, examples, 0.0, ConditionConfig())["loss"]
    loss.sum().backward()
    assert loss.shape == (2,)
    assert float(net.head.weight.grad.abs().max()) > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "UNet2DModel"}, "is of a UNet2DModel, not AutoencoderKL"),
        ({"block_out_channels": [8, 2**20]}, r"describes \d+ parameters, and has \d+"),
        ({"layers_per_block": 10**9}, "more layers than the file has tensors for"),
        ({"latent_channels": 4}, r"describes \d+ parameters, and has \d+"),
        ({"block_out_channels": "wide"}, "cannot be read by diffusers"),
        ({"norm_num_groups": 0}, "cannot be read by diffusers"),
    ],
)
def test_a_wrong_vae_config_is_an_error(vae, tmp_path, changes, words):
    for path in vae[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=words):
        vae_codec(tmp_path)


def test_pickled_vae_weights_are_errors(vae, tmp_path):
    (tmp_path / CONFIG).write_bytes((vae[1] / CONFIG).read_bytes())
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match=f"{WEIGHTS}: no such file"):
        vae_codec(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match="is a pickle"):
        vae_codec(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((vae[1] / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        vae_codec(tmp_path)


# CLIP scores


class StandIn(torch.nn.Module):
    """The methods of a CLIP that `clip_judge` calls, tiny and without transformers."""

    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=2),
        text_config=SimpleNamespace(max_position_embeddings=6),
    )

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(12, 3)

    def get_image_features(self, pixels):
        return self.encoder(pixels.flatten(1))

    def get_text_features(self, words):
        return words

    @classmethod
    def from_pretrained(cls, folder, **options):
        torch.manual_seed(0)
        return cls().half(), {"missing_keys": [], "mismatched_keys": []}  # float16, as stored


class Words(dict):
    def to(self, device):
        return self


@pytest.fixture
def stand_in(monkeypatch):
    tokenizer = lambda *caption, **options: Words(words=torch.ones(1, 3))  # noqa: E731
    library = SimpleNamespace(
        CLIPModel=StandIn,
        AutoTokenizer=SimpleNamespace(from_pretrained=lambda folder, **options: tokenizer),
    )
    monkeypatch.setitem(sys.modules, "transformers", library)


def judged(folder):
    (folder / CONFIG).write_text('{"model_type": "clip"}')
    (folder / "model.safetensors").touch()
    video = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return clip_judge(folder)([video], "a knight")


def test_a_clip_stored_in_half_precision_runs_in_float32(stand_in, tmp_path):
    """Since transformers 5 a network is loaded in the precision of its file."""
    score = judged(tmp_path)
    assert score.dtype == torch.float32
    assert -1 <= float(score) <= 1


def test_colour_statistics_in_the_file_of_transformers_5(stand_in, tmp_path):
    usual = judged(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text('{"image_processor": {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}}')
    new = judged(tmp_path)
    assert not torch.equal(new, usual)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert torch.equal(judged(tmp_path), usual)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}'
    )
    assert torch.equal(judged(tmp_path), new)
    (tmp_path / "preprocessor_config.json").unlink()
    path.write_text('{"processor_class": "CLIPProcessor"}')
    assert torch.equal(judged(tmp_path), usual)
    for wrong in ('{"image_processor": []}', '{"image_processor": {"image_std": 1}}'):
        path.write_text(wrong)
        with pytest.raises(InputError, match=r"processor_config.json: its image_"):
            judged(tmp_path)


SIDE = 16
CAPTIONS = ["a red knight", "grass and snow"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("clip")
    words = ["<end>", "<begin>", *" ".join(CAPTIONS).split()]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", special_tokens=[("<begin>", 1), ("<end>", 0)]
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=small
        | {"vocab_size": 16, "max_position_embeddings": 6, "eos_token_id": 0, "bos_token_id": 1},
        vision_config=small | {"image_size": SIDE, "patch_size": 8},
        projection_dim=8,
    )
    net = transformers.CLIPModel(config).eval()
    for parameter in net.parameters():  # the default gives all images about the same score
        torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder)
    return net, fast, folder


@torch.no_grad()
def test_scores_are_those_of_clip(clip):
    net, tokenizer, folder = clip
    judge = clip_judge(folder)
    videos = torch.rand(3, 2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    for caption in CAPTIONS:
        text = tokenizer(caption, return_tensors="pt")
        pixels = (videos.flatten(0, 1) - mean) / deviation
        logits = net(input_ids=text.input_ids, pixel_values=pixels).logits_per_image[:, 0]
        expected = (logits / net.logit_scale.exp()).view(3, 2).mean(1)
        torch.testing.assert_close(judge(videos, caption), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(judge(videos, CAPTIONS[0]), judge(videos, CAPTIONS[1]))
    assert judge([], CAPTIONS[0]).shape == (0,)
    larger = torch.nn.functional.interpolate(videos[0], scale_factor=4, mode="nearest")
    both = judge([videos[0], larger], CAPTIONS[0] + " and grass" * 50)
    assert float((both[0] - both[1]).abs()) < 0.2


def test_colour_statistics_come_from_the_folder(clip, tmp_path):
    for path in clip[2].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    video = [torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))]
    before = clip_judge(tmp_path)(video, CAPTIONS[0])
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    assert not torch.equal(clip_judge(tmp_path)(video, CAPTIONS[0]), before)
    for wrong in ('{"image_mean": [0, 0]}', '{"image_std": ["x", 1, 1]}', '{"image_std": 1}'):
        path.write_text(wrong)
        with pytest.raises(InputError, match="is not three numbers"):
            clip_judge(tmp_path)


def test_a_broken_clip_is_an_error_of_one_line(clip, vae, tmp_path):
    with pytest.raises(InputError, match="does not describe a CLIP"):
        clip_judge(vae[1])
    (tmp_path / CONFIG).write_bytes((clip[2] / CONFIG).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be read by transformers"):
        clip_judge(tmp_path)


def test_clip_weights_must_be_safetensors(stand_in, tmp_path):
    (tmp_path / CONFIG).write_text('{"model_type": "clip"}')
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match=r"has no safetensors; it must hold model.safetensors"):
        clip_judge(tmp_path)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).touch()
        clip_judge(tmp_path)
        (tmp_path / name).unlink()


# Examples of docs/hugging_face.md

ROOT = Path(__file__).parents[2]


def example(number):
    text = (ROOT / "docs" / "hugging_face.md").read_text("utf-8")
    return text.split("```python\n")[number].split("```")[0]


def test_the_example_of_folders(tmp_path, monkeypatch):
    (tmp_path / "flowwarp").symlink_to(ROOT / "flowwarp")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example(1), names)
    assert names["found"]["flow"].read_bytes() == names["weights"].read_bytes()
    assert isinstance(names["net"], flownet.FlowNet)


def test_the_example_of_clip_scores(clip, tmp_path, monkeypatch, capsys):
    (tmp_path / "clip-vit-large-patch14").symlink_to(clip[2])
    monkeypatch.chdir(tmp_path)
    for seed in range(4):
        frames = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        write_video(f"{seed}.mp4", frames)
    names = {}
    exec(example(2), names)
    scores = names["judge"](names["videos"], "a knight in red armour walks left")
    assert capsys.readouterr().out == f"{int(scores.argmax())}.mp4\n"
