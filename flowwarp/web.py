"""A web page to try flowwarp: optical flow, frame interpolation and text to video.

``python -m flowwarp.web`` serves it to browsers on this machine. It needs the extra ``demo``
(gradio). The functions behind the tabs (:func:`show_flow`, :func:`show_between` and
:func:`show_video`) take and return paths, and do not depend on gradio.
"""

from __future__ import annotations

import functools
import html
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.bundled import bundled
from flowwarp.cli.device import choose_device, set_wait_policy
from flowwarp.cli.errors import run
from flowwarp.defaults import FPS, MAX_SEED, QUALITIES
from flowwarp.errors import FlowwarpError, InputError, missing_extra

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.defaults import Quality
    from flowwarp.legacy.pipelines.load import VideoModels
    from flowwarp.models.flownet import FlowNet
    from flowwarp.pipelines.flow.refine import Progress
    from flowwarp.pipelines.video.load import VideoModel

HOST = "127.0.0.1"  # this machine only
# largest image; requests run one at a time, so a larger one would block everybody
MAX_PIXELS = 4_000_000
MAX_FILE_SIZE = "32mb"  # of an upload; 4 million pixels of 16-bit RGB have 24
MAX_PROMPT = 1000  # characters, more than any network here reads
PROMPTS = (
    "a skeleton casts a spell on sand",
    "a knight in plate armor walks to the left",
    "a woman in a blue dress stands still",
)


# ------------------------------------------------------------------ what the tabs compute


def show_flow(
    net: FlowNet,
    first: str | None,
    second: str | None,
    quality: Quality,
    folder: Path,
    progress: Progress | None = None,
) -> tuple[Path, Path, Path]:
    """Estimate the flow between two images.

    Args:
        net: from :func:`flowwarp.load_flownet`.
        first: path of an image; None, if the user chose none, is an error.
        second: path of another image of the same size.
        quality: as for :func:`flowwarp.estimate_flow`.
        folder: where results are written.
        progress: called with the share that is done, in [0, 1].

    Returns:
        Paths of the flow in colour, the second image warped to the first, and the flow as ``.flo``.

    Raises:
        InputError: an image is missing, unreadable or too large, or the sizes differ.
    """
    from flowwarp.io.flow_files import write_flow
    from flowwarp.io.images import write_image
    from flowwarp.ops.warping import warp
    from flowwarp.pipelines.flow.pair_fields import estimate_fields
    from flowwarp.viz.colors import flow_to_image

    image1, image2 = _read_pair(first, second)
    flow = estimate_fields(net, image1, image2, quality, progress=progress).flow_12  # (2, H, W)
    colors, warped, file = (folder / name for name in ("colors.png", "warped.png", "flow.flo"))
    write_image(colors, flow_to_image(flow))
    write_image(warped, warp(image2[None], flow[None])[0])
    write_flow(file, flow)
    return colors, warped, file


def show_between(
    net: FlowNet,
    first: str | None,
    second: str | None,
    folder: Path,
    progress: Progress | None = None,
) -> Path:
    """Interpolate the frame half-way between two images.

    Args:
        net: from :func:`flowwarp.load_flownet`.
        first: path of an image; None, if the user chose none, is an error.
        second: path of another image of the same size and scene.
        folder: where the result is written.
        progress: called with the share that is done, in [0, 1].

    Raises:
        InputError: as for :func:`show_flow`; or the images show different scenes.
    """
    from flowwarp.io.images import write_image
    from flowwarp.pipelines.flow.estimate import estimate_both
    from flowwarp.pipelines.flow.interpolate import interpolate_video

    device = next(net.parameters()).device

    def estimate(image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor]:
        return estimate_both(net, image1.to(device), image2.to(device), progress=progress)

    skipped: list[str] = []  # why a pair was not interpolated: "cut" or "repeat"
    _, middle, _ = interpolate_video(_read_pair(first, second), 2, estimate, report=skipped.append)
    if "cut" in skipped:
        raise InputError("the images", "show different scenes", "choose two frames of one")
    path = folder / "between.png"
    write_image(path, middle)
    return path


def show_video(
    models: VideoModels,
    prompt: str | None,
    seed: float | None,
    folder: Path,
    progress: Progress | None = None,
) -> tuple[Path, str]:
    """Generate a video from a prompt, as ``generate-video`` does by default.

    Args:
        models: from :func:`flowwarp.legacy.pipelines.load.load_models`.
        prompt: what the video should show.
        seed: of the random numbers; None is 0.
        folder: where the video is written.
        progress: called with the share that is done, in [0, 1].

    Returns:
        The path of the video, and notes for the user: how the prompt was read, which words were
        ignored, and which are unknown to the network. They are empty if it was read literally.

    Raises:
        InputError: no word of the prompt can be used.
    """
    from flowwarp.io.video_writer import write_video
    from flowwarp.legacy.pipelines.generate import generate
    from flowwarp.legacy.pipelines.hearing import hear

    prompt = (prompt or "")[:MAX_PROMPT]
    parsed = hear(models.gpt, prompt)
    if not parsed.text:
        raise InputError("the prompt", "contains no usable word", "say what to show")

    def report(done: int, total: int) -> None:
        if progress is not None:  # gradio's progress is false in a condition
            progress(done / total)

    frames = generate(models, prompt, seed=int(seed or 0), progress=report)
    path = folder / "video.mp4"
    write_video(path, frames, FPS)
    notes = []
    if parsed.reworded:
        notes.append(f"read as: {parsed.read}")
    if parsed.left_out:
        notes.append(f"ignored: {', '.join(parsed.left_out)}")
    if parsed.unknown:
        notes.append(f"not in the training data: {', '.join(parsed.unknown)}")
    return path, "\n".join(notes)


