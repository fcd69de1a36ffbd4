"""Weights and training states as safetensors: written atomically, checked when read.

Loading a pickle runs the code inside it, so none is opened here, whatever its extension. Every file
that flowwarp writes contains a SHA-256 of its tensors. A file without one is read too, after its
header is compared with its size.

Training states are named in ``train/runs.py`` and filled in ``train/checkpoint.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from flowwarp.bundled import bundled
from flowwarp.errors import InputError
from flowwarp.io.atomic import atomic_output
from flowwarp.io.files import open_input

Network = TypeVar("Network", bound=nn.Module)

# Limit of (bytes of all tensors, shared ones counted under every name) / (bytes of the file).
# Twelve layers that share all parameters need 12.
_MAX_EXPANSION = 16
_MAX_HEADER = 100_000_000  # bytes; the limit of safetensors
SCALE = "/scale"  # suffix of the tensor of scales that belongs to a tensor of 8 bits
PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".tar"})


@dataclass(frozen=True)
class Card:
    """Description of a network, stored with its weights.

    Args:
        model: name of the network's type, such as ``flownet``.
        config: arguments of its configuration.
        step: number of training steps.
        notes: anything else: licence, data, seed, results.
    """

    model: str
    config: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


def save_weights(
    path: str | Path, module: nn.Module, card: Card, *, dtype: torch.dtype | None = None
) -> None:
    """Write a network's weights with their card.

    Args:
        path: the ``.safetensors`` file; an existing one is replaced.
        module: the network.
        card: its description.
        dtype: in which floating-point tensors are stored; by default, their own.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = module.state_dict()
    if dtype is not None:
        tensors = to_dtype(tensors, dtype)
    metadata = dict(card.notes) | {"model": card.model, "config": json.dumps(card.config)}
    if card.step is not None:
        metadata["step"] = str(card.step)
    save_tensors(path, tensors, metadata)


def to_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return tensors with the floating-point ones among them converted to ``dtype``."""
    return {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}


def load_weights(path: str | Path, model: str | None = None) -> tuple[dict[str, Tensor], Card]:
    """Read a network's weights and card.

    Args:
        path: a ``.safetensors`` file.
        model: type of network that is expected; None for any.

    Returns:
        The tensors, with those stored in 8 bits as float32, and the card.

    Raises:
        InputError: not such a file, broken, or of another network.
    """
    stored, metadata = load_tensors(path)
    tensors = _from_8_bits(stored, path)
    found = metadata.pop("model", None)
    if found is None:
        raise InputError(path, "does not state its network", "use a file that flowwarp has written")
    if model is not None and found != model:
        raise InputError(path, f"contains the weights of {found}, not of {model}")
    try:
        config = json.loads(metadata.pop("config", "{}"))
        step = int(metadata.pop("step")) if "step" in metadata else None
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as fault:
        raise InputError(path, f"its card is broken ({fault})") from fault
    return tensors, Card(found, config, step, metadata)


def to_8_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in half the bytes of bf16, as :func:`load_weights` reads them.

    Each row of a matrix (R, ...), or output channel of a convolution, becomes int8 with one float32
    scale, (R, 1, ...), so that its largest value is 127 and the error at most half a step. Tensors
    of fewer than two dimensions, a small part of a network, become bf16. Integers stay.
    """
    small: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            small[name] = tensor
        elif tensor.dim() < 2 or not tensor.numel():
            small[name] = tensor.bfloat16()
        else:
            rows = tensor.float().abs().flatten(1).amax(1).view(-1, *[1] * (tensor.dim() - 1))
            scale = (rows / 127).clamp(min=torch.finfo(torch.float32).tiny)
            small[name] = (tensor.float() / scale).round().to(torch.int8)
            small[name + SCALE] = scale
    return small


