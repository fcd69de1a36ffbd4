"""Weights and training states as safetensors: written whole or not at all, checked when read.

A pickle runs the code inside it when it is loaded, so none is ever opened here, whatever it is
called. Every file we write carries a SHA-256 of its tensors; a file without one (from elsewhere)
is read too, its header checked against its size.
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

# How much larger the tensors of a file may be than the file, by tensors that stand under several
# names: layers of one network that share all they have are some twelve.
_MOST_SHARED = 16
_MOST_HEADER = 100_000_000  # bytes; what safetensors reads
SCALE = "/scale"  # ends the name of what multiplies a tensor that is stored in 8 bits
PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".tar"})


@dataclass(frozen=True)
class Card:
    """What a file of weights says about itself.

    Args:
        model: which network the weights are of.
        config: the arguments of its configuration.
        step: how many steps it was trained.
        notes: anything else: licence, data, seed, figures.
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
        path: the ``.safetensors`` file; what was there is replaced at once.
        module: the network.
        card: what to say about it.
        dtype: what floating-point tensors are stored as; by default, what they are.

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
    """Return tensors, the floating-point ones among them as ``dtype``."""
    return {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}


def load_weights(path: str | Path, model: str | None = None) -> tuple[dict[str, Tensor], Card]:
    """Read a network's weights and card.

    Args:
        path: a ``.safetensors`` file.
        model: which network they must be of.

    Returns:
        The tensors, those stored in 8 bits as float32, and the card.

    Raises:
        InputError: not such a file, broken, or of another network.
    """
    stored, metadata = load_tensors(path)
    tensors = _from_8_bits(stored, path)
    found = metadata.pop("model", None)
    if found is None:
        raise InputError(path, "does not say which network it is of", "flowwarp writes that")
    if model is not None and found != model:
        raise InputError(path, f"holds the weights of {found}, not of {model}")
    try:
        config = json.loads(metadata.pop("config", "{}"))
        step = int(metadata.pop("step")) if "step" in metadata else None
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as fault:
        raise InputError(path, f"its card is broken ({fault})") from fault
    return tensors, Card(found, config, step, metadata)


