"""Segments are linked by one documented rule: mutual best overlap, or a multicut."""

import itertools

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error

from isbi_infer.neurons.linking import Overlaps, linker, mutual_best, overlaps
from isbi_infer.neurons.multicut import Multicut, partition
from isbi_infer.neurons.segments import segment_section


def neurites(seed=0, sections=6, side=60, spacing=12):
    """Straight neurites on a grid, each by itself; every section wobbles."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((sections, side, side), np.uint32)
    for z in range(sections):
        dy, dx = rng.integers(0, 3, 2)
        for i, (y, x) in enumerate(itertools.product(range(0, side - spacing, spacing), repeat=2)):
            truth[z, y + dy : y + dy + spacing - 2, x + dx : x + dx + spacing - 2] = i + 1
    return truth


def labels_of(linked, sections):
    """Give each pixel its component, 0 = none."""
    done, out = 0, []
    for section_YX in sections:
        count = int(section_YX.max())
        table = np.concatenate([[0], linked[done : done + count] + 1])
        out.append(table[section_YX])
        done += count
    return np.stack(out)


def run(name, truth_ZYX):
    made, sections = linker(name, 0.5), []
    for truth_YX in truth_ZYX:
        probability_YX = (truth_YX > 0).astype(np.float32)
        sections.append(segment_section(probability_YX))
        made.add(sections[-1], probability_YX)
    return labels_of(made.components(), sections)


@pytest.mark.parametrize("link", ["overlap", "multicut"])
def test_straight_neurites_are_found_whole(link):
    truth = neurites()
    error, _, _ = adapted_rand_error(truth, run(link, truth))
    assert error == pytest.approx(0, abs=1e-12)


def test_without_links_each_segment_has_an_id_of_its_own():
    truth = neurites(sections=3)
    found = run("none", truth)
    assert len(np.unique(found)) - 1 == 3 * truth.max()


def test_the_best_overlap_seen_from_one_side_is_no_link():
    # a large cell above two small ones: both have it for their best, it has but one of them
    lower, upper = np.zeros((2, 4, 10), np.uint32)
    lower[:, :4], lower[:, 5:] = 1, 2
    upper[:] = 1
    assert [part.tolist() for part in mutual_best(overlaps(lower, upper))] == [[2], [1]]
    assert [part.tolist() for part in mutual_best(overlaps(upper, lower))] == [[1], [2]]


def test_a_fragment_under_two_neurites_does_not_merge_everything():
    # all membrane is missed in one section: the neurites are one segment there
    truth = neurites(sections=5, side=36)
    merged = truth.copy()
    merged[2] = 1
    linked = linker("overlap", 0.5)
    sections = [segment_section((section > 0).astype(np.float32)) for section in merged]
    for section in sections:
        linked.add(section, section)
    found = labels_of(linked.components(), sections)
    for z in (0, 1, 3, 4):
        ids = [np.unique(found[z][truth[z] == i]).tolist() for i in range(1, truth.max() + 1)]
        assert all(len(each) == 1 for each in ids)
        assert len({each[0] for each in ids}) == truth.max()  # one-sided links would make one of all


def test_of_equal_overlaps_the_lowest_label_counts():
    found = Overlaps(np.array([1, 1, 2]), np.array([1, 2, 2]), np.array([5, 5, 5]))
    assert [part.tolist() for part in mutual_best(found)] == [[1], [1]]


@pytest.mark.parametrize("seed", range(8))
def test_overlaps_are_counted_as_pixel_by_pixel(seed):
    one, other = np.random.default_rng(seed).integers(0, 5, (2, 9, 7)).astype(np.uint32)
    found = overlaps(one, other)
    expected = {}
    for pair in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
        if all(pair):
            expected[pair] = expected.get(pair, 0) + 1
    pairs = zip(found.lower.tolist(), found.upper.tolist(), strict=True)
    assert dict(zip(pairs, found.pixels.tolist(), strict=True)) == expected


def cost(parts, edges, costs):
    return sum(c for (a, b), c in zip(edges, costs, strict=True) if parts[a] != parts[b])


def test_a_multicut_of_a_small_graph_is_nearly_always_the_best_of_all_partitions():
    rng, nodes, optimal = np.random.default_rng(0), 5, 0
    for _ in range(20):
        edges = np.array(list(itertools.combinations(range(nodes), 2)))
        edges = rng.permutation(edges)[:8]  # in any order
        costs = rng.normal(size=len(edges))
        found = cost(partition(nodes, edges, costs), edges, costs)
        best = min(cost(parts, edges, costs) for parts in itertools.product(range(nodes), repeat=nodes))
        optimal += found == pytest.approx(best)
        assert found <= 1e-12 + min(0, costs.sum())  # one part, or each node by itself
    assert optimal >= 15  # it is a heuristic


def test_a_graph_without_edges_has_each_node_by_itself():
    assert partition(3, np.empty((0, 2), np.int64), np.empty(0)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("line", "parts"), [(0.49, 1), (0.001, 2)])
def test_membrane_between_segments_keeps_apart_what_overlaps_alone_would_join(line, parts):
    whole, cut = np.ones((4, 40), np.float32), np.ones((4, 40), np.float32)
    cut[:, 20] = line
    made = Multicut(0.5, share=0.99)
    for probability_YX in (whole, cut):
        made.add(segment_section(probability_YX), probability_YX)
    assert len(np.unique(made.components())) == parts
