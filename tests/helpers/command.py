"""A command of `anchorage` in this process, where TensorFlow and TFX are loaded already."""

import contextlib
import io
import subprocess

from anchorage_pipeline.cli import main


def run_command(folder, *arguments):
    """Run a command in a folder; returns its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