def to_8_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in half the bytes of bf16, as ``load_weights`` reads them.

    Each row of a matrix, or output channel of a convolution, becomes int8 and one scale, so that
    its largest value is 127 and no value is off by more than half a step. What has fewer than two
    dimensions, a small part of any network, becomes bf16; integers stay.
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
    """Return tensors as they were before ``to_8_bits``, but for its rounding.

    Raises:
        InputError: a scale has no tensor of 8 bits, or none of its rows; or it is of a tensor under
            another name, each of which would take four times its bytes.
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
    """Return the file of weights in the package.

    Args:
        name: of the file, without its suffix.
        remedy: what to do where there is none.

    Raises:
        InputError: the package comes without it.
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
    """Make the network that a file of weights is of.

    What its card says is compared with its tensors before any memory is taken for it.

    Args:
        path: a ``.safetensors`` file.
        model: which network it must be of.
        make: makes the network from the arguments of its configuration; lists come as tuples.

    Returns:
        The network, on the CPU, and the card.

    Raises:
        InputError: not such a file, broken, of another network, or its card is of another one.
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
        with _Blank():
            with torch.device("meta"), at_most(4 * len(tensors) + 64):
                check_fit(make(settings), tensors, path)
            net = make(settings).float()  # whatever torch's default is
    except InputError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError, IndexError) as fault:
        problem = " ".join(str(fault).split())
        raise InputError(path, f"its card does not describe a {model} ({problem})") from fault
    fill(net, tensors, path)
    return net, card


@final
class _Blank(TorchFunctionMode):
    """Draw no random numbers for tensors that get their values from a file.

    That saves their time, and on the meta device, where torch's way of drawing loads Dynamo or
    SymPy, more.
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
    """Refuse to make a network of so many layers that making them alone takes long."""
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
    """Copy tensors into a network, which must have just these, in these shapes.

    Raises:
        InputError: it has not, or a value is not finite; the first such key is named.
    """
    check_fit(module, tensors, source)
    kinds = {key: tensor.dtype for key, tensor in module.state_dict().items()}
    for key, tensor in tensors.items():
        # As the network will hold it: float64 may be too large for that.
        if not bool(torch.isfinite(tensor.to(kinds[key])).all()):
            raise InputError(source, f"{key!r} is not finite everywhere", "train it anew")
    module.load_state_dict(dict(tensors))


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Compare names, shapes and kinds of tensors with those of a network.

    Raises:
        InputError: the first key that differs is named.
    """
    wanted = module.state_dict()
    for key in wanted:
        if key not in tensors:
            raise InputError(source, f"lacks {key!r}", "these are the weights of another network")
        if tensors[key].shape != wanted[key].shape:
            got, want = tuple(tensors[key].shape), tuple(wanted[key].shape)
            raise InputError(source, f"{key!r} is {got}, the network needs {want}")
        if tensors[key].is_floating_point() != wanted[key].is_floating_point():
            raise InputError(source, f"{key!r} holds {tensors[key].dtype}, not {wanted[key].dtype}")
    for key in tensors:
        if key not in wanted:
            raise InputError(
                source, f"has {key!r}, which the network has not", "is its configuration another?"
            )


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write named tensors; one that stands under two names (tied weights) is stored once.

    Raises:
        OutputError: the file cannot be written; what was there before is still there.
    """
    kept: dict[str, Tensor] = {}
    alias: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in seen:
            alias[name] = seen[place]
            continue
        seen[place] = name
        tensor = tensor.detach().to("cpu").contiguous()
        # A view of something larger: safetensors refuses it where another part is stored too.
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        kept[name] = tensor if whole else tensor.clone()
    text = dict(metadata) | {"sha256": _digest(kept)}
    if alias:
        text["alias"] = json.dumps(alias)
    data = save(kept, text)
    # Not save_file, which replaces whatever has the name (a device too) by a file that only its
    # owner may read, and leaves one behind when the process is killed.
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read named tensors and their metadata.

    Raises:
        InputError: not safetensors, truncated, or the tensors are not those that were written.
    """
    # Not safe_open, which takes no name that is not UTF-8, and maps the file: cut short meanwhile,
    # that ends the process.
    try:
        with open_input(path) as (file, size):
            _refuse_pickle(path, file)
            file.seek(0)
            metadata = _read_metadata(file, size)
            file.seek(0)
            data = file.read()
        tensors: dict[str, Tensor] = dict(sorted(load(data).items()))  # in no order of its own
    except (SafetensorError, LookupError, ValueError, TypeError, RecursionError) as fault:
        if isinstance(fault, InputError):
            raise
        problem = " ".join(str(fault).split())
        raise InputError(path, f"is not a whole safetensors file ({problem})") from fault
    digest = metadata.pop("sha256", None)
    if digest is not None and digest != _digest(tensors):
        raise InputError(path, "its tensors are not those that were written", "the file is broken")
    try:
        alias = json.loads(metadata.pop("alias", "{}"))
        tensors |= {name: tensors[original] for name, original in alias.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as fault:
        raise InputError(path, f"its list of shared tensors is broken ({fault})") from fault
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > _MOST_SHARED * len(data):
        raise InputError(path, f"would unpack from {len(data)} to {total} bytes of shared tensors")
    return tensors, metadata


def _read_metadata(file: BinaryIO, size: int) -> dict[str, str]:
    """Return what a file says besides its tensors, after a look at whether these fill it.

    The rest of a file that is larger may be a hole, gigabytes that are nowhere on the disk.

    Raises:
        ValueError, LookupError, TypeError, RecursionError: the header is broken, or they do not.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > min(_MOST_HEADER, size - 8):
        raise ValueError(f"its header has {length} bytes, the file {size}")
    header = dict(json.loads(file.read(length)))
    metadata = dict(header.pop("__metadata__", None) or {})
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"its tensors end at byte {8 + length + end} of {size}")
    return metadata


def _refuse_pickle(path: str | Path, file: BinaryIO) -> None:
    """Name the commonest mistake, a file of torch.save, by its content or extension.

    Raises:
        InputError: it is one.
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
