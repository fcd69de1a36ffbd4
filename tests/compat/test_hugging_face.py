"""Model folders for the Hugging Face hub."""

import dataclasses
import errno
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowwarp.compat.hugging_face import (
    CONFIG,
    INDEX,
    WEIGHTS,
    clip_judge,
    export_folder,
    import_folder,
    vae_codec,
)
from flowwarp.errors import InputError, OutputError
from flowwarp.io.checkpoints import Card, load_weights, save_weights
from flowwarp.legacy.models import captioner, dvae, gpt, reviser, upsampler
from flowwarp.models import flownet


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A file of weights of each network, with cards that are hard to copy."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    nets = {
        "dvae": dvae.DVAE(dataclasses.replace(dvae.TINY, widths=(8, 16, 32))),
        "gpt": gpt.GPT(dataclasses.replace(gpt.TINY, vocabulary=50, depth=1)),
        "upsampler": upsampler.Upsampler(upsampler.TINY),
        "captioner": captioner.Captioner(captioner.CaptionerConfig(50, size=16, kinds=3)),
        "reviser": reviser.Reviser(
            reviser.ReviserConfig((("hair", ("red", "blue")),), widths=(8, 16), blocks=(1, 1))
        ),
        "flow": flownet.FlowNet(flownet.TINY),
    }
    notes = {"licence": "CC-BY-SA", "vocabulary": '{"merges": [[1, 2]]}', "é": "ü\n" * 200}
    notes |= {"data": "Footage by " + "somebody, " * 50}
    paths = {}
    for name, net in nets.items():
        paths[name] = folder / f"{name}.safetensors"
        model = "flownet" if name == "flow" else name
        save_weights(paths[name], net, Card(model, dataclasses.asdict(net.config), 7, notes))
    return paths


# Folders


def test_round_trip_is_bit_exact(parts, tmp_path):
    folder = tmp_path / "networks"
    export_folder(folder, parts)
    found = import_folder(folder)
    assert list(found) == list(parts)
    for name, path in parts.items():
        assert found[name] == folder / name / WEIGHTS
        assert found[name].read_bytes() == path.read_bytes()
        config = json.loads((folder / name / CONFIG).read_text())
        card = load_weights(found[name])[1]
        assert config.pop("_class_name").lower() == card.model
        assert config == card.config
    again = tmp_path / "again"
    export_folder(again, found)
    assert (again / INDEX).read_bytes() == (folder / INDEX).read_bytes()
    page = (folder / "README.md").read_text("utf-8")
    assert page.startswith("---\nlibrary_name: flowwarp\n")
    assert "| dvae | dvae | 7 |" in page
    assert "- licence: CC-BY-SA" in page
    assert "- data: Footage by " + "somebody, " * 50 in page.replace(
        "\n", " "
    )  # never cut: it gives credit


