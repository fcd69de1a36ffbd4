"""The web page: its functions without gradio, and the page itself where gradio is installed."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flowwarp import web
from flowwarp.cli import generate_video
from flowwarp.cli.errors import run
from flowwarp.errors import InputError
from flowwarp.io.flow_files import read_flow
from flowwarp.io.images import ImageFormat, read_image, write_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.legacy.pipelines.load import load_models
from flowwarp.legacy.pipelines.sequences import load_gpt
from flowwarp.pipelines.flow.estimate import load_flownet
from tiny_model import tiny_model

PROMPT = "a red knight"


class Progress(list):
    """A list of the shares reported; false while empty, as gradio's progress is in a condition."""

    __call__ = list.append


@pytest.fixture(scope="module")
def texture():
    """Noise in which every match is unambiguous."""
    generator = torch.Generator().manual_seed(0)
    return F.avg_pool2d(torch.rand(1, 3, 68, 106, generator=generator), 5, 1)[0]


@pytest.fixture
def pair(texture, tmp_path):
    """Two images between which everything moves to the right by 2 px."""
    paths = [str(tmp_path / f"{name}.png") for name in ("first", "second")]
    write_image(paths[0], texture[..., 2:])
    write_image(paths[1], texture[..., :-2])
    return paths


@pytest.fixture(scope="module")
def models(video_weights):
    names = ("gpt", "dvae", "upsampler", "flow")
    return load_models(**{name: video_weights[name] for name in names})


def distance(path, expected):
    """Return the largest difference more than 8 px from the border."""
    return (read_image(path) - expected)[:, 8:-8, 8:-8].abs().max()


# ------------------------------------------------------------------ what the tabs compute


def test_flow_warps_the_second_image_to_the_first(pair, texture, tmp_path):
    progress = Progress()
    colors, warped, file = web.show_flow(load_flownet(), *pair, "balanced", tmp_path, progress)
    flow, _ = read_flow(file)
    assert flow.flatten(1).median(1).values.round().tolist() == [2, 0]
    red, green, blue = read_image(colors).mean((1, 2))
    assert red > 0.9 > max(green, blue) + 0.2
    assert distance(warped, texture[..., 2:]) < 0.02
    assert progress[-1] == 1


def test_between_is_half_way(pair, texture, tmp_path):
    progress = Progress()
    middle = web.show_between(load_flownet(), *pair, tmp_path, progress)
    assert distance(middle, texture[..., 1:-1]) < 0.03
    assert progress[-1] == 1


def test_two_scenes_cannot_be_interpolated(pair, tmp_path):
    write_image(pair[0], torch.zeros(3, 32, 48))
    write_image(pair[1], torch.rand(3, 32, 48).round())
    with pytest.raises(InputError, match=r"^the images: show different scenes; choose two"):
        web.show_between(load_flownet("small"), *pair, tmp_path)


def test_wrong_images_are_errors(pair, tmp_path, monkeypatch):
    first, second = pair

    def message(*paths):
        with pytest.raises(InputError) as error:
            web.show_flow(load_flownet("small"), *paths, "fast", tmp_path)
        assert not (tmp_path / "flow.flo").exists()
        return str(error.value)

    assert message(None, second) == "the first image: is missing; choose a file"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert message(first, str(broken)) == "the second image: is not a picture of a known type"
    small = str(tmp_path / "small.png")
    write_image(small, torch.zeros(3, 20, 30))
    assert message(first, small).startswith("the second image: is 30x20, the first is 100x64;")
    monkeypatch.setattr(web, "MAX_PIXELS", 100 * 64 - 1)
    many = "the first image: its header says 100x64 pixels; at most"
    assert message(first, second).startswith(many)
    for name in ("deep.png", "packed.jpg"):  # an error before it is decoded
        write_image(tmp_path / name, torch.zeros(3, 64, 100), ImageFormat(bits=16))
        assert message(str(tmp_path / name), second).startswith(many)


def test_the_video_is_that_of_generate_video(models, video_weights, tmp_path):
    progress = Progress()
    path, note = web.show_video(models, PROMPT, 3, tmp_path, progress)
    other = tmp_path / "other.mp4"
    given = [part for name, file in video_weights.items() for part in (f"--{name}", str(file))]
    with pytest.raises(SystemExit, match=r"^0$"):
        run(generate_video.command, [PROMPT, "-o", str(other), "--seed", "3", *given])
    assert torch.equal(*(torch.stack(list(read_video(file))) for file in (path, other)))
    assert video_info(path).fps == video_info(other).fps
    assert note == ""
    assert progress[-1] == 1


def test_notes_name_unknown_words(models, tmp_path):
    _, note = web.show_video(models, "a red zebra", None, tmp_path)
    assert note == "not in the training data: zebra"


def test_notes_say_how_the_prompt_was_read(models, tmp_path):
    gpt = replace(models.gpt, known=load_gpt().known)
    _, note = web.show_video(replace(models, gpt=gpt), "ginger lass on a zebra", None, tmp_path)
    assert note == "read as: a red-haired\nignored: zebra"  # the rest is cut


