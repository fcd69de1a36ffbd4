"""Folders that ship with the package, and the cache folder. Imports nothing of flowwarp.

In a checkout the kernel sources and the sample data are the top-level folders ``cuda/`` and
``datasets/``; in an installed package they are ``flowwarp/_cuda`` and ``flowwarp/_datasets``.
Weights are ``flowwarp/_weights`` in both.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def bundled(folder: str) -> Path:
    """Return the path of a folder that ships with the package.

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
    """Return the folder for compiled kernels and prepared data, or None.

    It is ``FLOWWARP_CACHE_DIR``, or ``flowwarp`` in ``XDG_CACHE_HOME`` or in ``~/.cache``; None if
    the user has no home folder.
    """
    if folder := os.environ.get("FLOWWARP_CACHE_DIR"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder, "flowwarp")
    try:
        return Path.home() / ".cache" / "flowwarp"
    except RuntimeError:  # a container's user without a home
        return None
