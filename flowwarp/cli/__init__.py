"""The command line: one file per command, imported only when that command is called.

``COMMANDS`` holds each command's help line, so that ``flowwarp --help`` imports none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import click

from flowwarp.cli._errors import run

# name: (module that defines `command`, help line)
COMMANDS = {
    "warp": ("flowwarp.cli.warp", "Warp an image, a folder or a video by optical flow."),
    "flow": ("flowwarp.cli.flow", "Estimate optical flow of pairs, folders or videos."),
    "show": ("flowwarp.cli.show", "Turn a flow file into a picture."),
    "convert": ("flowwarp.cli.convert", "Convert between flow file formats."),
    "interpolate": ("flowwarp.cli.interpolate", "Put frames between the frames of a video."),
    "train-flow": ("flowwarp.cli.train_flow", "Train a flow network from unlabelled footage."),
    "eval-flow": ("flowwarp.cli.eval_flow", "Measure flow methods against ground truth."),
    "datasets": ("flowwarp.cli.datasets", "List known data sets, make captioned clips."),
    "train-dvae": ("flowwarp.cli.train_dvae", "Train a network that turns video into tokens."),
    "train-gpt": ("flowwarp.cli.train_gpt", "Train a network that makes tokens of a prompt."),
    "train-captioner": ("flowwarp.cli.train_captioner", "Train a network that describes video."),
    "train-reviser": ("flowwarp.cli.train_reviser", "Train a network that mends what it shows."),
    "train-upsampler": (
        "flowwarp.cli.train_upsampler",
        "Train a network that sharpens its frames.",
    ),
    "generate-video": ("flowwarp.cli.generate_video", "Make video of words."),
    "describe-video": ("flowwarp.cli.describe_video", "Say in words what videos show."),
    "eval-video": ("flowwarp.cli.eval_video", "Measure networks that make video."),
    "doctor": ("flowwarp.cli.doctor", "Check this installation and say what is missing."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' help lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of ``COMMANDS``."""
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
    flowwarp flow a.png b.png            estimate where everything moves
    flowwarp warp image.png flow.flo     warp an image by a flow field
    flowwarp show flow.flo               look at a flow field
    flowwarp COMMAND --help              everything a command can do
    """  # noqa: D301 - click wants the character itself
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    run(cli, arguments)