@pytest.mark.parametrize("prompt", [None, "", " \n"])
def test_an_empty_prompt_is_an_error(models, tmp_path, prompt):
    with pytest.raises(InputError, match=r"^the prompt: contains no usable word"):
        web.show_video(models, prompt, 0, tmp_path)


def test_a_model_of_train_video(tmp_path):
    model, progress = tiny_model(), Progress()
    path, note = web.show_model_video(model, "a red ball", 3, tmp_path, progress)
    info = video_info(path)
    assert (info.width, info.height, info.fps, info.frames) == (48, 48, 10, 8)
    assert note == ""
    assert progress == [number / 8 for number in range(1, 9)]
    frames = torch.stack(list(read_video(path)))
    assert float((frames - model.generate("a red ball", seed=3)).abs().mean()) < 0.05
    _, note = web.show_model_video(model, "a red zebra", None, tmp_path)
    assert note == "not in the training captions: zebra"
    with pytest.raises(InputError, match="none of the words"):
        web.show_model_video(model, None, 0, tmp_path)


def test_a_wrong_model_is_an_error_of_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^3$"):
        run(web.command, ["--weights", str(tmp_path)])
    assert "has no model yet" in capsys.readouterr().err


# ------------------------------------------------------------------ the page


@pytest.fixture
def page(models, tmp_path, monkeypatch):
    """The page, its address, and the lock that is held while something is computed."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")  # restored after the test
    lock = threading.Lock()
    folder = tmp_path / "page"
    folder.mkdir()
    page = web.build_page(folder, lambda: load_flownet("small"), lambda: models, lock)
    yield page, web.launch(page), lock
    page.close(verbose=False)
    gc.collect()  # event loops that gradio leaves open warn here, not in another test


@pytest.mark.filterwarnings("ignore")  # gradio uses deprecated functions
def test_the_page_serves_all_tabs_on_this_machine_only(page, pair, tmp_path):
    blocks, address, lock = page
    assert address.startswith("http://127.0.0.1:")
    assert blocks.server.config.host == "127.0.0.1"
    assert not blocks.analytics_enabled
    assert blocks.share_url is None
    with urllib.request.urlopen(address) as answer:
        assert b"Estimate flow" in answer.read()
    urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "localhost"})).close()
    other = urllib.request.Request(address, headers={"Host": "example.org"})
    with pytest.raises(urllib.error.HTTPError, match="400") as error:
        urllib.request.urlopen(other)
    error.value.close()

    import gradio_client

    client = gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "got"))
    first, second = map(gradio_client.handle_file, pair)
    colors, warped, file = client.predict(first, second, "fast", api_name="/flow")
    assert read_image(colors).shape == read_image(warped).shape == (3, 64, 100)
    assert read_flow(file)[0].shape == (2, 64, 100)
    assert read_image(client.predict(first, second, api_name="/between")).shape == (3, 64, 100)
    video, _ = client.predict(PROMPT, 0, api_name="/video")
    assert video_info(video).frames == 8
    text = gradio_client.handle_file(__file__)
    for second, problem in ((None, "is missing"), (text, "is not a picture of a known type")):
        with pytest.raises(gradio_client.exceptions.AppError, match=f"image: {problem}"):
            client.predict(first, second, "fast", api_name="/flow")
    assert lock.acquire(blocking=False)


@pytest.mark.filterwarnings("ignore")
def test_the_page_reads_uploads_only(page, pair):
    given = 2 * [{"path": pair[0], "meta": {"_type": "gradio.FileData"}}]
    where = f"{page[1]}gradio_api/call/between"
    data = json.dumps({"data": given}).encode()
    request = urllib.request.Request(where, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{where}/{event}") as answer:
        assert answer.read().startswith(b"event: error")


@pytest.mark.posix
def test_results_are_removed_when_the_page_ends(tmp_path):
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    served = subprocess.Popen(
        [sys.executable, "-m", "flowwarp.web"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert served.stdout.readline().startswith("http://127.0.0.1:")
    (folder,) = tmp_path.glob("flowwarp_*")
    (folder / "result").touch()
    served.send_signal(signal.SIGTERM)
    assert served.communicate(timeout=60) == ("", "flowwarp: terminated\n")
    assert served.returncode == 143
    assert not folder.exists()


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    with pytest.raises(SystemExit, match=r"^3$"):
        run(web.command, [])
    message = "flowwarp: gradio: cannot be imported; install the extra 'demo' as README.md says\n"
    assert capsys.readouterr().err == message


def test_a_wrong_option_names_the_page():
    done = subprocess.run(
        [sys.executable, "-m", "flowwarp.web", "--port", "0"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.endswith("; see 'python -m flowwarp.web --help'\n")


def test_the_module_imports_neither_torch_nor_gradio():
    code = """\
import sys, flowwarp.cli
assert "flowwarp.web" not in sys.modules
import flowwarp.web
assert not {"torch", "gradio"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
