"""The inputs of a training: the settings of the loop, and a task (network, data and loss)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from flowwarp.defaults import MAX_SEED
from flowwarp.errors import InputError
from flowwarp.train.settings import check_least

MAX_EXAMPLES = 2**20  # per step; a typing error would otherwise fill the memory

Batch = Mapping[str, Tensor]
Loss = Callable[[nn.Module, Batch, int], Mapping[str, Tensor]]
Figures = dict[str, float]
_Set = TypeVar("_Set")

# Upper limits of some settings: anything larger is a typing error, or overflows.
_UPPER_LIMITS = {
    **dict.fromkeys(("learning_rate", "muon"), 1e6),
    **dict.fromkeys(("flat", "least_gain"), 1),
    **dict.fromkeys(("threads", "workers"), 1024),
    **dict.fromkeys(("steps", "warmup"), 1e12),
}


@dataclass(frozen=True)
class LoopConfig:
    """How to train: the section ``[loop]`` of a run's config.toml.

    Args:
        steps: steps of the optimiser.
        batch_size: examples per step, over all processes.
        accumulate: micro-batches per step. More of them need less memory; the result is the same.
        learning_rate: the highest rate, reached after the warm-up.
        warmup: steps over which the rate rises linearly from zero.
        flat: share of the steps after which the rate begins to fall; before it is constant.
        decay: shape of the rate from there to the last step.
        floor: the rate at the last step, as a fraction of ``learning_rate``.
        weight_decay: for matrices and kernels; never for biases, scales and norms.
        beta2: decay of AdamW's average of squared gradients.
        muon: learning rate of the matrices that Muon updates, as a fraction of ``learning_rate``;
            0 uses AdamW everywhere. See :mod:`flowwarp.train.optimizers`.
        clip: maximum norm of the gradient; 0 for no clipping.
        ema: decay of the exponential moving average of the weights, which is validated and
            shipped; 0 for none. Early on the decay is ``(1 + step) / (10 + step)`` where that is
            less: otherwise the average of a short run would be mostly its initial weights.
        precision: ``bf16`` is autocast; weights, optimiser and average stay fp32.
        validate_every: steps between validations; 0 for one at the end only.
        patience: validations without a gain after which the rate begins to fall, or, once it
            falls, the training ends; 0 for never. See :func:`flowwarp.train.schedule.planned_end`.
        least_gain: share of the best figure by which another must be better to be a gain.
        samples_every: steps between sample pictures; 0 for the end only.
        log_every: steps per line of metrics.jsonl, which holds their means.
        save_every: steps between states.
        save_seconds: seconds after which a state is saved anyway.
        keep: states to keep: at least two, so that there is one to fall back to.
        seed: of weights, data and noise.
        threads: torch's threads, 0 for its own choice. Another number may round sums differently.
        workers: threads that prepare batches ahead; 0 for none.
        shard: split the network, its average and its optimiser over the processes instead of
            copying them to each; see :func:`flowwarp.train.processes.share`.
    """

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 4e-4
    warmup: int = 100
    flat: float = 0.0
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    floor: float = 0.01
    weight_decay: float = 1e-4
    beta2: float = 0.999
    muon: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    precision: Literal["fp32", "bf16"] = "fp32"
    validate_every: int = 500
    patience: int = 0
    least_gain: float = 0.0
    samples_every: int = 500
    log_every: int = 20
    save_every: int = 500
    save_seconds: float = 300.0
    keep: int = 2
    seed: int = 0
    threads: int = 0
    workers: int = 0
    shard: bool = False

    def __post_init__(self) -> None:
        check_least(self, 1, "steps", "batch_size", "accumulate", "log_every", "save_every")
        check_least(self, 2, "keep")  # one to fall back to
        numbers = (item.name for item in fields(self) if item.type in ("int", "float"))
        check_least(self, 0, *numbers)
        for name in ("ema", "beta2"):
            if not getattr(self, name) < 1:
                raise ValueError(f"{name} must be less than 1, got {getattr(self, name)}")
        if self.batch_size > MAX_EXAMPLES:
            raise ValueError(f"batch_size must be at most {MAX_EXAMPLES}, got {self.batch_size}")
        for name, limit in _UPPER_LIMITS.items():
            if not getattr(self, name) <= limit:
                raise ValueError(f"{name} must be at most {limit:g}, got {getattr(self, name)}")
        if self.seed > MAX_SEED:
            raise ValueError(f"seed must be at most {MAX_SEED}, got {self.seed}")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate ({self.accumulate}) must be at most batch_size ({self.batch_size})"
            )


# Settings that may change when a run is resumed: the weights do not depend on them.
MAY_CHANGE_ON_RESUME = frozenset(
    f"loop.{name}"
    for name in ("save_every", "save_seconds", "keep", "samples_every", "workers", "shard")
)


@dataclass(frozen=True)
class Task:
    """A network with its data and loss: the input of the loop.

    Args:
        name: name of the network, for the card of its weights.
        model: the network.
        batch: a function from example numbers to tensors, whose first axis is the example. It must
            be pure: example ``i`` is the same in every range that contains it.
        loss: a function from network, batch and step to tensors (B,), one number per example. The
            key ``loss`` is minimised; the others are logged.
        configs: frozen dataclasses for config.toml besides the loop's, by section:
            ``{"model": ...}``. ``model`` also goes into the card of the weights.
        validate: a function from the network (averaged, in eval mode, without gradients) to
            figures.
        metric: the figure that decides which weights are best; lower is better.
        samples: a function from the network to names and pictures (3, H, W) in [0, 1].
        notes: further entries of the card: licence, data.
        layers: names of the lists of layers that processes gather one at a time if they share the
            network (`LoopConfig.shard`). Without any, the network cannot be shared.
        matrices: names of the parts of the network whose matrices Muon may update
            (`LoopConfig.muon`). Without any, Muon cannot be used.
        prepare: called once before the first step, after all settings are checked, for slow work
            such as making data.
        data: identifies the data where the digest of the first example is not enough.
        trained: whether the network was trained before. If so, it is validated before the first
            step as well, and later weights must be better to become the best.
    """

    name: str
    model: nn.Module
    batch: Callable[[range], Batch]
    loss: Loss
    configs: Mapping[str, Any] = field(default_factory=dict)
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None
    metric: str = "loss"
    samples: Callable[[nn.Module], Iterable[tuple[str, Tensor]]] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    matrices: tuple[str, ...] = ()
    prepare: Callable[[], None] | None = None
    data: str = ""
    trained: bool = False


def check_network(config: LoopConfig, name: str, *, muon: bool, shared: bool) -> None:
    """Refuse settings that a network cannot be trained with.

    Args:
        config: the settings.
        name: name of the task.
        muon: whether the network has matrices for Muon.
        shared: whether the network has layers that processes may share.

    Raises:
        InputError: Muon without matrices, or sharding without layers.
    """
    if config.muon and not muon:
        raise InputError("loop.muon", f"a {name} has no matrices for Muon", "leave it 0")
    if config.shard and not shared:
        raise InputError("loop.shard", f"cannot share a {name}", "leave it false")


def measure_each(checks: Mapping[str, _Set], measure: Callable[[_Set], Figures]) -> Figures:
    """Return the figures of several validation sets.

    Args:
        checks: the sets, by name.
        measure: from a set to its figures.

    Returns:
        The first set's figures under their own names, the others' as ``SET_FIGURE``.
    """
    figures: Figures = {}
    for number, (name, one) in enumerate(checks.items()):
        prefix = f"{name}_" if number else ""
        figures |= {f"{prefix}{key}": value for key, value in measure(one).items()}
    return figures