def _from_8_bits(stored: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Return the tensors that `to_8_bits` has rounded, as float32.

    Raises:
        InputError: a scale belongs to no tensor of 8 bits or has another number of rows; or two
            scales belong to one shared tensor, each of which would take four times its memory.
    """
    scaled_before: set[int] = set()
    tensors = {name: tensor for name, tensor in stored.items() if not name.endswith(SCALE)}
    for name, scale in stored.items():
        if not name.endswith(SCALE):
            continue
        scaled = name.removesuffix(SCALE)
        tensor = tensors.get(scaled)
        if tensor is None or tensor.dtype != torch.int8:
            raise InputError(source, f"{name!r} is the scale of no tensor of 8 bits")
        if scale.shape != (*tensor.shape[:1], *[1] * (tensor.dim() - 1)):
            raise InputError(source, f"{name!r} is {tuple(scale.shape)}, not one value a row")
        if id(tensor) in scaled_before:
            raise InputError(source, f"{name!r} is of a tensor that has another scale")
        scaled_before.add(id(tensor))
        tensors[scaled] = tensor.float() * scale.float()
    return tensors


def bundled_weights(name: str, remedy: str) -> Path:
    """Return a file of weights in the package.

    Args:
        name: of the file, without its extension.
        remedy: what the user can do if it is missing.

    Raises:
        InputError: the package does not contain it.
    """
    try:
        path = bundled("weights") / f"{name}.safetensors"
        if path.is_file():
            return path
    except FileNotFoundError:  # a package without any
        pass
    raise InputError(name, "this package has no weights of it", remedy)


def _shipped(model: str) -> str:
    """Return the names of a network's weights in the package."""
    try:
        files = sorted(bundled("weights").glob(f"{model}_*.safetensors"))
    except FileNotFoundError:
        files = []
    names = [file.stem.removeprefix(f"{model}_") for file in files]
    return " and ".join(names) or "none"


def build(
    path: str | Path, model: str, make: Callable[[Mapping[str, Any]], Network]
) -> tuple[Network, Card]:
    """Make a network from a file of weights.

    The network is first made on the meta device, so that its card is compared with its tensors
    before memory is allocated.

    Args:
        path: a ``.safetensors`` file.
        model: type of network that is expected.
        make: makes the network from the arguments of its configuration, with tuples for lists.

    Returns:
        The network, on the CPU in float32, and the card.

    Raises:
        InputError: not such a file, broken, of another network, or its card does not fit.
    """
    if not os.path.lexists(path):
        remedy = f"the package has {_shipped(model)}" if Path(path).suffix == "" else None
        raise InputError(path, "no such file or directory", remedy)
    tensors, card = load_weights(path, model)
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in card.config.items()
    }
    try:
        with _NoRandomValues():
            with torch.device("meta"), at_most(4 * len(tensors) + 64):
                check_fit(make(settings), tensors, path)
            net = make(settings).float()  # torch's default dtype may be another
    except InputError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError, IndexError) as fault:
        problem = " ".join(str(fault).split())
        raise InputError(path, f"its card does not describe a {model} ({problem})") from fault
    fill(net, tensors, path)
    return net, card


