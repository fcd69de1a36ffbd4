"""Names of the weights in the package, as loaders and commands accept them."""

from __future__ import annotations

from pathlib import Path

from flowwarp.io.checkpoints import bundled_weights

SHIPPED = "base"  # every network has weights of this name
FLOWNETS = (SHIPPED, "small")  # names for the flow network

# Commands that train a network, where their names differ from the network's.
_TRAINERS = {"flownet": "flow", "sketcher": "captioner --kinds"}


def find_weights(weights: str | Path, network: str) -> str | Path:
    """Return the bundled file for the name of bundled weights; return any other name unchanged.

    Args:
        weights: ``"base"``, for a flow network also ``"small"``, or a file.
        network: ``flownet``, ``dvae``, ``gpt``, ``captioner``, ``sketcher``,
            ``reviser`` or ``upsampler``.

    Raises:
        InputError: the package has no weights of this network.
    """
    if weights not in (FLOWNETS if network == "flownet" else (SHIPPED,)):
        return weights
    remedy = f"train some with train-{_TRAINERS.get(network, network)}, and name that file"
    return bundled_weights(f"{network}_{weights}", remedy)
