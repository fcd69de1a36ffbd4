"""Where files lie that ship with the package or are made once; imports nothing of ours.

In a checkout the kernel sources and the sample data are the top-level folders ``cuda/`` and
``datasets/``; in an installed package they are ``flowwarp/_cuda`` and ``flowwarp/_datasets``.
Weights are ``flowwarp/_weights`` in both.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def bundled(folder: str) -> Path:
    """Return the directory of a shipped folder.

    Args:
        folder: ``"cuda"``, ``"datasets"`` or ``"weights"``.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    for candidate in (_PACKAGE / f"_{folder}", _PACKAGE.parent / folder):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"flowwarp was installed without its {folder} folder; reinstall it")


def cache_folder() -> Path | None:
    """Return where compiled kernels and prepared data are kept; None without such a place."""
    if folder := os.environ.get("FLOWWARP_CACHE_DIR"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder, "flowwarp")
    try:
        return Path.home() / ".cache" / "flowwarp"
    except RuntimeError:  # a container's user without a home
        return None