def test_export_writes_all_or_nothing(parts, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(parts["dvae"].read_bytes()[:-5])
    with pytest.raises(InputError, match=r"broken.safetensors: is not a complete safetensors file"):
        export_folder(tmp_path / "out", {"gpt": parts["gpt"], "dvae": broken})
    other = tmp_path / "other.safetensors"
    save_weights(other, torch.nn.Linear(1, 1), Card("line"))
    with pytest.raises(InputError, match="holds none of these networks"):
        export_folder(tmp_path / "out", {"line": other})
    assert sorted(path.name for path in tmp_path.iterdir()) == [broken.name, other.name]
    with pytest.raises(OutputError, match="exists and is not an empty folder"):
        export_folder(tmp_path, {"gpt": parts["gpt"]})
    for name in ("../gpt", "", "a/b", "Gpt", "a" * 65, ".", "gpt\n"):
        with pytest.raises(ValueError, match="names of parts must be"):
            export_folder(tmp_path / "out", {name: parts["gpt"]})
    with pytest.raises(ValueError, match="parts must not be empty"):
        export_folder(tmp_path / "out", {})


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('"dvae"', "is not a JSON object"),
        ("{}", "names no parts"),
        ('{"_class_name": "Flowwarp"}', "names no parts"),
        (" " * 2**21, "at most 1048576 are read"),
        ('{"../dvae": ["flowwarp", "DVAE"]}', "names must be a-z, 0-9 and _"),
        ('{"/tmp": ["flowwarp", "DVAE"]}', "names must be a-z, 0-9 and _"),
        ('{"": ["flowwarp", "DVAE"]}', "names must be a-z, 0-9 and _"),
        ('{"dvae": ["os", "system"]}', "is not of flowwarp"),
        ('{"dvae": "DVAE"}', "is not of flowwarp"),
        ('{"dvae": ["flowwarp", "Linear"]}', "a network that flowwarp does not have"),
        ('{"dvae": ["flowwarp", ["DVAE"]]}', "a network that flowwarp does not have"),
        ('{"dvae": ["flowwarp", "GPT"]}', "contains the weights of dvae, not of gpt"),
        ('{"other": ["flowwarp", "DVAE"]}', "no such file"),
    ],
)
def test_a_wrong_index_is_one_line(parts, tmp_path, index, words):
    folder = tmp_path / "networks"
    export_folder(folder, {"dvae": parts["dvae"]})
    (folder / INDEX).write_text(index)
    with pytest.raises(InputError, match=words) as fault:
        import_folder(folder)
    assert len(str(fault.value).splitlines()) == 1


def test_a_full_disk_is_an_output_error(parts, tmp_path, monkeypatch):
    def write(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OutputError, match="no space left"):
        export_folder(tmp_path / "networks", {"dvae": parts["dvae"]})
    assert list(tmp_path.iterdir()) == []


class Code:
    def __reduce__(self):
        return (sys.exit, (77,))


@pytest.mark.parametrize("name", [WEIGHTS, "diffusion_pytorch_model.bin", "model.ckpt"])
def test_pickles_are_errors(parts, tmp_path, name):
    export_folder(tmp_path / "networks", {"dvae": parts["dvae"]})
    (tmp_path / "networks" / "dvae" / name).write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match=f"{name}: is a pickle"):
        import_folder(tmp_path / "networks")


def test_a_changed_part_is_an_error(parts, tmp_path):
    folder = tmp_path / "networks"
    export_folder(folder, {"dvae": parts["dvae"]})
    path = folder / "dvae" / CONFIG
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"norm": "group"}))
    with pytest.raises(InputError, match=r"config.json: differs from the card in"):
        import_folder(folder)
    path.write_text(json.dumps(config))
    import_folder(folder)
    weights = folder / "dvae" / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match="do not match its SHA-256"):
        import_folder(folder)
    weights.unlink()
    with pytest.raises(InputError, match="no such file"):
        import_folder(folder)
    with pytest.raises(InputError, match="no such file"):
        import_folder(tmp_path / "nowhere")


def test_diffusers_reads_the_folder(parts, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="the extra hf is not installed")
    export_folder(tmp_path / "networks", parts)
    index = diffusers.DiffusionPipeline.load_config(str(tmp_path / "networks"))
    assert index["gpt"] == ["flowwarp", "GPT"]


# Without the extra


def test_a_missing_extra_is_named(parts, tmp_path, monkeypatch):
    (tmp_path / CONFIG).write_text('{"_class_name": "AutoencoderKL", "model_type": "clip"}')
    (tmp_path / WEIGHTS).write_bytes(parts["gpt"].read_bytes())
    for library, open_model in (("diffusers", vae_codec), ("transformers", clip_judge)):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(InputError, match=rf"{library}: .*install the extra 'hf'"):
            open_model(tmp_path)


def test_the_import_loads_no_extra():
    code = "import sys, flowwarp.compat.hugging_face; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"transformers", "diffusers", "tokenizers", "cv2"} & set(done.stdout.split())
