"""The table of the demo in a browser."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.store import Stored

from .cells import MISSING, fair, origin, table


def browser_table(stored: Stored) -> Iterator[str]:
    """Write how long a section takes on the first visit and on the next ones."""
    if "browser" not in stored:
        yield MISSING
        return
    record = stored["browser"]
    measured = record["measured"]
    yield from table(
        ["section of 512 x 512, int8", "threads", "page ready", "from asking to outlines"],
        (
            [
                f"{visit} visit",
                str(found["threads"]),
                f"{found['ready_s']:.1f} s",
                f"{found['shown_median_s']:.2f} s",
            ]
            for visit, found in measured["visits"].items()
        ),
    )
    gpu = "a WebGPU adapter was there and not used" if measured["webgpu_adapter"] else "no WebGPU adapter"
    packages = ", ".join(f"{name} {version}" for name, version in record["settings"]["packages"].items())
    busy = "" if fair(record) else " on a busy machine"
    yield ""
    yield (
        f"Medians of {record['settings']['rounds']} sections in Chromium {measured['chromium']} with {packages}{busy}; "
        f"{gpu}; {origin(record)}"
    )
