"""Report the size of signals and gradients by depth, in a network at initialisation.

python tools/init_report.py gpt [--norm none] [--depth-factor 4] [-o picture.png]

Without options all variants are reported: with and without norms, and once, twice and four times as
deep. The gradient is that of the output times unit Gaussian noise; its variance is relative to the
median. A head that starts at zero would block the gradient; here it gets random weights.
Prints a table; docs/initialisation.md says what is expected.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from flowwarp.data.digits import compose_digits
from flowwarp.legacy.models import captioner, dvae, gpt, reviser, upsampler
from flowwarp.legacy.models.upsampler import SCALE
from flowwarp.models import _seeing, classifier, flownet
from flowwarp.selftest.small_tasks import randomize_head

FACTORS = (1, 2, 4)


@dataclass(frozen=True)
class Point:
    """Mean and variance of the signal, and of its gradient, after one module."""

    name: str
    mean: float
    variance: float
    gradient_mean: float
    gradient_variance: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--norm", choices=("group", "rms", "none"), help="default: all it has")
    parser.add_argument("--depth-factor", type=int, choices=FACTORS, help="default: all")
    parser.add_argument("-o", "--output", help="the picture; default: none")
    arguments = parser.parse_args()
    build, run, norms = MODELS[arguments.model]
    if arguments.norm is not None and arguments.norm not in norms:
        parser.error(f"{arguments.model} can have norm {' or '.join(norms)}")
    found: dict[tuple[str, int], list[Point]] = {}
    for norm in [arguments.norm] if arguments.norm else norms:
        for factor in [arguments.depth_factor] if arguments.depth_factor else FACTORS:
            torch.manual_seed(0)
            found[norm, factor] = look(build(norm, factor), run)
    print(table(found))
    if arguments.output:
        draw(found, arguments.model, arguments.output)


def table(found: dict[tuple[str, int], list[Point]]) -> str:
    """Return the variance of signal and gradient where the network begins and ends."""
    lines = ["| norm | depth | places | variance first, last, largest | gradient first, last |"]
    lines.append("|---|---|---|---|---|")
    for (norm, factor), points in found.items():
        signal = [point.variance for point in points]
        gradient = [point.gradient_variance for point in points]
        lines.append(
            f"| {norm} | x{factor} | {len(points)} "
            f"| {signal[0]:.2f}, {signal[-1]:.2f}, {max(signal):.2f} "
            f"| {gradient[0]:.3g}, {gradient[-1]:.3g} |"
        )
    return "\n".join(lines)


def look(net: nn.Module, run: Callable[[Any], Tensor]) -> list[Point]:
    """Run a network forward and backward; return the statistics after each module."""
    outputs: list[tuple[str, Tensor]] = []

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            output.retain_grad()
            outputs.append((name, output))

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in places(net)]
    output = run(net)
    torch.autograd.backward(output, torch.randn(output.shape, generator=_generator(1)))
    for handle in handles:
        handle.remove()
    usual = statistics.median(float(_of(tensor.grad).var()) for _, tensor in outputs)
    return [
        Point(
            name,
            float(tensor.detach().mean()),
            float(tensor.detach().var()),
            float(_of(tensor.grad).mean()) / math.sqrt(usual),
            float(_of(tensor.grad).var()) / usual,
        )
        for name, tensor in outputs
    ]


def _of(gradient: Tensor | None) -> Tensor:
    assert gradient is not None, "the output does not depend on this module"
    return gradient


def places(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules whose outputs are the stream of a network, block by block."""
    kinds: tuple[type[nn.Module], ...] = (
        nn.LeakyReLU,
        dvae.Block, dvae.Pointwise, dvae.Up,
        gpt.Block, gpt.FeedForward,
        upsampler.Block, reviser.Block, _seeing.Block,
    )  # fmt: skip
    names = {"to_latent", "from_latent", "join", "foretold", "stem", "think"}
    for name, module in net.named_modules():
        # Not parts of a block, nor the condition of a reviser, which has no effect at first.
        inside = name.endswith(".feed") or (name == "join" and isinstance(net, reviser.Reviser))
        named = isinstance(module, kinds) or name in names or "projections." in name
        if named and not inside:
            yield name, module


# ------------------------------------------------------------------ the networks


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _video(size: int, frames: int) -> Tensor:
    """Return two clips, (2, frames, 3, size, size) in [0, 1]."""
    clips = [compose_digits(0, index, size, frames).video for index in range(2)]
    return torch.stack(clips).float() / 255


def make_flow(norm: str, factor: int) -> nn.Module:
    config = flownet.FlowNetConfig()
    deeper = tuple(width for width in config.decoder for _ in range(factor))
    return flownet.FlowNet(replace(config, decoder=deeper))


def run_flow(net: Any) -> Tensor:
    # As large as in training: the coarsest level has 4 x 4 places then.
    frames = nn.functional.interpolate(_video(128, 2).flatten(0, 1), scale_factor=2)
    video = frames.view(2, 2, *frames.shape[1:])
    flow: Tensor = net(video[:, 0], video[:, 1])[0].flow
    return flow


