"""``python -m attacks [MODULE ...]``: carry out the attempts and say what came of each."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from attacks.attempt import MODULES, attempts, carry_out


def main() -> None:
    """Leave with 1 if an attempt succeeded."""
    as_json = "--json" in sys.argv[1:]
    chosen = tuple(name for name in sys.argv[1:] if name != "--json") or MODULES
    unknown = [name for name in chosen if name not in MODULES]
    if unknown:
        sys.exit(f"no attempts named {', '.join(unknown)}; there are {', '.join(MODULES)}")
    outcomes = [carry_out(name, prepare) for name, prepare in attempts(chosen)]
    if as_json:
        print(json.dumps([asdict(outcome) for outcome in outcomes]))
    for outcome in [] if as_json else outcomes:
        end = f"SUCCEEDED: {outcome.fault}" if outcome.fault else f"refused with {outcome.code}"
        print(f"{outcome.name}: {end if outcome.code or outcome.fault else 'did no harm'}")
        print(f"    {outcome.said.strip()}")
    sys.exit(any(outcome.fault for outcome in outcomes))


if __name__ == "__main__":
    main()
