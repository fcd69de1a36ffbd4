"""Run the command line on the sample and show what it does: demo/index.html.

Usage: python tools/demo.py

It takes no options, and whatever was in demo/ before is deleted. The pictures come from the
``flowwarp`` command, called as a user would call it; the differences between frames, which show the
Python interface, are made here.
"""

from __future__ import annotations

import argparse
import html
import json
import shlex
import shutil
import string
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flowwarp
from flowwarp.bundled import bundled
from flowwarp.viz.overlay import side_by_side

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "demo"
SHOWN_ERROR = 4  # differences are drawn that many times as bright


@dataclass
class Demo:
    """The commands that were run, with their seconds, and the sections of the page."""

    timings: list[tuple[str, float]] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)

    def run(self, command: str, allowed: tuple[int, ...] = (0,)) -> str:
        """Run ``flowwarp`` with these arguments in the demo's folder and return its stdout."""
        print(f"flowwarp {command}", flush=True)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "flowwarp", *shlex.split(command)],
            cwd=OUTPUT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        self.timings.append((command, time.perf_counter() - start))
        if done.returncode not in allowed:
            sys.exit(f"demo: flowwarp {command}: exit code {done.returncode}")
        return done.stdout

    def section(self, title: str, text: str, *content: str) -> None:
        self.sections.append(f"<section><h2>{title}</h2><p>{text}</p>{''.join(content)}</section>")

    def command_card(self, title: str, text: str, file: str, command: str) -> str:
        self.run(command)
        return card(title, text, file, f"flowwarp {command}")


def main() -> None:
    about = (__doc__ or "").splitlines()[0]
    argparse.ArgumentParser(description=f"{about} What was in demo/ is deleted.").parse_args()
    if OUTPUT.exists():
        shutil.rmtree(OUTPUT)
    OUTPUT.mkdir()
    for name in ("frame1.png", "frame2.png", "flow.flo", "clip.mp4"):
        shutil.copyfile(bundled("datasets") / "sample" / name, OUTPUT / name)
    demo = Demo()
    before, after = show_warp(demo)
    show_flow(demo)
    show_estimate(demo)
    show_forward(demo)
    show_video(demo)
    show_words(demo)
    show_installation(demo)
    write_page(demo, before, after)
    page = OUTPUT / "index.html"
    print(f"\n{page}\nopen it in a browser: {page.as_uri()}")


def show_warp(demo: Demo) -> tuple[float, float]:
    """Show the job itself; return the mean differences before and after, of 255."""
    cards = [
        card("Frame 1", "The target: warped frame 2 should look like this.", "frame1.png"),
        card("Frame 2", "The same scene 0.1 s later.", "frame2.png"),
        demo.command_card(
            "The flow from frame 1 to frame 2",
            "The hue is the direction, the saturation the speed; white does not move.",
            "flow.png",
            "show flow.flo --legend -o flow.png",
        ),
        demo.command_card(
            "Frame 2, warped onto frame 1",
            "Made from frame 2's pixels only. Frame 2 does not show the wall behind her, so beside "
            "her head and legs her outline appears twice.",
            "warped.png",
            "warp frame2.png flow.flo -o warped.png",
        ),
    ]
    frame1, frame2, warped = (
        flowwarp.read_image(OUTPUT / name) for name in ("frame1.png", "frame2.png", "warped.png")
    )
    before = write_difference("before.png", frame2, frame1)
    after = write_difference("after.png", warped, frame1)
    brighter = f"{SHOWN_ERROR} times as bright"
    cards += [
        card(
            "Difference before",
            f"Frame 2 against frame 1, {brighter}: {before:.2f} of 255 on average.",
            "before.png",
            "(frame2 - frame1).abs()",
        ),
        card(
            "Difference after",
            f"Warped frame 2 against frame 1, {brighter}: {after:.2f} of 255.",
            "after.png",
            "(flowwarp.warp(frame2, flow) - frame1).abs()",
        ),
    ]
    write_sheet()
    demo.section(
        "Warp",
        "Two frames of a film, and the flow from the first to the second.",
        grid(*cards),
    )
    return before, after


