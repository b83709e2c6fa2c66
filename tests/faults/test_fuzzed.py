"""What a fuzzer tries, for a fixed number of inputs: the stored corpus, and mutations of it.

`make fuzz` lets a coverage-guided one (atheris) go on from the same corpus for as long as one likes.
"""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
spec = importlib.util.spec_from_file_location("fuzz_targets", FUZZ / "targets.py")
targets = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = targets
spec.loader.exec_module(targets)


def mutated(content, chance):
    """Return bytes with a few of them changed, put in, taken out, repeated or exchanged."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at, length = chance.randrange(len(data) + 1), chance.choice([1, 1, 2, 4, 8, 64])
        kind = chance.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + length] = chance.choice([b"\0", b"\xff", b"\x80", b"\x7f"]) * length
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        else:
            other = chance.randrange(len(data) + 1)
            data[at : at + length] = data[other : other + length]
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inputs", [2000, pytest.param(20_000, marks=pytest.mark.more)])
@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_fixed_number_of_inputs_is_read_or_refused(name, inputs, figures, capfd):
    seeds = [path.read_bytes() for path in sorted((FUZZ / "corpus" / name).iterdir())]
    assert len(seeds) > 5
    chance = random.Random(2012)
    assert all(targets.TARGETS[name](content) for content in seeds)
    read = sum(targets.TARGETS[name](mutated(chance.choice(seeds), chance)) for _ in range(inputs))
    assert 0 < read < inputs
    figures(fuzzed=len(seeds) + inputs)
    assert capfd.readouterr() == ("", "")
