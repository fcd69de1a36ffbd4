import json
import pickle
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flowwarp.errors import InputError, OutputError
from flowwarp.io.checkpoints import (
    Card,
    fill,
    load_tensors,
    load_weights,
    save_tensors,
    save_weights,
)


def net(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))


def test_round_trip_with_card(tmp_path):
    path = tmp_path / "net.safetensors"
    card = Card("net", {"width": 4, "sizes": [1, 2]}, 100, {"licence": "MIT", "é": "ü\n"})
    network = net()
    save_weights(path, network, card)
    tensors, read = load_weights(path, "net")
    assert read == card
    other = net()
    fill(other, tensors, path)
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_kind_of_tensor_comes_back(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    tensors = {
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "bf16": torch.randn(5).bfloat16(),
        "bool": torch.tensor([True, False]),
        "transposed": base.t(),
        "row": base[1],
        "base": base,
        "tied": base,
        "odd": torch.arange(3, dtype=torch.uint8),
    }
    save_tensors(tmp_path / "t.safetensors", tensors, {"a": "b"})
    read, metadata = load_tensors(tmp_path / "t.safetensors")
    assert metadata == {"a": "b"}
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_tied_weights_are_stored_once(tmp_path):
    network = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    network[1].weight = network[0].weight
    save_weights(tmp_path / "t.safetensors", network, Card("net"))
    assert (tmp_path / "t.safetensors").stat().st_size < 41_000
    fill(network, load_weights(tmp_path / "t.safetensors")[0], "t")


def test_half_precision_storage(tmp_path):
    network = net()
    save_weights(tmp_path / "h.safetensors", network, Card("net"), dtype=torch.float16)
    tensors, _ = load_weights(tmp_path / "h.safetensors")
    assert tensors["0.weight"].dtype == torch.float16
    other = net()
    fill(other, tensors, "h")
    assert other[0].weight.dtype == torch.float32
    torch.testing.assert_close(other[0].weight, network[0].weight, rtol=1e-3, atol=1e-4)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin"])
@pytest.mark.parametrize("protocol", [0, 2, 4, "zip", "legacy"])
def test_pickles_are_refused_by_name(tmp_path, name, protocol):
    path = tmp_path / name
    if protocol == "zip":
        torch.save({"a": torch.zeros(3)}, path)
    elif protocol == "legacy":
        torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(Bomb(), protocol))
    wanted = "safetensors" if protocol == 0 and name == "w.safetensors" else "is a pickle; flowwarp"
    with pytest.raises(InputError, match=wanted):
        load_weights(path)


def test_header_of_640_bytes_is_no_pickle(tmp_path):
    """Its length, 0x280, begins like a pickle of protocol 2."""
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = {"model": "net"}
    text = json.dumps(header).encode().ljust(640)
    path.write_bytes(struct.pack("<Q", 640) + text + data[8 + length :])
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert load_weights(path)[1].model == "net"


def test_broken_files(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, net(), Card("net", {"width": 4}))
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    flipped = bytearray(data)
    flipped[-3] ^= 4
    broken = {
        "truncated": data[:-1],
        "header only": data[: 8 + length],
        "longer": data + b"x",
        "huge header": struct.pack("<Q", 2**62) + data[8:],
        "short": data[:5],
        "text": b"hello, I am no weights",
        "flipped": bytes(flipped),
        "config": data.replace(b"width", b'wi"th'),
    }
    for name, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(InputError) as fault:
            load_weights(path)
        assert "\n" not in str(fault.value), name
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        load_weights(path)
    with pytest.raises(InputError, match="is a folder"):
        load_weights(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({}, "does not say which network"),
        ({"model": "gpt"}, "holds the weights of gpt, not of net"),
        ({"model": "net", "config": "{"}, "its card is broken"),
        ({"model": "net", "config": "3"}, "its card is broken"),
        ({"model": "net", "config": "[" * 100_000}, "its card is broken"),
        ({"model": "net", "step": "x"}, "its card is broken"),
        ({"model": "net", "alias": '{"a": "none"}'}, "shared tensors"),
        ({"model": "net", "alias": "[1]"}, "shared tensors"),
    ],
)
def test_wrong_cards(tmp_path, metadata, problem):
    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(InputError, match=problem):
        load_weights(tmp_path / "w.safetensors", "net")


def test_wrong_network_names_the_first_key():
    state = net().state_dict()
    with pytest.raises(InputError, match=r"w: '0.weight' is \(4, 3\), the network needs \(5, 3\)"):
        fill(net(5), state, "w")
    with pytest.raises(InputError, match=r"lacks '2.weight'"):
        fill(nn.Sequential(*net(), nn.Linear(2, 2)), state, "w")
    with pytest.raises(InputError, match=r"has '1.weight', which the network has not"):
        fill(net()[:1], state, "w")


def test_unwritable(tmp_path):
    with pytest.raises(OutputError, match="no such file or directory"):
        save_weights(tmp_path / "none" / "w.safetensors", net(), Card("net"))


def test_imports_no_reader_of_pictures():
    code = (
        "import sys, flowwarp.io.checkpoints; "
        "assert not {'cv2', 'imageio', 'av', 'PIL', 'kornia'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
