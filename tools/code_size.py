"""Count lines of code by area, and list what is longer than the limits in CONTRIBUTING.md.

    python tools/code_size.py            a table
    python tools/code_size.py --check    exit 1 if a file, function or signature is over its limit

A line of code is one that holds a token other than a comment or a docstring. Each file belongs to
one area: the first pattern of ``AREAS`` that matches its path.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_IN_FILE, MOST_IN_FUNCTION, MOST_PARAMETERS = 400, 70, 8