def make_dvae(norm: Any, factor: int) -> nn.Module:
    config = dvae.DVAEConfig(norm=norm)
    decoder = tuple(factor * count for count in config.decoder)
    net = dvae.DVAE(replace(config, encoder=factor * config.encoder, decoder=decoder))
    dvae.initialise_latent(net, _video(64, 8))
    return net


def run_dvae(net: Any) -> Tensor:
    video: Tensor = net(_video(64, 8)).video
    return video


def make_gpt(norm: Any, factor: int) -> nn.Module:
    config = gpt.GPTConfig(norm=norm)
    deeper = {name: factor * getattr(config, name) for name in ("depth", "inner_depth")}
    return randomize_head(gpt.GPT(replace(config, **deeper)))


def run_gpt(net: Any) -> Tensor:
    length = 32 * gpt.PATCH
    ids = torch.randint(net.config.vocabulary, (2, length), generator=_generator(0))
    places = 8 * torch.rand(2, length, gpt.AXES, generator=_generator(1))
    logits: Tensor = net(ids, places)
    return logits


def make_upsampler(norm: Any, factor: int) -> nn.Module:
    config = upsampler.UpsamplerConfig(norm=norm)
    deeper = tuple(factor * count for count in config.blocks)
    return randomize_head(upsampler.Upsampler(replace(config, blocks=deeper)))


def run_upsampler(net: Any) -> Tensor:
    frames = _video(64, 2)
    noise = torch.randn(frames[:, 1].shape, generator=_generator(0))
    decode = nn.functional.avg_pool2d(frames[:, 1], SCALE)
    time, trust = torch.tensor([0.3, 0.6]), torch.ones_like(noise[:, :1])
    velocity: Tensor = net(noise, time, decode, frames[:, 0], trust)
    return velocity


def make_captioner(norm: Any, factor: int) -> nn.Module:
    config = captioner.CaptionerConfig(50, norm=norm)
    return randomize_head(
        captioner.Captioner(replace(config, blocks=_deeper(config.blocks, factor)))
    )


def run_captioner(net: Any) -> Tensor:
    ids = torch.randint(net.config.vocabulary, (2, 16), generator=_generator(0))
    logits: Tensor = net(_video(64, 8), ids)
    return logits


def make_classifier(norm: Any, factor: int) -> nn.Module:
    config = classifier.ClassifierConfig((("action", tuple("abcdefgh")),), norm=norm)
    return classifier.Classifier(replace(config, blocks=_deeper(config.blocks, factor)))


def run_classifier(net: Any) -> Tensor:
    logits: Tensor = net(_video(64, 8))["action"]
    return logits


def make_reviser(norm: Any, factor: int) -> nn.Module:
    config = reviser.ReviserConfig((("weapon", ("bow", "spear")),), norm=norm)
    deeper = tuple(factor * count for count in config.blocks)
    return randomize_head(reviser.Reviser(replace(config, blocks=deeper)))


def run_reviser(net: Any) -> Tensor:
    video: Tensor = net(_video(64, 8), net.tell([{"weapon": "bow"}, {}]))
    return video


def _deeper(blocks: tuple[int, int], factor: int) -> tuple[int, int]:
    return factor * blocks[0], factor * blocks[1]


MODELS: dict[str, tuple[Callable[[str, int], nn.Module], Callable[[Any], Tensor], list[str]]] = {
    "flow": (make_flow, run_flow, ["none"]),
    "dvae": (make_dvae, run_dvae, ["group", "none"]),
    "gpt": (make_gpt, run_gpt, ["rms", "none"]),
    "upsampler": (make_upsampler, run_upsampler, ["group", "none"]),
    "captioner": (make_captioner, run_captioner, ["group", "none"]),
    "classifier": (make_classifier, run_classifier, ["group", "none"]),
    "reviser": (make_reviser, run_reviser, ["group", "none"]),
}


# ------------------------------------------------------------------ the picture


def draw(found: dict[tuple[str, int], list[Point]], model: str, path: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 5), sharex=True)
    panels = {
        "variance": "variance of the signal",
        "mean": "mean of the signal",
        "gradient_variance": "variance of the gradient, median = 1",
        "gradient_mean": "mean of the gradient",
    }
    for axis, (name, title) in zip(axes.flat, panels.items(), strict=True):
        for (norm, factor), points in found.items():
            depth = [index / (len(points) - 1) for index in range(len(points))]
            axis.plot(
                depth,
                [getattr(point, name) for point in points],
                "--" if norm == "none" else "-",
                color=f"C{FACTORS.index(factor)}",
                label=f"norm {norm}, depth x{factor}",
                linewidth=1.2,
            )
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        if "variance" in name:
            axis.set_yscale("log")
    for axis in axes[1]:
        axis.set_xlabel("way through the network")
    axes[0, 0].legend(fontsize=7)
    figure.suptitle(f"{model} at initialisation")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
