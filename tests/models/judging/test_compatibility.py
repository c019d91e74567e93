from dataclasses import replace

import numpy as np
import pytest
from tables import clusters

from anchorage.judging.compatibility import compatibility


def turned(table, seed=0):
    """The same space, turned: as good as before by itself, and foreign to what was."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(table.dimension,) * 2))[0]
    return replace(table, vectors=(table.vectors @ turn).astype("float32"))


def ask(ours, theirs):
    return compatibility(ours, theirs, metric="map@r", max_drop=0.02, name="release 3")


def test_the_same_space_may_be_mixed():
    table = clusters(0.3)
    found = ask(table, table)
    values = {value for row in found["cells"].values() for value in row.values()}
    assert len(values) == 1
    assert not found["re_embed"]
    assert found["advice"].startswith("Queries can switch first: in the gallery of release 3 they reach a MAP@R of")
    assert found["queries"] == 30


def test_a_turned_space_must_be_embedded_anew():
    table = clusters(0.3)
    found = ask(turned(table), table)
    cells = found["cells"]
    assert cells["new"]["new"] == pytest.approx(cells["old"]["old"])
    assert max(cells["new"]["old"], cells["old"]["new"]) < 0.6 < cells["new"]["new"]
    assert found["re_embed"]
    assert found["advice"].startswith("Re-embed the gallery before queries switch: in the gallery of release 3")


def test_new_queries_meet_the_old_gallery():
    # Old space: classes at right angles. New space: every query moved onto the next class.
    old = clusters(0.01, classes=3, per_class=2)
    new = replace(old, vectors=np.roll(old.vectors, 2, axis=0))
    found = ask(new, old)["cells"]
    assert found["new"]["new"] == found["old"]["old"] == 1
    assert found["new"]["old"] == found["old"]["new"] == 0


def test_a_model_of_another_dimension_requires_re_embedding():
    table = clusters(0.3)
    found = ask(replace(table, vectors=table.vectors[:, :5]), table)
    assert found["cells"]["new"]["old"] is found["cells"]["old"]["new"] is None
    assert found["re_embed"]
    assert "the new model has 5 dimensions, release 3 has 12" in found["advice"]
