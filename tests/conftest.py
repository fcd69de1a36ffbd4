"""Fixtures of several folders: a cache, small networks for video, a small disk."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys

import pytest

# Set before torch is imported: at these sizes threads cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from flowwarp.data.media import VOCABULARY
from flowwarp.data.sprite_world import grounds
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.io.video_writer import write_video
from flowwarp.legacy.data.tokens import Medium, Vocabulary, train_pairs
from flowwarp.legacy.models import dvae, gpt, upsampler
from flowwarp.legacy.train.tokenized import grid_media
from flowwarp.models import flownet

CAPTIONS = ["a red knight walks left", "a blue knight waves"]

# Tests send signals, which jobs in the background of a shell or under nohup ignore.
for name, default in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)  # Windows has no SIGHUP
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)


def pytest_runtest_setup(item):
    if sys.platform == "win32" and item.get_closest_marker("posix"):
        pytest.skip("needs POSIX")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep what tests prepare out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path_factory.mktemp("own_cache")))
        yield


@pytest.fixture(scope="session")
def captioned_squares():
    """Return a function that writes a folder of captioned clips: squares that move right or left.

    A clip has 8 frames of 32 x 32 pixels.
    """

    def write(folder, count):
        folder.mkdir()
        for number in range(count):
            color = ("red", "green", "blue")[number % 3]
            right = number % 2 == 0
            video = torch.full((8, 3, 32, 32), 0.9)
            for time in range(8):
                left = 8 + number // 2 + (time if right else 7 - time)
                video[time, :, 8:20, left : left + 8] = 0
                video[time, number % 3, 8:20, left : left + 8] = 1
            write_video(folder / f"{number}.mp4", video, 12)
            text = f"a {color} square moves {'right' if right else 'left'}"
            (folder / f"{number}.txt").write_text(text)
        return folder

    return write


@pytest.fixture
def one_torch_thread():
    """Let torch compute with one thread during a test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def few_grounds():
    """Paint three variants of each ground instead of all: the rest is the same code."""
    before, grounds.VARIANTS = grounds.VARIANTS, 3
    yield
    grounds.VARIANTS = before


class OldAutocast(TorchFunctionMode):
    """Caches the first cast of each weight, with or without gradients, as older torch does."""

    def __init__(self):
        super().__init__()
        self.casts = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.linear, F.conv2d):
            args = tuple(map(self.cast, args))
        return func(*args, **(kwargs or {}))

    def cast(self, value):
        if not isinstance(value, torch.nn.Parameter):
            return value
        if value not in self.casts:
            self.casts[value] = value.to(torch.bfloat16)
        return self.casts[value]


@pytest.fixture
def gradients_under_old_autocast(monkeypatch):
    """Return a function of a network and of a function that makes its loss: gradients by name."""

    def gradients(net, make):
        with OldAutocast() as mode, torch.autocast("cpu", torch.bfloat16):
            monkeypatch.setattr(torch, "clear_autocast_cache", mode.casts.clear)
            loss = make()
        torch.autograd.backward(loss.float().sum())
        return {name: parameter.grad for name, parameter in net.named_parameters()}

    return gradients


@pytest.fixture(scope="session")
def video_weights(tmp_path_factory):
    """Return weights by name: gpt, dvae, upsampler, flow; 8 frames of 16 px, doubled, a window."""
    folder = tmp_path_factory.mktemp("video_weights")
    torch.manual_seed(0)
    config = dataclasses.replace(dvae.TINY, widths=(8, 16, 32), levels=(3, 3))
    nets = {"dvae": dvae.DVAE(config), "flow": flownet.FlowNet(flownet.TINY)}
    nets["upsampler"] = upsampler.Upsampler(upsampler.TINY)
    torch.nn.init.normal_(nets["upsampler"].head.weight, std=0.02)
    paths = {name: folder / f"{name}.safetensors" for name in (*nets, "gpt")}
    for name, net in nets.items():
        model = "flownet" if name == "flow" else name
        save_weights(paths[name], net, Card(model, dataclasses.asdict(net.config)))
    pairs = train_pairs(2 * CAPTIONS, 60)
    media = (Medium("text", pairs.size), *grid_media(nets["dvae"], 16, 8))
    words = Vocabulary(media, pairs, text_limit=8)
    # Large weights, so that outputs depend on the input; they need a norm.
    net = gpt.GPT(dataclasses.replace(gpt.TINY, vocabulary=words.size, depth=1, norm="rms"))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    notes = {VOCABULARY: words.to_json()}
    save_weights(paths["gpt"], net, Card("gpt", dataclasses.asdict(net.config), 1, notes))
    return paths


@pytest.fixture
def small_disk(tmp_path):
    """Return a file system of 256 kB; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
