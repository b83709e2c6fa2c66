"""Which sections stand around one: the stack mirrored at its ends, however its sections come."""

import numpy as np
import pytest
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.pixels.statistics import section_statistics
from isbi_infer.plan.neighbours import Stacked, around, mirrored
from isbi_infer.run.tissue import stand_ins


@given(sections=st.integers(1, 9), neighbours=st.integers(0, 8))
def test_a_stack_is_mirrored_about_its_first_and_its_last_section(sections, neighbours):
    padded = np.pad(np.arange(sections), neighbours, mode="reflect")
    for z in range(sections):
        assert around(z, sections, neighbours) == padded[z : z + 2 * neighbours + 1].tolist()


@given(z=st.integers(-40, 40), sections=st.integers(1, 9))
def test_every_place_shows_a_section_of_the_stack(z, sections):
    assert 0 <= mirrored(z, sections) < sections
    assert mirrored(z, sections) == mirrored(-z, sections)


@given(sections=st.integers(0, 9), neighbours=st.integers(0, 5))
def test_sections_that_come_one_by_one_have_the_neighbours_that_those_of_a_file_have(sections, neighbours):
    read = []

    def coming():
        for z in range(sections):
            read.append(z)
            yield z

    found = list(Stacked.of(coming(), neighbours))
    stack = Stacked(lambda z: z, neighbours)
    assert found == [stack.around(z, sections) for z in range(sections)]
    assert found == [around(z, sections, neighbours) for z in range(sections)]
    assert read == list(range(sections))


@pytest.mark.parametrize("neighbours", [0, 2])
def test_an_error_of_the_one_who_hands_over_sections_is_not_taken_for_their_end(neighbours):
    def coming():
        yield from range(3)
        raise IndexError("of another list")

    with pytest.raises(IndexError, match="of another list"):
        list(Stacked.of(coming(), neighbours))


def test_no_more_is_read_ahead_than_is_seen():
    read = []
    coming = Stacked.of((read.append(z) or z for z in range(100)), 2)
    assert coming.around(0) == [2, 1, 0, 1, 2]
    assert read == [0, 1, 2]
    assert coming.around(1) == [1, 0, 1, 2, 3]
    assert read == [0, 1, 2, 3]


def test_without_neighbours_nothing_is_held():
    class Section:
        held = 0

        def __init__(self):
            Section.held += 1

        def __del__(self):
            Section.held -= 1

    stack = Stacked(lambda _: Section(), 0)
    for z in range(5):
        stack.around(z, 5)
        assert Section.held == 0


@pytest.fixture(scope="module")
def statistics():
    """Of a plain section, of one with a margin of canvas, and of a blank one."""
    section_YX = synthetic_stack(1, 64, 80)[0][0]
    margin_YX = section_YX.copy()
    margin_YX[:, :20] = 0
    plain, cut, blank = map(section_statistics, (section_YX, margin_YX, np.zeros_like(section_YX)))
    assert blank.blank
    assert plain.box != cut.box
    return {"plain": plain, "cut": cut, "blank": blank}


@pytest.mark.parametrize(
    ("seen", "chosen"),
    [
        ("plain plain plain plain plain", [0, 1, 2, 3, 4]),
        ("plain blank plain cut plain", [0, 2, 2, 2, 4]),
        ("blank plain plain plain cut", [1, 1, 2, 3, 3]),
        ("plain plain cut plain cut", [2, 2, 2, 2, 4]),
        ("blank", [0]),
    ],
)
def test_for_a_neighbour_of_another_outline_stands_the_next_one_on_the_way(statistics, seen, chosen):
    assert stand_ins([statistics[name] for name in seen.split()]) == chosen
