"""The command line: one module per command, imported only when the command is called.

``COMMANDS`` contains each command's help line, so that ``flowwarp --help`` imports none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import click

from flowwarp.cli.device import set_wait_policy
from flowwarp.cli.errors import run

# name: (module that defines `command`, help line)
COMMANDS = {
    "warp": ("flowwarp.cli.warp", "Warp an image, folder or video by optical flow."),
    "flow": ("flowwarp.cli.flow", "Estimate optical flow of image pairs, folders or videos."),
    "show": ("flowwarp.cli.show", "Draw flow files as images."),
    "convert": ("flowwarp.cli.convert", "Convert flow files between formats."),
    "interpolate": ("flowwarp.cli.interpolate", "Interpolate frames of a video."),
    "steady": ("flowwarp.cli.steady", "Take the flicker out of a processed video."),
    "train-flow": ("flowwarp.cli.train_flow", "Train a flow network on unlabelled footage."),
    "eval-flow": ("flowwarp.cli.eval_flow", "Measure flow methods against ground truth."),
    "datasets": ("flowwarp.cli.datasets", "List data sets, make captioned clips."),
    "train-video": (
        "flowwarp.cli.train_video",
        "Train a text-to-video model of captioned clips.",
    ),
    "train-dvae": ("flowwarp.cli.train_dvae", "Train the discrete VAE: video to tokens and back."),
    "train-gpt": ("flowwarp.cli.train_gpt", "Train the transformer: prompt to video tokens."),
    "train-captioner": ("flowwarp.cli.train_captioner", "Train a captioner: video to text."),
    "train-reviser": (
        "flowwarp.cli.train_reviser",
        "Train a network that corrects generated frames.",
    ),
    "train-upsampler": (
        "flowwarp.cli.train_upsampler",
        "Train a network that upsamples generated frames.",
    ),
    "generate-video": ("flowwarp.cli.generate_video", "Generate video from text."),
    "describe-video": ("flowwarp.cli.describe_video", "Describe videos in words."),
    "eval-video": ("flowwarp.cli.eval_video", "Evaluate video generation."),
    "doctor": ("flowwarp.cli.doctor", "Check this installation."),
}


class LazyGroup(click.Group):
    """A click group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module and return the command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from ``COMMANDS`` alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _print_version(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        from flowwarp import __version__

        click.echo(f"flowwarp {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Optical flow and video warping.

    \b
    flowwarp flow frame1.png frame2.png        estimate flow, write frame1_flow.flo
    flowwarp show frame1_flow.flo              draw it as frame1_flow_flow.png
    flowwarp warp frame2.png frame1_flow.flo   make frame 2 look like frame 1
    flowwarp COMMAND --help                    options of a command
    """  # noqa: D301 - click wants the character itself
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    if arguments is None:  # this process is the command line, and torch is not imported yet
        set_wait_policy()
    run(cli, arguments)
