import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flowwarp.errors import InputError, OutputError
from flowwarp.io.checkpoints import (
    Card,
    build,
    fill,
    load_tensors,
    load_weights,
    save_tensors,
    save_weights,
    to_8_bits,
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


def test_every_type_of_tensor_round_trips(tmp_path):
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


def test_names_of_one_tensor_are_limited(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(
        {"a": torch.ones(9999)}, path, {"alias": json.dumps({f"b{k}": "a" for k in range(20)})}
    )
    with pytest.raises(
        InputError, match=r"would unpack from 40\d+ to 839916 bytes of shared tensors"
    ):
        load_tensors(path)


def test_a_sparse_file_is_not_read(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"a": torch.ones(9)}, {})
    size = path.stat().st_size
    os.truncate(path, 2**40)
    with pytest.raises(InputError, match=f"complete safetensors .*tensors end at byte {size} of"):
        load_tensors(path)


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
    # Of protocol 0 it has no mark of its own: its end alone would tell, which is another's.
    is_known = protocol != 0 or name != "w.safetensors"
    wanted = "is a pickle; flowwarp" if is_known else "is not a complete safetensors file"
    with pytest.raises(InputError, match=wanted):
        load_weights(path)


def test_a_header_of_640_bytes_is_not_a_pickle(tmp_path):
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
        ({}, "does not state its network"),
        ({"model": "gpt"}, "contains the weights of gpt, not of net"),
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
    with pytest.raises(InputError, match=r"has '1.weight', which the network lacks"):
        fill(net()[:1], state, "w")


def test_unwritable(tmp_path):
    with pytest.raises(OutputError, match="no such file or directory"):
        save_weights(tmp_path / "none" / "w.safetensors", net(), Card("net"))


def test_checkpoints_import_no_image_libraries():
    code = (
        "import sys, flowwarp.io.checkpoints; "
        "assert not {'cv2', 'imageio', 'av', 'PIL', 'kornia'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Wide(nn.Module):
    """Makes ``layers`` matrices of ``width`` squared."""

    def __init__(self, width, layers=1):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))


def build_wide(path):
    return build(path, "wide", lambda settings: Wide(**settings))


