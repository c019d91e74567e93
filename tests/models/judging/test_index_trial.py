"""A real index on disk, searched as a user would."""

import numpy as np
import pytest
from tables import clusters

from anchorage.errors import DataError
from anchorage.judging.index_trial import judge_index
from anchorage.judging.settings import JudgeSettings
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.index_tuning import IndexLimits


@pytest.fixture
def saved(tmp_path):
    table = clusters(0.5, classes=10, per_class=6)
    save_index(build_index(table.vectors, neighbors=5), tmp_path)
    return tmp_path, table


def test_an_exact_index_loses_nothing(saved):
    folder, table = saved
    found = judge_index(folder, table, table, neighbors=5, settings=JudgeSettings(index_loss=0.0))
    assert found["neighbor_recall"] == 1
    assert found["kind"] == "brute_force"
    assert list(found["metrics"]) == ["recall@1", "recall@5"]
    for values in found["metrics"].values():
        assert values["exact"] == values["through_index"] > 0.5
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert latency["queries"] == 60
    assert found["memory_mib"]["files"] > 0
    assert found["faults"] == []
    assert "trade" not in found


def test_more_leaves_find_more(tmp_path):
    rows = 20_000  # from here on an index has leaves
    table = clusters(1.0, classes=rows // 5)
    save_index(build_index(table.vectors, neighbors=5, limits=IndexLimits(0.8)), tmp_path)
    found = judge_index(tmp_path, table, table, neighbors=5, settings=JudgeSettings(index_loss=1.0))
    leaves, recalls = ([entry[key] for entry in found["trade"]] for key in ("leaves", "neighbor_recall"))
    assert leaves == sorted(set(leaves))
    assert recalls[0] < 0.7 < recalls[-1]
    [chosen] = [entry for entry in found["trade"] if entry["chosen"]]
    assert chosen["neighbor_recall"] == found["neighbor_recall"]
    assert all(entry["p50"] > 0 for entry in found["trade"])


def test_the_query_itself_is_not_among_the_answers(saved):
    folder, table = saved
    products = table.vectors @ table.vectors.T
    np.fill_diagonal(products, -2)
    right = table.labels[products.argmax(axis=1)] == table.labels
    found = judge_index(folder, table, table, neighbors=1, settings=JudgeSettings(index_loss=0))
    assert found["metrics"]["recall@1"]["through_index"] == pytest.approx(right.mean())


def test_what_the_index_forgets_is_held_against_it(tmp_path):
    # The index knows the second half of the classes only by vectors of others: it finds the wrong rows.
    table = clusters(0.2, classes=10, per_class=6)
    wrong = table.vectors.copy()
    wrong[30:] = np.roll(wrong[30:], 6, axis=0)
    save_index(build_index(wrong, neighbors=5), tmp_path)
    found = judge_index(tmp_path, table, table, neighbors=5, settings=JudgeSettings(index_loss=0.02))
    assert found["neighbor_recall"] < 0.7
    lost = found["metrics"]["recall@1"]
    assert lost["exact"] - lost["through_index"] > 0.3
    assert "points below an exact search; 2 are allowed." in found["faults"][0]


def test_exceeded_limits_are_reported(saved):
    folder, table = saved
    found = judge_index(
        folder,
        table,
        table,
        neighbors=5,
        settings=JudgeSettings(index_loss=0, index_p99_ms=1e-6, index_memory_mib=1e-6),
    )
    assert [fault.split(";")[1] for fault in found["faults"]] == [" the limit is 1e-06 ms.", " the limit is 1e-06 MiB."]


def test_parts_that_do_not_fit(saved):
    folder, table = saved
    with pytest.raises(DataError, match=r"E_RELEASE_MIXED: .* each of the 60 rows of the index. Received: 59"):
        judge_index(folder, table.select(np.arange(59)), table, neighbors=5, settings=JudgeSettings(index_loss=0))
    with pytest.raises(DataError, match=r"E_NO_RELEVANT"):
        judge_index(folder, table, clusters(0.1, split="foreign"), neighbors=5, settings=JudgeSettings(index_loss=0))
