"""Every attempt of attacks/ is refused as its module says, by the real command lines, all in one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attacks import __main__ as program
from attacks import pickle_payload
from attacks.attempt import Attempt, attempts

ROOT = Path(__file__).parents[2]
NAMES = [name for name, _ in attempts()]


@pytest.fixture(scope="module")
def outcomes():
    command = [sys.executable, "-W", "ignore", "-m", "attacks", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("["), done.stderr
    return {outcome["name"]: outcome for outcome in json.loads(done.stdout)}


@pytest.mark.parametrize("name", NAMES)
def test_an_attempt_is_refused_and_does_no_harm(outcomes, figures, name):
    figures(attacks=1)
    assert outcomes[name]["fault"] == ""


def test_what_succeeds_is_said_and_leaves_with_1(monkeypatch, capsys):
    def let_in(folder):
        return Attempt(program="isbi-infer", arguments=["--version"], code=5, says="refused")

    monkeypatch.setattr(pickle_payload, "ATTEMPTS", {"one that is let in": let_in})
    monkeypatch.setattr(sys, "argv", ["attacks", "pickle_payload"])
    with pytest.raises(SystemExit) as left:
        program.main()
    assert left.value.code == 1
    assert "pickle_payload: one that is let in: SUCCEEDED: left with 0, expected 5" in capsys.readouterr().out
