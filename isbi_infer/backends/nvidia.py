"""What the NVIDIA driver's own tool reports of GPUs; nothing is loaded."""

from __future__ import annotations

import subprocess


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
