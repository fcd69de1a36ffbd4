"""A page to try flowwarp in the browser: flow, pictures between two, video from words.

``python -m flowwarp.web`` serves it, on this machine only. It needs the extra ``demo`` (gradio).
The functions behind its tabs take paths and return paths, and know nothing of the page.
"""

from __future__ import annotations

import functools
import html
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.bundled import bundled
from flowwarp.cli._device import choose_device, set_wait_policy
from flowwarp.cli._errors import run
from flowwarp.defaults import FPS, MAX_SEED, QUALITIES
from flowwarp.errors import FlowwarpError, InputError, missing_extra

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.defaults import Quality
    from flowwarp.models.flownet import FlowNet
    from flowwarp.pipelines.flow.refine import Progress
    from flowwarp.pipelines.video.load import VideoModels

HERE = "127.0.0.1"
MOST_PIXELS = 4_000_000  # everybody on the page waits while one picture is worked on
LARGEST_FILE = "32mb"  # of which so many pixels of 16 bits take 24
LONGEST_PROMPT = 1000  # characters, more than any network here reads
PROMPTS = (
    "a skeleton casts a spell on sand",
    "a knight in plate armor walks to the left",
    "a woman in a blue dress stands still",
)


# ------------------------------------------------------------------ what the tabs do


