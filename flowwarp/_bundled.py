"""Where the files that ship with the package lie; imports nothing of ours.

In a checkout the kernel sources and the sample data are the top-level folders ``cuda/`` and
``datasets/``; in an installed package they are ``flowwarp/_cuda`` and ``flowwarp/_datasets``.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def bundled(folder: str) -> Path:
    """Return the directory of a shipped folder.

    Args:
        folder: ``"cuda"`` or ``"datasets"``.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    for candidate in (_PACKAGE / f"_{folder}", _PACKAGE.parent / folder):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"flowwarp was installed without its {folder} folder; reinstall it")
