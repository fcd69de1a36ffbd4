"""Show that batch norm makes a result depend on the rest of the batch, and group norm does not.

python tools/batch_norm_leak.py [-o docs/images/batch_norm_leak.png]

A discriminator is trained on batches that are all real or all generated, as usual. In a generated
batch only one picture in sixteen has a flaw; the others are real pictures, which cannot be
distinguished from those of a real batch. It classifies pictures without a flaw: in batches as in
training, and alone. The plot also shows its output for one real picture while the flaw of *another*
picture grows. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.data.digits import compose_digits
from flowwarp.nn import measure_batch_dependence

SIZE, FLAW, BATCH, STEPS, JUDGED = 16, 6, 16, 400, 40
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, 4),
    "none": lambda width: nn.Identity(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", help="the picture; default: none")
    arguments = parser.parse_args()
    clips = [compose_digits(0, index, SIZE, 1).video for index in range(400)]
    images = torch.cat(clips).float() / 127.5 - 1
    figures: dict[str, dict[str, float]] = {}
    curves: dict[str, list[float]] = {}
    for norm in NORMS:
        net = trained(norm, images[:300])
        figures[norm] = {
            "neighbours": measure_batch_dependence(net, images[:1]).neighbours,
            "in a batch": judged(net, images[300:]),
            "alone": judged(net.eval(), images[300:], alone=True),
        }
        curves[norm] = growing(net.train(), images[300:])
        print(norm, {name: round(value, 3) for name, value in figures[norm].items()}, flush=True)
    if arguments.output:
        picture(figures, curves, arguments.output)
    print(json.dumps({"torch": torch.__version__, "figures": figures, "curves": curves}))


def discriminator(norm: str) -> nn.Module:
    layers: list[nn.Module] = []
    inputs = 3
    for width in (16, 32):
        layer = nn.Conv2d(inputs, width, 3, stride=2, padding=1)
        nn.init.kaiming_normal_(layer.weight)
        layers += [layer, NORMS[norm](width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (SIZE // 4) ** 2, 1))


def batch_of(images: Tensor, number: int, flaw: float) -> Tensor:
    """Return some pictures, (BATCH, 3, S, S), the last with a flaw of some size in [0, 1]."""
    generator = torch.Generator().manual_seed(number)
    batch = images[torch.randint(len(images), (BATCH,), generator=generator)]
    noise = 4 * torch.randn(3, FLAW, FLAW, generator=generator)
    y, x = torch.randint(SIZE - FLAW, (2,), generator=generator).tolist()
    batch[-1, :, y : y + FLAW, x : x + FLAW].lerp_(noise, flaw)
    return batch


def trained(norm: str, images: Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = discriminator(norm)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for step in range(STEPS):
        generated = float(step % 2)  # the label of the whole batch
        logits = net(batch_of(images, step, generated))  # (BATCH, 1)
        loss = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, generated))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return net


@torch.no_grad()
def judged(net: nn.Module, images: Tensor, *, alone: bool = False) -> float:
    """Return the share of flawless pictures that are classified as their batch is labelled."""
    right = []
    for number in range(JUDGED):
        generated = float(number % 2)
        batch = batch_of(images, 10_000 + number, generated)
        logits = torch.cat([net(one[None]) for one in batch]) if alone else net(batch)  # (BATCH, 1)
        right.append(((logits[:-1, 0] > 0).float() == generated).float())  # the last has the flaw
    return float(torch.cat(right).mean())


@torch.no_grad()
def growing(net: nn.Module, images: Tensor) -> list[float]:
    """Return the probability that a real picture is generated, as another one's flaw grows."""
    batches = [batch_of(images, 20_000, step / 20) for step in range(21)]
    return [float(net(batch)[0].sigmoid()) for batch in batches]


def picture(
    figures: dict[str, dict[str, float]], curves: dict[str, list[float]], path: str
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    ways = ("in a batch", "alone")
    for number, (norm, curve) in enumerate(curves.items()):
        left.plot([step / 20 for step in range(21)], curve, "o-", markersize=3, label=norm)
        places = [place + 0.27 * (number - 1) for place in range(len(ways))]
        right.bar(places, [100 * figures[norm][way] for way in ways], 0.25, label=norm)
    left.set(
        xlabel="flaw of another picture of the batch",
        ylabel="probability of being generated",
        title="one real picture",
        ylim=(-0.05, 1.05),
    )
    right.set(ylabel="classified right, %", title="pictures without a flaw", ylim=(0, 105))
    right.set_xticks(range(len(ways)), ways)
    right.axhline(50, color="gray", linewidth=1)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(title="norm", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