def show_model_video(
    model: VideoModel,
    prompt: str | None,
    seed: float | None,
    folder: Path,
    progress: Progress | None = None,
) -> tuple[Path, str]:
    """Generate a video by a model of ``train-video``; see :func:`show_video`.

    Raises:
        InputError: no word of the prompt is known.
    """
    from flowwarp.io.video_writer import write_video
    from flowwarp.pipelines.video.generate import Request, generate_frames
    from flowwarp.pipelines.video.prompt import parse_prompt

    parsed = parse_prompt((prompt or "")[:MAX_PROMPT], model.words)
    count = model.config.frames

    def report(frames: Iterator[Tensor]) -> Iterator[Tensor]:
        for number, frame in enumerate(frames, start=1):
            yield frame
            if progress is not None:  # gradio's progress is false in a condition
                progress(number / count)

    path = folder / "video.mp4"
    frames = generate_frames(model, Request(parsed.text), int(seed or 0))
    write_video(path, report(frames), model.config.fps)
    unknown = ", ".join(parsed.unknown)
    return path, f"not in the training captions: {unknown}" if unknown else ""


def _read_pair(first: str | None, second: str | None) -> list[Tensor]:
    """Read two images of the same size, (3, H, W) each."""
    from flowwarp.io.images import read_image

    images: list[Tensor] = []
    for name, path in (("the first image", first), ("the second image", second)):
        if not path:
            raise InputError(name, "is missing", "choose a file")
        try:
            images.append(read_image(path, most=MAX_PIXELS))
        except InputError as error:  # it names a temporary file of the server
            raise InputError(name, str(error).removeprefix(f"{error.source}: ")) from error
        size, expected = (f"{image.shape[2]}x{image.shape[1]}" for image in (images[-1], images[0]))
        if size != expected:
            raise InputError(
                name, f"is {size}, the first is {expected}", "choose two of the same size"
            )
    return images


# ------------------------------------------------------------------ the page

# A context that yields a new folder for results; only one is open at a time.
Results = Callable[[], AbstractContextManager[Path]]


def build_page(
    folder: Path,
    flownet: Callable[[], FlowNet],
    models: Callable[[], VideoModels] | Callable[[], VideoModel],
    lock: threading.Lock,
    prompts: Sequence[str] = PROMPTS,
) -> Any:
    """Build the page, a ``gradio.Blocks``.

    Args:
        folder: where uploads and results are written.
        flownet: loads the network of the first two tabs, when it is needed.
        models: loads the networks of the third tab, when they are needed.
        lock: held while something is computed.
        prompts: examples for the third tab.

    Raises:
        InputError: the extra ``demo`` is missing.
    """
    # gradio reads both when it is imported or creates a component.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # of uploads
    try:
        import gradio as gr
    except ImportError as error:
        raise missing_extra(error.name or "gradio", "demo") from error

    @contextmanager
    def results() -> Iterator[Path]:
        """Yield a new folder for results; show an error of the user's as a message on the page."""
        try:
            with lock:
                yield Path(tempfile.mkdtemp(dir=folder))
        except FlowwarpError as error:
            message = html.escape(str(error), quote=False)
            raise gr.Error(message, print_exception=False) from error

    with gr.Blocks(title="flowwarp", analytics_enabled=False) as page:
        with gr.Tab("Optical flow"):
            _flow_tab(flownet, results)
        with gr.Tab("Interpolation"):
            _between_tab(flownet, results)
        with gr.Tab("Text to video"):
            _video_tab(models, results, prompts)
    return page


_ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "job", "concurrency_limit": 1}


def _flow_tab(flownet: Callable[[], FlowNet], results: Results) -> None:
    import gradio as gr

    bar = gr.Progress()  # gradio finds it as the default of a parameter

    def flow(first: Any, second: Any, quality: Any, progress: Any = bar) -> Any:
        with results() as folder:
            paths = show_flow(flownet(), first, second, quality, folder, progress)
            return [str(path) for path in paths]  # gr.File takes no Path

    pair = _image_pair()
    quality = gr.Radio(list(QUALITIES), value="balanced", label="Quality")
    button = gr.Button("Estimate flow", variant="primary")
    with gr.Row():
        outputs = [gr.Image(label="Flow"), gr.Image(label="Second image, warped to the first")]
    outputs.append(gr.File(label="Flow file"))
    button.click(flow, [*pair, quality], outputs, **_ONE_AT_A_TIME)
    gr.Examples([[*_sample_pair(), "balanced"]], [*pair, quality], cache_examples=False)


