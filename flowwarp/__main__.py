"""The command line, as ``python -m flowwarp``."""

from flowwarp.cli import main

main()
