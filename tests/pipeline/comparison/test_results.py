"""Choice, differences, cost and wording, from records whose answers can be worked out by hand."""

import math

import pytest

from anchorage_pipeline.comparison.data import Images
from anchorage_pipeline.comparison.plan import Block, expand
from anchorage_pipeline.comparison.plot import draw_comparison
from anchorage_pipeline.comparison.results import Chosen, Row, choose, summarize
from anchorage_pipeline.comparison.table import format_difference, write_table

BLOCKS = [Block(seed, fold) for seed in (1, 2) for fold in (1, 2, 3)]
RATE = "training.optimizer.learning_rate"


def record(value, seconds=10.0, memory=100):
    return {
        "values": {"recall@1": value, "map@r": value},
        "cpu_seconds": seconds,
        "memory_before": 50,
        "memory_peak": 50 + memory,
        "queries": 40,
        "per_class": {"a": [], "b": []},
        "settings": {
            "encoder": {"name": "small", "params": {}},
            "training": {"epochs": 2, "steps_per_epoch": 4, "augmentation": {}},
        },
        "encoder_weights": 1234,
        "dimension": 8,
        "machine": "test",
        "versions": {"keras": "3"},
        "judge": ["a", "b"],
    }


def rows_of(comparison, values, **cost):
    """One row an entry; `values` are by entry, in the order of BLOCKS, and None fails."""
    rows = []
    for entry in comparison.entries:
        records = {
            block: record(value, **cost.get(entry.name, {})) if value is not None else {"error": "E_LOSS_NOT_FINITE: x"}
            for block, value in zip(BLOCKS, values[entry.name], strict=False)
        }
        rows.append(Row(entry, Chosen(None, [], []), records))
    return rows


def test_the_best_trial_is_chosen(make, document):
    comparison = make({"name": "a"}, tune={RATE: [0.1, 0.2, 0.3]})
    candidates = expand(comparison, document)["a"]
    chosen = choose(candidates, [record(0.3), record(0.5), {"error": "E: x"}], "map@r")
    assert chosen.candidate is candidates[1]
    assert chosen.values == [0.3, 0.5, None]
    assert chosen.tried == [{RATE: 0.1}, {RATE: 0.2}, {RATE: 0.3}]
    assert chosen.at_end == []
    assert choose(candidates, [record(0.3), record(0.2), record(0.1)], "map@r").at_end == [RATE]
    unfinished = choose(candidates, [record(0.3), record(0.2), None], "map@r")
    assert unfinished.missing
    assert unfinished.candidate is None
    hopeless = choose(candidates, [{"error": "x"}] * 3, "map@r")
    assert not hopeless.missing
    assert hopeless.candidate is None
    assert choose(candidates[:1], [], "map@r").candidate is candidates[0]


def test_differences_are_taken_block_by_block_and_folds_are_the_units(make):
    """By fold, seeds averaged: base 0.2, 0.4, 0.6; other 0.3, 0.5, 0.8. Differences 0.1, 0.1, 0.2."""
    comparison = make({"name": "base"}, {"name": "other", "against": "base"})
    values = {"base": [0.1, 0.3, 0.5, 0.3, 0.5, 0.7], "other": [0.2, 0.4, 0.7, 0.4, 0.6, 0.9]}
    rows = rows_of(comparison, values, base={"seconds": 10.0, "memory": 100}, other={"seconds": 15.0, "memory": 120})
    outcome = summarize(comparison, BLOCKS, rows)
    base, other = outcome.rows
    assert base.values["map@r"] == pytest.approx((0.4, 0.2 / math.sqrt(3), 3))
    difference = other.differences["map@r"]
    assert difference.mean == pytest.approx(0.4 / 3)
    assert difference.error == pytest.approx(0.1 / 3)  # deviation 0.1 / sqrt 3 over sqrt 3
    assert not difference.measured  # 4.303 errors reach past 0
    assert (other.time_ratio, other.memory_ratio) == (1.5, 1.2)
    assert other.seconds_per_point(base, "map@r") is None
    assert not base.differences
    assert outcome.ranks is None  # two entries


def test_cost_of_a_point(make):
    comparison = make({"name": "base"}, {"name": "other", "against": "base"})
    values = {"base": [0.1, 0.3, 0.5], "other": [0.2, 0.4, 0.61]}
    rows = rows_of(comparison, values, base={"seconds": 10.0}, other={"seconds": 41.0})
    base, other = summarize(comparison, BLOCKS[:3], rows).rows
    assert other.differences["map@r"].measured
    assert other.seconds_per_point(base, "map@r") == pytest.approx(3.0)  # 31 s for 10.333 points
    assert other.holds == {"recall@1", "map@r"}