def _between_tab(flownet: Callable[[], FlowNet], results: Results) -> None:
    import gradio as gr

    bar = gr.Progress()

    def between(first: Any, second: Any, progress: Any = bar) -> Any:
        with results() as folder:
            return show_between(flownet(), first, second, folder, progress)

    pair = _image_pair()
    button = gr.Button("Interpolate", variant="primary")
    middle = gr.Image(label="Frame half-way between both")
    button.click(between, pair, middle, **_ONE_AT_A_TIME)
    gr.Examples([_sample_pair()], pair, cache_examples=False)


def _video_tab(
    models: Callable[[], VideoModels] | Callable[[], VideoModel],
    results: Results,
    prompts: Sequence[str],
) -> None:
    import gradio as gr

    from flowwarp.pipelines.video.load import VideoModel

    bar = gr.Progress()

    def video(prompt: Any, seed: Any, progress: Any = bar) -> Any:
        with results() as folder:
            loaded = models()
            if isinstance(loaded, VideoModel):
                return show_model_video(loaded, prompt, seed, folder, progress)
            return show_video(loaded, prompt, seed, folder, progress)

    prompt = gr.Textbox(label="Prompt", max_length=MAX_PROMPT)
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
    button = gr.Button("Generate video", variant="primary")
    clip = gr.Video(label="Video", autoplay=True, loop=True)
    notes = gr.Textbox(label="Notes")
    button.click(video, [prompt, seed], [clip, notes], **_ONE_AT_A_TIME)
    if prompts:
        gr.Examples([[line, 0] for line in prompts], [prompt, seed], cache_examples=False)


def _image_pair() -> list[Any]:
    """Place two inputs for images side by side; their values are paths of uploaded files."""
    import gradio as gr

    with gr.Row():
        pair = [
            gr.Image(label=label, type="filepath", sources=["upload", "clipboard"])
            for label in ("First image", "Second image")
        ]
    for image in pair:
        # The file as uploaded: gradio would decode it, and its errors explain less than ours.
        image.preprocess = lambda payload: payload and payload.path
    return pair


def _sample_pair() -> list[str]:
    return [str(bundled("datasets") / "sample" / f"frame{k}.png") for k in (1, 2)]


def launch(page: Any, port: int | None = None) -> str:
    """Serve a page on this machine, in a thread, and return its address.

    Args:
        page: from :func:`build_page`; its ``close()`` ends the server.
        port: None for the first free one from 7860.

    Raises:
        OSError: the port is in use.
    """
    from starlette.middleware import Middleware  # gradio depends on it
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # Against DNS rebinding: a page of another site, whose name resolves to this machine, could
    # otherwise send requests to this one.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    _, address, _ = page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_FILE_SIZE,
        app_kwargs={"middleware": [hosts]},
    )
    return str(address)


# ------------------------------------------------------------------ the command


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Port of the server. Default: the first free one from 7860.",
)
@click.option(
    "--weights",
    metavar="RUN",
    help="Generate video by a model of train-video: the folder of a run, or an exported file.",
)
def command(port: int | None, weights: str | None) -> None:
    """Serve a page to try flowwarp, to browsers on this machine, until Ctrl-C.

    Its address is printed on stdout. Requests are computed one at a time, and others wait. Uploads
    and results are stored in a temporary folder, which is removed at the end.
    """
    set_wait_policy()

    @functools.cache
    def flownet() -> FlowNet:
        from flowwarp.pipelines.flow.estimate import load_flownet

        return load_flownet(device=choose_device("auto"))

    @functools.cache
    def models() -> VideoModels:
        from flowwarp.legacy.pipelines.load import load_models

        return load_models(device=choose_device("auto"))

    @functools.cache
    def model() -> VideoModel:
        from flowwarp.pipelines.video.load import load_video_model

        return load_video_model(str(weights), choose_device("auto"))

    if weights is not None:
        model()  # now, so that a wrong name is an error of this command
    with tempfile.TemporaryDirectory(prefix="flowwarp_", ignore_cleanup_errors=True) as folder:
        lock = threading.Lock()
        if weights is None:
            page = build_page(Path(folder), flownet, models, lock)
        else:
            page = build_page(Path(folder), flownet, model, lock, prompts=())
        try:
            click.echo(launch(page, port))
        except OSError as error:
            taken = "all ports from 7860 are" if port is None else f"port {port} is"
            raise click.UsageError(f"--port: {taken} in use") from error
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
            lock.acquire()  # waits for a job that runs: torch's threads must end first


if __name__ == "__main__":
    run(command, name="python -m flowwarp.web")
