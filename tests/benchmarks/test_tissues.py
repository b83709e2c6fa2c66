"""The study of tissues: what is left out is scored, seeds are summed up, results are kept and tabled."""

import json
from itertools import takewhile

import pytest
import tifffile
from drawn import synthetic_stack

from benchmarks.report.accuracy import tissues_table
from benchmarks.report.cells import MISSING
from benchmarks.studies import tissues


def trial(network="em", left_out="all", seed=1, rand=0.9, minutes=3.0):
    scores = {"v_rand_thin": rand, "v_info_thin": 0.8}
    return {
        "network": network,
        "title": network.upper(),
        "left_out": left_out,
        "seed": seed,
        "minutes": minutes,
        "steps": 10 * seed,
        "stacks": {"a": scores, "b": scores},
    }


def test_seeds_of_one_network_and_choice_are_summed_up_by_stack():
    rows = tissues.summed_up([trial(seed=1, rand=0.9), trial(seed=3, rand=0.8), trial("basicunet", "b")])
    assert [(row["network"], row["left_out"], row["stack"]) for row in rows] == [
        ("em", "all", "a"),
        ("em", "all", "b"),
        ("basicunet", "b", "a"),
        ("basicunet", "b", "b"),
    ]
    assert rows[0]["seeds"] == [1, 3]
    assert rows[0]["steps"] == 20
    assert rows[0]["v_rand_thin"] == pytest.approx(0.85)
    assert rows[0]["v_rand_thin_spread"] == pytest.approx(0.1 / 2**0.5)
    assert rows[2]["v_rand_thin_spread"] is None


def test_trainings_of_different_length_are_no_seeds_of_one():
    trials = [trial(seed=1), trial(seed=2), trial(seed=3, minutes=5.0, rand=0.5)]
    rows = [row for row in tissues.summed_up(trials) if row["stack"] == "a"]
    assert [(row["minutes"], row["seeds"]) for row in rows] == [(3.0, [1, 2]), (5.0, [3])]
    assert [row["v_rand_thin"] for row in rows] == pytest.approx([0.9, 0.5])


def recorded(rows, trials):
    measured = {"rows": rows, "trials": trials}
    machine = {"cpu": "a processor", "cores": 2, "memory_gib": 8.0}
    facts = {
        "machine": machine,
        "versions": {},
        "measured_at": "2026-01-01",
        "file": "x-tissues.json",
        "name": "tissues",
    }
    return {"measured": measured, **facts}


def tabled(rows, trials):
    """Return the lines of the table alone."""
    return list(takewhile(bool, tissues_table({"tissues": recorded(rows, trials)})))


def test_of_groups_that_hold_the_same_training_the_one_of_more_seeds_is_tabled():
    groups = {
        "tissues": [trial(seed=1, rand=0.9), trial("basicunet", "b", seed=1, rand=0.5)],
        "tissues-again": [trial("basicunet", "b", seed=seed, rand=0.7) for seed in (1, 2)],
    }
    lines = list(
        tissues_table({name: recorded(tissues.summed_up(found), found) for name, found in groups.items()})
    )
    assert [[*line.split(" | ")[:4], line.split(" | ")[5]] for line in takewhile(bool, lines[2:])] == [
        ["| EM", "all", "a", "0.9000", "1"],
        ["| EM", "all", "b", "0.9000", "1"],
        ["| BASICUNET", "all but b", "a", "0.7000 ± 0.0000", "2"],
        ["| BASICUNET", "all but b", "**b**", "0.7000 ± 0.0000", "2"],
    ]
    assert sum("a processor" in line for line in lines) == 2


def test_the_table_marks_what_was_left_out_and_says_the_spread():
    trials = [trial(seed=1, rand=0.9), trial(seed=3, rand=0.8), trial("basicunet", "b")]
    lines = tabled(tissues.summed_up(trials), trials)
    assert "| EM | all | a | 0.8500 ± 0.0707 |" in lines[2]
    assert "| BASICUNET | all but b | **b** | 0.9000 |" in lines[5]
    assert list(tissues_table({})) == [MISSING]


def test_the_table_says_the_minutes_only_where_they_differ():
    same = [trial(seed=1), trial(seed=2)]
    assert "minutes" not in tabled(tissues.summed_up(same), same)[0]
    trials = [*same, trial(seed=1, minutes=5.0)]
    lines = tabled(tissues.summed_up(trials), trials)
    assert lines[0].endswith("| seeds | CPU minutes | steps |")
    assert [line.split(" | ")[-3:-1] for line in lines[2:]] == [
        ["2", "3"],
        ["2", "3"],
        ["1", "5"],
        ["1", "5"],
    ]


def test_rows_that_were_stored_before_they_had_minutes_are_tabled_as_before():
    trials = [trial(seed=1), trial("basicunet", "b")]
    rows = tissues.summed_up(trials)
    older = [{key: value for key, value in row.items() if key != "minutes"} for row in rows]
    assert tabled(older, trials) == tabled(rows, trials)


@pytest.fixture
def listed(tmp_path):
    lines = []
    for name in ("a", "b"):
        image_ZYX, label_ZYX = synthetic_stack(3, 288, 288, seed=len(lines))
        tifffile.imwrite(tmp_path / f"{name}.tif", image_ZYX, photometric="minisblack")
        tifffile.imwrite(tmp_path / f"{name}-labels.tif", label_ZYX, photometric="minisblack")
        lines.append(
            f'[[stack]]\nname = "{name}"\nimages = "{name}.tif"\nlabels = "{name}-labels.tif"\n'
            "pixel_size_nm = 5.0\nhold_out = 1\n"
        )
    path = tmp_path / "stacks.toml"
    path.write_text("".join(lines))
    return path


def test_a_stack_that_is_not_listed_cannot_be_left_out(listed, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        tissues.main(["--stacks", str(listed), "--out", str(tmp_path / "out"), "--leave-out", "c"])
    assert left.value.code == 2
    assert "no stack is named 'c'; choose from a, b" in capsys.readouterr().err


@pytest.mark.more
def test_a_network_is_scored_on_all_stacks_also_on_the_one_it_never_saw(listed, tmp_path, capsys):
    asked = ["--stacks", str(listed), "--out", str(tmp_path / "out"), "--network", "em", "--minutes", "0.01"]
    tissues.main([*asked, "--leave-out", "b"])
    assert "em without b, seed 1:" in capsys.readouterr().out
    (path,) = (tmp_path / "out").glob("*.json")
    found = json.loads(path.read_text())
    assert set(found["stacks"]) == {"a", "b"}
    assert found["steps"] >= 1
    before = path.read_bytes()
    tissues.main([*asked, "--leave-out", "b"])
    assert path.read_bytes() == before
    assert "seed 1" not in capsys.readouterr().out
