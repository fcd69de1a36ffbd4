"""Start the command line as a program."""

import subprocess
import sys


def flowwarp(*arguments, script=None, **streams):
    program = ["-c", script] if script else ["-m", "flowwarp", *arguments]
    return subprocess.run([sys.executable, *program], text=True, **streams)
