"""Commands of the project in processes that have their libraries already.

Importing torch, transformers and datasets takes longer than what most tests run. A server imports them once and forks
for every command, which is otherwise a process of its own: its own arguments, folder, output and exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = ("torch", "transformers.models.bert.modeling_bert", "peft", "datasets", "evaluate", "sklearn.metrics")
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(list(LIBRARIES))


def run(script: Path, arguments: list[str], folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """`python script arguments...` in a folder, with this process's environment. Raises subprocess.TimeoutExpired.

    Variables that a library reads while it is imported have the values that they had when the server started.
    """
    command = [str(script), *arguments]
    with tempfile.TemporaryDirectory() as outputs:
        out, err = Path(outputs, "out"), Path(outputs, "err")
        process = _SERVER.Process(target=_run_script, args=(command, folder, dict(os.environ), out, err))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout, out.read_bytes(), err.read_bytes())
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


def _run_script(command: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    """Become the command: its outputs go to the two files; its exit code leaves as SystemExit."""
    os.environ.clear()
    os.environ.update(environment)
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