def show_flow(
    net: FlowNet,
    first: str | None,
    second: str | None,
    quality: Quality,
    folder: Path,
    progress: Progress | None = None,
) -> tuple[Path, Path, Path]:
    """Estimate the flow between two pictures.

    Args:
        net: from :func:`flowwarp.load_flownet`.
        first: a picture's file; None if there is none yet, which is refused.
        second: likewise, of the same size.
        quality: as for :func:`flowwarp.estimate_flow`.
        folder: where results go.
        progress: is called with the share that is done, up to 1.

    Returns:
        The flow in colour, the second picture warped onto the first, and the flow as ``.flo``.

    Raises:
        InputError: a picture is missing, cannot be read or is too large, or sizes differ.
    """
    from flowwarp.io.flow_files import write_flow
    from flowwarp.io.images import write_image
    from flowwarp.ops.warping import warp
    from flowwarp.pipelines.flow.pairs import estimate_fields
    from flowwarp.viz.colors import flow_to_image

    image1, image2 = _read_pair(first, second)
    flow = estimate_fields(net, image1, image2, quality, progress=progress).flow_12
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
    """Make the picture half-way between two.

    Args:
        net: as for :func:`show_flow`, and so the others.
        first: a picture's file.
        second: likewise, of the same size and scene.
        folder: where the result goes.
        progress: is called with the share that is done, up to 1.

    Raises:
        InputError: as for :func:`show_flow`; or the pictures show two scenes.
    """
    from flowwarp.io.images import write_image
    from flowwarp.pipelines.flow.estimate import estimate_both
    from flowwarp.pipelines.flow.interpolate import interpolate_video

    device = next(net.parameters()).device

    def estimate(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        return estimate_both(net, one.to(device), two.to(device), progress=progress)

    same: list[str] = []
    _, middle, _ = interpolate_video(_read_pair(first, second), 2, estimate, told=same.append)
    if "cut" in same:
        raise InputError("the pictures", "show two scenes", "choose two frames of one")
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
    """Make a video of words, as ``generate-video`` does by default.

    Args:
        models: from :func:`flowwarp.pipelines.video.load.load_models`.
        prompt: what it shall show.
        seed: which of all possible videos; None counts as 0.
        folder: where the video goes.
        progress: is called with the share that is done, up to 1.

    Returns:
        The video, and what the prompt was read as, what was left out and which words the network
        never learned; empty if it was read as it stands.

    Raises:
        InputError: nothing of the prompt can be read.
    """
    from flowwarp.io.video_writer import write_video
    from flowwarp.pipelines.video.generate import generate
    from flowwarp.pipelines.video.hearing import hear

    prompt = (prompt or "")[:LONGEST_PROMPT]
    heard = hear(models.gpt, prompt)
    if not heard.text:
        raise InputError("the prompt", "holds nothing that can be read", "say what to show")

    def tell(done: int, total: int) -> None:
        if progress is not None:  # gradio's counts as false
            progress(done / total)

    frames = generate(models, prompt, seed=int(seed or 0), progress=tell)
    path = folder / "video.mp4"
    write_video(path, frames, FPS)
    notes = [f"read as: {heard.read}"] * heard.reworded
    notes += [f"left out: {', '.join(heard.left_out)}"] * bool(heard.left_out)
    notes += [f"the network has never learned: {', '.join(heard.unknown)}"] * bool(heard.unknown)
    return path, "\n".join(notes)


def _read_pair(first: str | None, second: str | None) -> list[Tensor]:
    """Read two pictures of one size, (3, H, W)."""
    from flowwarp.io.images import read_image

    images: list[Tensor] = []
    for name, path in (("the first picture", first), ("the second picture", second)):
        if not path:
            raise InputError(name, "is missing", "choose a file")
        try:
            images.append(read_image(path, most=MOST_PIXELS))
        except InputError as fault:  # which names a file of the server's
            raise InputError(name, str(fault).removeprefix(f"{fault.source}: ")) from fault
        size, wanted = (f"{image.shape[2]}x{image.shape[1]}" for image in (images[-1], images[0]))
        if size != wanted:
            raise InputError(name, f"is {size}, the first was {wanted}", "choose two of one size")
    return images


# ------------------------------------------------------------------ the page


def build_page(
    folder: Path,
    flownet: Callable[[], FlowNet],
    models: Callable[[], VideoModels],
    working: threading.Lock,
) -> Any:
    """Lay out the page, as ``gradio.Blocks``.

    Args:
        folder: where results go.
        flownet: gives the network of the first two tabs, when it is needed.
        models: gives those of the third, likewise.
        working: is held while there is work.

    Raises:
        InputError: the extra ``demo`` is missing.
    """
    # Both are read when gradio is imported or makes a component.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # what is uploaded
    try:
        import gradio as gr
    except ImportError as fault:
        raise missing_extra(fault.name or "gradio", "demo") from fault

    @contextmanager
    def answer() -> Iterator[Path]:
        """Give a folder for results; show what a user can mend on one line."""
        try:
            with working:
                yield Path(tempfile.mkdtemp(dir=folder))
        except FlowwarpError as fault:
            line = html.escape(str(fault), quote=False)
            raise gr.Error(line, print_exception=False) from fault

    bar = gr.Progress()  # as a default it asks gradio for one

    def flow(first: Any, second: Any, quality: Any, progress: Any = bar) -> Any:
        with answer() as results:
            paths = show_flow(flownet(), first, second, quality, results, progress)
            return [str(path) for path in paths]  # gr.File takes no other

    def between(first: Any, second: Any, progress: Any = bar) -> Any:
        with answer() as results:
            return show_between(flownet(), first, second, results, progress)

    def video(prompt: Any, seed: Any, progress: Any = bar) -> Any:
        with answer() as results:
            return show_video(models(), prompt, seed, results, progress)

    def pictures() -> list[Any]:
        """Place two pictures to choose side by side."""
        with gr.Row():
            pair = [
                gr.Image(label=label, type="filepath", sources=["upload", "clipboard"])
                for label in ("First picture", "Second picture")
            ]
        for image in pair:
            # As it was uploaded: gradio's own reader would fail at what ours explains.
            image.preprocess = lambda payload: payload and payload.path
        return pair

    alone: dict[str, Any] = {"concurrency_id": "job", "concurrency_limit": 1}
    sample = [str(bundled("datasets") / "sample" / f"frame{k}.png") for k in (1, 2)]
    with gr.Blocks(title="flowwarp", analytics_enabled=False) as page:
        with gr.Tab("Flow"):
            pair = pictures()
            quality = gr.Radio(list(QUALITIES), value="balanced", label="Quality")
            go = gr.Button("Estimate flow", variant="primary")
            with gr.Row():
                shown = [gr.Image(label="Flow"), gr.Image(label="Second picture, warped")]
            shown.append(gr.File(label="Flow, to download"))
            go.click(flow, [*pair, quality], shown, **alone)
            gr.Examples([[*sample, "balanced"]], [*pair, quality], cache_examples=False)
        with gr.Tab("Between"):
            pair = pictures()
            go = gr.Button("Make the picture between", variant="primary")
            middle = gr.Image(label="Half-way")
            go.click(between, pair, middle, **alone)
            gr.Examples([sample], pair, cache_examples=False)
        with gr.Tab("Video from words"):
            prompt = gr.Textbox(label="Prompt", max_length=LONGEST_PROMPT)
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
            go = gr.Button("Make the video", variant="primary")
            clip = gr.Video(label="Video", autoplay=True, loop=True)
            note = gr.Textbox(label="Note")
            go.click(video, [prompt, seed], [clip, note], **alone)
            gr.Examples([[line, 0] for line in PROMPTS], [prompt, seed], cache_examples=False)
    return page


def launch(page: Any, port: int | None = None) -> str:
    """Serve a page on this machine only, in a thread, and return its address.

    Args:
        page: from :func:`build_page`; its ``close()`` ends it.
        port: None for the first from 7860 that is free.

    Raises:
        OSError: the port is taken.
    """
    from starlette.middleware import Middleware  # which gradio is built on
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # Else a page of another site, whose name is made to lead here, could use this one.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HERE, "localhost"])
    _, address, _ = page.launch(
        server_name=HERE,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=LARGEST_FILE,
        app_kwargs={"middleware": [hosts]},
    )
    return str(address)


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Where to listen; the first from 7860 that is free, if not said.",
)
def command(port: int | None) -> None:
    """Serve a page to try flowwarp, to browsers on this machine, until Ctrl-C.

    Its address is printed on stdout. One picture pair or prompt is worked on at a time, others
    wait. What is uploaded and made lies in a temporary folder, which goes when the page ends.
    """
    set_wait_policy()

    @functools.cache
    def flownet() -> FlowNet:
        from flowwarp.pipelines.flow.estimate import load_flownet

        return load_flownet(device=choose_device("auto"))

    @functools.cache
    def models() -> VideoModels:
        from flowwarp.pipelines.video.load import load_models

        return load_models(device=choose_device("auto"))

    with tempfile.TemporaryDirectory(prefix="flowwarp_", ignore_cleanup_errors=True) as folder:
        working = threading.Lock()
        page = build_page(Path(folder), flownet, models, working)
        try:
            click.echo(launch(page, port))
        except OSError as fault:
            taken = "--port: all from 7860 are" if port is None else f"--port {port}: is"
            raise click.UsageError(f"{taken} taken") from fault
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
            working.acquire()  # torch's threads must not outlive the interpreter


if __name__ == "__main__":
    run(command, name="python -m flowwarp.web")