@final
class _NoRandomValues(TorchFunctionMode):
    """Skips the random initialisation of tensors whose values come from a file.

    That saves time, most of all on the meta device, where torch imports Dynamo or SymPy for it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.randn, torch.rand):
            return torch.empty(*args, **kwargs)
        if func in (Tensor.normal_, Tensor.uniform_) or (
            getattr(func, "__module__", None) == nn.init.__name__
        ):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def at_most(parameters: int) -> Iterator[None]:
    """Limit the number of parameter tensors that may be registered within the block.

    Raises:
        ValueError: there are more. A card may state a network of millions of layers.
    """
    left = parameters

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("more layers than the file has tensors for")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy tensors into a network that has the same names and shapes.

    Raises:
        InputError: a name or shape differs, or a value is not finite; the message names the first.
    """
    check_fit(module, tensors, source)
    dtypes = {key: tensor.dtype for key, tensor in module.state_dict().items()}
    for key, tensor in tensors.items():
        # Converted first: a finite float64 may be infinite in the network's dtype.
        if not bool(torch.isfinite(tensor.to(dtypes[key])).all()):
            raise InputError(source, f"{key!r} is not finite everywhere", "train the network again")
    module.load_state_dict(dict(tensors))


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Compare names, shapes and types of tensors with those of a network.

    Raises:
        InputError: one differs; the message names the first.
    """
    wanted = module.state_dict()
    for key in wanted:
        if key not in tensors:
            raise InputError(source, f"lacks {key!r}", "these are the weights of another network")
        if tensors[key].shape != wanted[key].shape:
            got, want = tuple(tensors[key].shape), tuple(wanted[key].shape)
            raise InputError(source, f"{key!r} is {got}, the network needs {want}")
        if tensors[key].is_floating_point() != wanted[key].is_floating_point():
            raise InputError(source, f"{key!r} is {tensors[key].dtype}, not {wanted[key].dtype}")
    for key in tensors:
        if key not in wanted:
            raise InputError(
                source, f"has {key!r}, which the network lacks", "does its configuration differ?"
            )


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write named tensors; a tensor with two names (tied weights) is stored once.

    Raises:
        OutputError: the file cannot be written; an earlier file is still there.
    """
    stored: dict[str, Tensor] = {}
    alias: dict[str, str] = {}  # further names of stored tensors
    name_at: dict[tuple[object, ...], str] = {}  # by place in memory
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in name_at:
            alias[name] = name_at[place]
            continue
        name_at[place] = name
        tensor = tensor.detach().to("cpu").contiguous()
        # safetensors refuses views of one storage, so a view is copied.
        is_view = tensor.untyped_storage().nbytes() != tensor.nbytes
        stored[name] = tensor.clone() if is_view else tensor
    text = dict(metadata) | {"sha256": _digest(stored)}
    if alias:
        text["alias"] = json.dumps(alias)
    data = save(stored, text)
    # Not safetensors' save_file: it replaces any file, devices included, gives read permission to
    # the owner only, and leaves a partial file when the process is killed.
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read named tensors and their metadata.

    Raises:
        InputError: not safetensors, cut off, or the tensors do not match their SHA-256.
    """
    # Not safetensors' safe_open: it refuses names that are not UTF-8, and maps the file to memory,
    # so that the process is killed if the file is truncated meanwhile.
    try:
        with open_input(path) as (file, size):
            _refuse_pickle(path, file)
            file.seek(0)
            metadata = _read_metadata(file, size)
            file.seek(0)
            data = file.read()
        tensors: dict[str, Tensor] = dict(sorted(load(data).items()))  # load has no fixed order
    except (SafetensorError, LookupError, ValueError, TypeError, RecursionError) as fault:
        if isinstance(fault, InputError):
            raise
        problem = " ".join(str(fault).split())
        raise InputError(path, f"is not a complete safetensors file ({problem})") from fault
    digest = metadata.pop("sha256", None)
    if digest is not None and digest != _digest(tensors):
        raise InputError(path, "its tensors do not match its SHA-256", "the file is broken")
    try:
        alias = json.loads(metadata.pop("alias", "{}"))
        tensors |= {name: tensors[original] for name, original in alias.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as fault:
        raise InputError(path, f"its list of shared tensors is broken ({fault})") from fault
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > _MAX_EXPANSION * len(data):
        raise InputError(path, f"would unpack from {len(data)} to {total} bytes of shared tensors")
    return tensors, metadata


def _read_metadata(file: BinaryIO, size: int) -> dict[str, str]:
    """Return the metadata in the header, after checking that the tensors fill the file.

    A larger file could be sparse: gigabytes of zeros that take no space on the disk.

    Raises:
        ValueError, LookupError, TypeError, RecursionError: the header is broken, or the tensors do
            not fill the file.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > min(_MAX_HEADER, size - 8):
        raise ValueError(f"its header has {length} bytes, the file {size}")
    header = dict(json.loads(file.read(length)))
    metadata = dict(header.pop("__metadata__", None) or {})
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"its tensors end at byte {8 + length + end} of {size}")
    return metadata


def _refuse_pickle(path: str | Path, file: BinaryIO) -> None:
    """Refuse a file of torch.save, the most common mistake, by its content or extension.

    Raises:
        InputError: it is a pickle.
    """
    head = file.read(9)
    if head[8:] == b"{":  # safetensors: eight bytes of length, then JSON
        return
    zipped = head.startswith(b"PK\x03\x04")
    pickled = len(head) > 1 and head[0] == 0x80 and head[1] <= 5
    if zipped or pickled or Path(path).suffix.lower() in PICKLES:
        raise InputError(
            path,
            "is a pickle; flowwarp loads safetensors only",
            "loading one would run the code in it",
        )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