def write_sheet() -> None:
    """Write the six pictures as one: docs/images/sample.jpg is a copy of it."""
    flow = flowwarp.read_flow(OUTPUT / "flow.flo")[0][None]
    names = ("frame1", "frame2", "warped", "before", "after")
    images = {name: flowwarp.read_image(OUTPUT / f"{name}.png")[None] for name in names}
    rows = [
        side_by_side([images["frame1"], images["frame2"], flowwarp.flow_to_image(flow)]),
        side_by_side([images["warped"], images["before"], images["after"]]),
    ]
    gap = torch.ones_like(rows[0][:, :, :4])
    flowwarp.write_image(OUTPUT / "sheet.jpg", torch.cat([rows[0], gap, rows[1]], 2)[0])


def write_difference(name: str, image: Tensor, other: Tensor) -> float:
    """Write how two images differ as a picture; return the mean difference of 255."""
    difference = (image - other).abs()
    flowwarp.write_image(OUTPUT / name, (SHOWN_ERROR * difference).clamp(0, 1))
    return 255 * difference.mean().item()


def show_flow(demo: Demo) -> None:
    still = torch.zeros_like(flowwarp.read_flow(OUTPUT / "flow.flo")[0])
    flowwarp.write_flow(OUTPUT / "still.flo", still)
    flicker = "show {} --image frame1.png --flicker frame2.png -o {}"
    demo.section(
        "Judge a flow by eye",
        "Arrows show the motion; two pictures in turn show whether it is right.",
        grid(
            demo.command_card(
                "Arrows",
                "The fastest pixels fill the distance between two arrows.",
                "arrows.png",
                "show flow.flo --image frame1.png --arrows -o arrows.png",
            ),
            demo.command_card(
                "Flicker, not warped",
                "Frame 1 and frame 2 in turn: zero flow.",
                "flicker_before.gif",
                flicker.format("still.flo", "flicker_before.gif"),
            ),
            demo.command_card(
                "Flicker, warped",
                "Frame 1 and warped frame 2: where the flow is right, nothing moves.",
                "flicker_after.gif",
                flicker.format("flow.flo", "flicker_after.gif"),
            ),
        ),
    )


def show_estimate(demo: Demo) -> None:
    estimate = "flow frame1.png frame2.png --quality {0} -o {0}.flo --show {0}.png{1}"
    demo.section(
        "Estimate it",
        "With the weights in the package, trained on video without labels.",
        grid(
            demo.command_card(
                "Fast",
                "The network alone: flow in both directions in a fraction of a second.",
                "fast.png",
                estimate.format("fast", ""),
            ),
            demo.command_card(
                "Best",
                "The network's flow, then fitted to these two frames until it converges.",
                "best.png",
                estimate.format("best", " --occlusion visible.png"),
            ),
            card(
                "What frame 2 still shows",
                "Black is hidden, or has left the frame: forward and backward flow disagree there.",
                "visible.png",
                "flow ... --occlusion visible.png",
            ),
        ),
    )


def show_forward(demo: Demo) -> None:
    demo.section(
        "The other way, and in between",
        "Forward warping sends each pixel of frame 1 along the flow; holes stay where none lands.",
        grid(
            demo.command_card(
                "Frame 1, sent forward",
                "It looks like frame 2; black is what frame 1 does not show.",
                "forward.png",
                "warp frame1.png flow.flo --forward --mode softmax -o forward.png",
            ),
            demo.command_card(
                "In the middle",
                "A new frame, 0.05 s after frame 1, interpolated from both frames.",
                "middle.png",
                "interpolate frame1.png frame2.png -o middle.png",
            ),
            demo.command_card(
                "Slow motion",
                "The clip, eight times as slow.",
                "slow.mp4",
                "interpolate clip.mp4 --times 8 --slow --quality fast -o slow.mp4",
            ),
        ),
    )