def test_build_makes_the_network_of_the_card(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(path, net := Wide(3, 2), Card("wide", {"width": 3, "layers": 2}, 7))
    built, card = build_wide(path)
    assert torch.equal(built.parts[1].weight, net.parts[1].weight)
    assert (card.step, built.parts[0].weight.device.type) == (7, "cpu")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"width": 2**28}, "the network needs"),  # 2**58 bytes
        ({"width": 3, "layers": 10**9}, "more layers than the file has tensors for"),
        ({"width": -1}, "does not describe a wide"),
        ({"width": "3"}, "does not describe a wide"),
        ({"colour": 1}, "does not describe a wide"),
    ],
)
def test_a_wrong_card_allocates_nothing(tmp_path, config, words):
    path = tmp_path / "a.safetensors"
    save_weights(path, Wide(3), Card("wide", config))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=words):
            build_wide(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    net = Wide(3)
    net.parts[0].weight.data[1, 2] = value
    save_weights(tmp_path / "a.safetensors", net, Card("wide", {"width": 3}))
    with pytest.raises(InputError, match=r"'parts.0.weight' is not finite"):
        build_wide(tmp_path / "a.safetensors")


def test_weights_of_another_type_are_refused():
    with pytest.raises(InputError, match=r"complex64, not torch\.float32"):
        fill(Wide(1), {"parts.0.weight": torch.ones(1, 1, dtype=torch.complex64)}, "x")
    fill(net := Wide(1), {"parts.0.weight": torch.ones(1, 1, dtype=torch.float16)}, "x")
    assert net.parts[0].weight.item() == 1


def test_weights_beyond_the_range_of_the_network_are_refused():
    with pytest.raises(InputError, match=r"'parts.0.weight' is not finite"):
        fill(Wide(1), {"parts.0.weight": torch.full((1, 1), 1e300, dtype=torch.float64)}, "x")


def test_weights_of_8_bit_floats():
    """torch has no isfinite for them."""
    fill(net := Wide(1), {"parts.0.weight": torch.ones(1, 1).to(torch.float8_e4m3fn)}, "x")
    assert net.parts[0].weight.item() == 1


def test_any_file_name_is_read_and_closed(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.safetensors")
    save_tensors(path, {"a": torch.arange(5)}, {"b": "c"})
    tensors, metadata = load_tensors(path)
    assert (tensors["a"].tolist(), metadata) == ([0, 1, 2, 3, 4], {"b": "c"})
    os.truncate(path, 10)  # a mapped file would now end the process
    assert tensors["a"].sum() == 10


def test_tensors_are_sorted_by_name(tmp_path):
    """Callers concatenate them, or send them to other processes, and rely on the order."""
    names = [f"part{number}" for number in range(40)]
    tensors = {name: torch.zeros(number) for number, name in enumerate(names)}
    save_tensors(tmp_path / "w.safetensors", tensors, {})
    assert list(load_tensors(tmp_path / "w.safetensors")[0]) == sorted(names)


def test_building_draws_no_random_numbers(tmp_path):
    """Values from a file replace them, and drawing on the meta device imports Dynamo."""
    path = tmp_path / "net.safetensors"
    torch.manual_seed(0)
    drawn = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(3, 4, 3))
    nn.init.normal_(drawn[0].weight)
    drawn.register_buffer("book", torch.randn(5, 3))
    drawn.register_buffer("shares", torch.rand((2, 3)))
    save_weights(path, drawn, Card("net"))
    state = torch.get_rng_state()

    def make(settings):
        made = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(3, 4, 3))
        nn.init.normal_(made[0].weight)
        nn.init.kaiming_normal_(made[1].weight)
        nn.init.zeros_(made[1].bias)
        made.register_buffer("book", torch.randn(5, 3))
        made.register_buffer("shares", torch.rand((2, 3)))
        return made

    again, _ = build(path, "net", make)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, drawn.state_dict().values(), again.state_dict().values()))


def test_8_bits_are_within_half_a_step_of_each_row(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "matrix": torch.randn(5, 40) * torch.tensor([1e-6, 0.0, 1.0, 3.0, 1e5])[:, None],
        "kernel": torch.randn(4, 3, 3, 3),
        "bias": torch.tensor([0.5, -2.0]),
        "none": torch.zeros(0, 4),
        "kinds": torch.arange(6).view(2, 3),
    }
    small = to_8_bits(tensors)
    save_tensors(tmp_path / "net.safetensors", small, {"model": "net"})
    read, _ = load_weights(tmp_path / "net.safetensors")
    assert read.keys() == tensors.keys()
    for name in ("matrix", "kernel"):
        assert small[name].dtype == torch.int8
        step = tensors[name].flatten(1).abs().amax(1) / 127
        error = (read[name] - tensors[name]).flatten(1).abs().amax(1)
        assert (error <= 0.5001 * step).all()
    for name in ("bias", "none", "kinds"):
        assert torch.equal(read[name].to(tensors[name].dtype), tensors[name])


SAME, ONES = torch.ones(2, 3, dtype=torch.int8), torch.ones(2, 1)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"a/scale": torch.ones(2, 1)}, "scale of no tensor"),
        ({"a": torch.ones(2, 3), "a/scale": torch.ones(2, 1)}, "scale of no tensor"),
        ({"a": torch.ones(2, 3).char(), "a/scale": torch.ones(3, 1)}, "one value a row"),
        ({"a": torch.ones((), dtype=torch.int8), "a/scale": torch.ones(1)}, "one value a row"),
        ({"a": SAME, "a/scale": ONES, "b": SAME, "b/scale": ONES}, "another scale"),
    ],
)
def test_a_scale_without_its_tensor_is_refused(tmp_path, stored, message):
    save_tensors(tmp_path / "net.safetensors", stored, {"model": "net"})
    with pytest.raises(InputError, match=message):
        load_weights(tmp_path / "net.safetensors")
