"""The weights in the package, by the names that loaders and commands take for them."""

from __future__ import annotations

from pathlib import Path

from flowwarp.io.checkpoints import bundled_weights

SHIPPED = "base"  # of each network
FLOWNETS = (SHIPPED, "small")  # of flow networks there are two

_TRAINERS = {"flownet": "flow", "sketcher": "captioner --kinds"}  # others are called as networks


def find_weights(weights: str | Path, network: str) -> str | Path:
    """Return the file of weights: that in the package for a name of it, any other name as it is.

    Args:
        weights: ``"base"``, for a flow network also ``"small"``, or a file.
        network: ``flownet``, ``dvae``, ``gpt``, ``captioner``, ``sketcher``,
            ``reviser`` or ``upsampler``.

    Raises:
        InputError: the package comes without weights of this network.
    """
    if weights not in (FLOWNETS if network == "flownet" else (SHIPPED,)):
        return weights
    remedy = f"train some with train-{_TRAINERS.get(network, network)}, and name that file"
    return bundled_weights(f"{network}_{weights}", remedy)
