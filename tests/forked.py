"""Programs in processes of their own that begin with torch and others imported: it takes longer than what tests ask.

They are forked from a process that imported them. What a start itself does is asked of programs started as users do.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "isbi_train.commands.fit",
        "isbi_train.training.train",
        "isbi_train.evaluation.evaluate",
        "torch._dynamo",
        "matplotlib.figure",
        "matplotlib.backends.backend_svg",
        "numba",
        "scipy.ndimage",
        "skimage.measure",
    ]
)


def _become(command, environment, outputs):
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    warnings.simplefilter("error")
    importlib.import_module(f"{command[0].replace('-', '_')}.__main__").main()


@dataclass(frozen=True)
class Forked:
    """A program that goes on in a process of its own; all its warnings are errors.

    Attributes: `command`, its name and arguments; `process`; `folder`, which holds what it writes.
    """

    command: list[str]
    process: BaseProcess
    folder: tempfile.TemporaryDirectory = field(repr=False)

    def done(self):
        """Wait until it ends, and return how."""
        self.process.join()
        printed, said = (Path(self.folder.name, name).read_text() for name in ("stdout", "stderr"))
        self.folder.cleanup()
        return subprocess.CompletedProcess(self.command, self.process.exitcode, printed, said)


def begun(*command, **variables):
    """Begin a program, such as ``isbi-train``, with variables of its environment."""
    command, folder = list(map(str, command)), tempfile.TemporaryDirectory()
    outputs = [os.path.join(folder.name, name) for name in ("stdout", "stderr")]
    process = SERVER.Process(target=_become, args=(command, {**os.environ, **variables}, outputs))
    process.start()
    return Forked(command, process, folder)


def run(*command, **variables):
    """Run a program until it ends."""
    return begun(*command, **variables).done()