def test_failed_runs_leave_the_others(make):
    comparison = make({"name": "base"}, {"name": "other", "against": "base"}, {"name": "third"}, {"name": "fourth"})
    values = {"base": [0.1, 0.3, 0.5], "other": [0.2, None, 0.6], "third": [0.0] * 3, "fourth": [0.1] * 3}
    outcome = summarize(comparison, BLOCKS[:3], rows_of(comparison, values))
    assert outcome.row("other").differences["map@r"].units == 2
    assert outcome.ranked == ["base", "third", "fourth"]
    assert outcome.ranks is not None
    assert outcome.ranks.means.tolist() == pytest.approx([3.5 / 3, 3.0, 5.5 / 3])


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ([0.2, 0.4, 0.61], "better: +10.3 ± 0.3 *"),
        ([0.0, 0.2, 0.39], "worse: -10.3 ± 0.3 *"),
        ([0.1, 0.3, 0.509], "no difference measured: +0.3 ± 0.3"),
        ([0.15], "one run, no standard error: +5.0"),
    ],
)
def test_words_promise_no_more_than_was_measured(make, ours, expected):
    comparison = make({"name": "base"}, {"name": "other", "against": "base"})
    rows = rows_of(comparison, {"base": [0.1, 0.3, 0.5][: len(ours)], "other": ours})
    other = summarize(comparison, BLOCKS[: len(ours)], rows).row("other")
    assert format_difference(other.differences["map@r"], "map@r" in other.holds) == expected


def test_table_and_pictures(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    comparison = make(
        {"name": "base", "label": "plain | old"},
        {"name": "other", "label": "05 other", "against": "base", "note": "Half the margin"},
        {"name": "broken"},
        {"name": "wide", "unlike": "needs a wider head."},
        {"name": "later"},
    )
    values = {"base": [0.1, 0.3, 0.5], "other": [0.2, 0.4, 0.61], "broken": [None] * 3, "wide": [0.4] * 3, "later": []}
    rows = rows_of(comparison, values)
    rows[4].chosen = Chosen(None, [0.3, None], [], missing=True)
    rows[3].unlike = ["encoder.embedding_size"]
    outcome = summarize(comparison, BLOCKS[:3], rows)
    images = Images(tmp_path, None, [["a", "b"], ["c", "d", "e"]], "")
    write_table(outcome, images, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    lines = text.splitlines()
    assert "| plain \\| old | 30.0 ± 11.5 | 30.0 ± 11.5 |  |  |  | 10 |  |  |  |" in lines
    assert (
        "| 05 other | 40.3 ± 11.8 | 40.3 ± 11.8 | plain \\| old | better: +10.3 ± 0.3 * | better: +10.3 ± 0.3 * "
        "| 10 | 1.00 x | 1.00 x | no extra cost |"
    ) in lines
    assert any(line.startswith("| broken | failed, see below |") for line in lines)
    assert any(line.startswith("| later | no run yet |") for line in lines)
    assert "**Not complete: 12 of 15 runs are done.**" in lines
    assert "No values chosen: trials are missing." in text
    assert "3 of 3 runs failed: E_LOSS_NOT_FINITE: x" in text
    assert "† Unlike the others (differs in encoder.embedding_size): needs a wider head." in text
    assert "Half the margin." in text
    assert "The test half was not read." in text
    assert "5 classes outside the test half, split into 2 folds of 2 to 3." in text
    assert "± is the standard error over 3 folds" in text
    assert "Not computed: ranks need three comparable entries" in text  # base and other only
    pictures = draw_comparison(outcome, tmp_path)
    assert [picture.name for picture in pictures] == ["comparison.png"]
    assert pictures[0].read_bytes().startswith(b"\x89PNG")


def test_a_table_of_trials_lists_each_without_a_verdict(make, document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    comparison = make(
        {"name": "base"}, {"name": "other", "against": "base", "tune": {RATE: [0.1, 0.2, 0.3]}}, judge="choice"
    )
    rows = rows_of(comparison, {"base": [0.4], "other": [0.45]})
    trials = [record(0.45), record(0.2), {"error": "E: x"}]
    rows[1].chosen = choose(expand(comparison, document)["other"], trials, "map@r")
    write_table(summarize(comparison, BLOCKS[:1], rows), Images(tmp_path, None, [["a"]], ""), tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "MAP@R of the trials: learning_rate 0.1 45.0 %; learning_rate 0.2 20.0 %; learning_rate 0.3 failed." in text
    expected = "one run, no standard error: +5.0"
    assert f"| other | 45.0 | 45.0 | base | {expected} | {expected} | 10 | 1.00 x | 1.00 x |  |" in text.splitlines()
    assert "- Trials only: seed 0, fold 0, which also selects the epoch of each run with `validation`." in text
    assert "Tuned on fold 0" not in text


def test_ranks_are_drawn(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    comparison = make(*({"name": name} for name in "abc"))
    comparison._overrides = ("training.epochs=3", "seeds=[1, 2]")
    values = {"a": [0.1, 0.2, 0.3], "b": [0.2, 0.3, 0.4], "c": [0.3, 0.4, 0.5]}
    outcome = summarize(comparison, BLOCKS[:3], rows_of(comparison, values))
    write_table(outcome, Images(tmp_path, None, [["a", "b"]], ""), tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "Mean ranks by MAP@R over 3 folds: c 1.0, b 2.0, a 3.0." in text
    assert "- Set on the command line: `training.epochs=3`, `seeds=[1, 2]`." in text
    assert [picture.name for picture in draw_comparison(outcome, tmp_path)] == ["comparison.png", "ranks.png"]
