"""What the NVIDIA driver's own tool reports of GPUs, and why one does not compute; nothing is loaded."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

# NVIDIA, "CUDA Toolkit Release Notes", table of minimum driver versions: the first number, by the release's.
_OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
_UPGRADE = "run: pip install --upgrade 'isbi-infer[gpu]'"


def list_gpus() -> list[str]:
    """Return one line for each GPU that ``nvidia-smi`` lists; none where it is not there or fails."""
    fields = "name,driver_version,memory.free,memory.total"
    command = ("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    lines = [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [f"{x[0]}, driver {x[1]}, {x[2]} of {x[3]} MiB free" for x in lines if len(x) == 4]


def why_not(gpus: Sequence[str], cuda: str, found: str) -> str:
    """Return why a GPU does not compute, from what the machine shows, and what to do.

    Parameters
    ----------
    gpus : sequence of str
        From `list_gpus`.
    cuda : str
        Release of CUDA that the runtime was built for, such as "12.8"; empty where not known.
    found : str
        What the runtime could not load, or what it says.
    """
    if not gpus:
        return "nvidia-smi finds no NVIDIA GPU or driver; install the driver, or use --provider cpu"
    driver = re.search(r"driver (\d+)[\d.]*", gpus[0])
    oldest = _OLDEST_DRIVERS.get(int(cuda.partition(".")[0] or 0))
    if driver and oldest and int(driver[1]) < oldest:
        return (
            f"{driver[0]} is too old for CUDA {cuda}, which needs {oldest} or newer; update the driver, or use "
            "--provider cpu"
        )
    library = re.search(r"(?:lib)?(cudnn|cublas|cudart|cufft|curand|nvrtc|nvjitlink)", found, re.IGNORECASE)
    if library:
        name = "cuDNN" if library[1].lower() == "cudnn" else f"the CUDA library {library[1].lower()}"
        return f"{name} is missing; {_UPGRADE}"
    return f"a library that it needs is missing ({found}); {_UPGRADE}"
