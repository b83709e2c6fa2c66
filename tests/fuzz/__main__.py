"""``python tests/fuzz TARGET [SECONDS]``: feed a reader with mutated inputs, guided by the lines that they reach.

It begins with the stored inputs in ``corpus/TARGET`` and keeps what reaches new lines in ``build/fuzz/TARGET``. A find
is written there too, as ``crash-...``, with its traceback on the terminal; what it shows becomes a case of tests/faults
and its input one of the corpus. Needs the extra ``fuzz`` (atheris, Linux).
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

FOLDER = Path(__file__).parent
_SECONDS = 60

with atheris.instrument_imports(include=["isbi_infer", "tifffile"]):
    sys.path.insert(0, str(FOLDER))
    from targets import TARGETS


def main() -> None:
    """Fuzz one target."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"name a target: {', '.join(TARGETS)}")
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else _SECONDS
    found = FOLDER.parents[1] / "build" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)

    def feed(content: bytes) -> None:
        TARGETS[name](content)

    options = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=4096"]
    options += [f"-artifact_prefix={found}/crash-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(found), str(FOLDER / "corpus" / name)], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