def show_video(demo: Demo) -> None:
    demo.run("flow clip.mp4 -o flows --quality fast --show flows.mp4")
    demo.section(
        "A video",
        "A folder of flow files, one for each pair of frames, warps a whole clip.",
        grid(
            card("The clip", "16 frames.", "clip.mp4"),
            card(
                "Its flow",
                "All frames at one scale.",
                "flows.mp4",
                "flowwarp flow clip.mp4 -o flows --quality fast --show flows.mp4",
            ),
            demo.command_card(
                "Each frame warped onto the one before",
                "It plays like the clip, one frame late: every picture is made from the next one.",
                "clip_warped.mp4",
                "warp clip.mp4 flows -o clip_warped.mp4",
            ),
        ),
    )


def show_words(demo: Demo) -> None:
    prompts = (
        "a woman with long blonde hair in a blue dress walks right across grass",
        "a skeleton casts a spell on sand",
        "a man in chain mail walks to the left over a stone floor",
    )
    cards = [
        demo.command_card(
            f"“{prompt}”",
            "16 frames of 128 pixels.",
            f"words{number}.mp4",
            f'generate-video "{prompt}" --seed {number} -o words{number}.mp4',
        )
        for number, prompt in enumerate(prompts)
    ]
    caption = demo.run("describe-video words0.mp4").strip()
    demo.section(
        "From text",
        "Tokens from a transformer, frames from a discrete VAE, detail from a diffusion upsampler "
        "that flow keeps consistent. The shipped models were trained on one synthetic world of "
        "game sprites. The caption of the first video, by describe-video: "
        f"<em>{html.escape(caption)}</em>",
        grid(*cards),
    )


def show_installation(demo: Demo) -> None:
    # 1: something is wrong with the installation; the page says what.
    checks = json.loads(demo.run("doctor --json", allowed=(0, 1)))["checks"]
    tests = [check for check in checks if check["part"] == "self-test"]
    wrong = sum(check["state"] == "FAIL" for check in tests)
    demo.section(
        "This machine",
        "What <code>flowwarp doctor</code> found.",
        table([doctor_row(check) for check in checks if check["part"] != "self-test"]),
        f"<details><summary>{len(tests)} self-tests, {wrong} failed</summary>",
        table([doctor_row(check) for check in tests]),
        "</details>",
    )
    demo.section(
        "How long it took",
        "Each command from start to end; most of it is Python loading torch.",
        table(
            [
                f'<td class="wide"><code>flowwarp {html.escape(command)}</code></td>'
                f'<td class="time">{seconds:.2f} s</td>'
                for command, seconds in demo.timings
            ]
        ),
    )


def doctor_row(check: dict[str, Any]) -> str:
    state, name, text = (html.escape(str(check[key])) for key in ("state", "name", "text"))
    return (
        f'<td class="state {state.lower()}">{state}</td><th>{name}</th><td class="wide">{text}</td>'
    )


# ------------------------------------------------------------------ page


def card(title: str, text: str, file: str, code: str = "") -> str:
    """Return a picture or video with its title, what it shows, and how it was made."""
    if file.endswith(".mp4"):
        medium = f'<video src="{file}" autoplay loop muted playsinline controls></video>'
    else:
        kind = ' class="paper"' if file == "flow.png" else ""
        medium = f'<img src="{file}" alt="{html.escape(title)}"{kind}>'
    made = f"<pre>{html.escape(code)}</pre>" if code else ""
    return f"<figure>{medium}<figcaption><h3>{title}</h3><p>{text}</p>{made}</figcaption></figure>"


def grid(*cards: str) -> str:
    return f'<div class="grid">{"".join(cards)}</div>'


def table(rows: list[str]) -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table>{body}</table></div>'


def write_page(demo: Demo, before: float, after: float) -> None:
    figures = (
        (f"{before:.2f}", "mean difference of the frames, of 255"),
        (f"{after:.2f}", "after warping"),
        (f"{1 - after / before:.0%}", "of it explained by the flow"),
    )
    page = string.Template((HERE / "demo.html").read_text("utf-8")).substitute(
        figures="".join(f"<div><b>{value}</b><span>{what}</span></div>" for value, what in figures),
        sections="\n".join(demo.sections),
        version=flowwarp.__version__,
    )
    (OUTPUT / "index.html").write_text(page, "utf-8")


if __name__ == "__main__":
    main()
