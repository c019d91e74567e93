"""Windows of queries against a reference: what is reported, and when."""

from dataclasses import replace

import numpy as np
import pytest

from anchorage.errors import DataError, UsageError
from anchorage.judging.drift import DriftSettings, Reference, detect_drift

SETTINGS = DriftSettings(window=50)


def vectors(count, seed, noise=0.2):
    random = np.random.default_rng(seed)
    centers = np.eye(6)[random.integers(0, 6, count)]
    drawn = centers + noise * random.standard_normal((count, 6))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    gallery, ids = vectors(100, 0), np.array([f"item {row}" for row in range(100)], object)
    return Reference("evaluation", vectors(150, 1), gallery, ids, ids, unknown_below=0.9)


def test_windows_like_the_reference_are_no_drift(reference):
    found = detect_drift(reference, vectors(130, 2), SETTINGS, times=range(130))
    assert not found["drift"]
    assert [(window["first"], window["last"]) for window in found["windows"]] == [
        ("1970-01-01T00:00:30+00:00", "1970-01-01T00:01:19+00:00"),
        ("1970-01-01T00:01:20+00:00", "1970-01-01T00:02:09+00:00"),
    ]
    assert found["sentences"] == ["No drift in 2 windows; the chance of a false alarm in this report is 1 %."]


def test_the_window_that_differs_is_named_with_the_tests(reference):
    found = detect_drift(reference, np.concatenate([vectors(50, 3), vectors(50, 4, noise=0.6)]), SETTINGS)
    assert [window["drift"] for window in found["windows"]] == [False, True]
    assert {"distance", "unknown"} <= set(found["windows"][1]["drifted"])
    now, before = found["windows"][1]["statistics"], found["reference"]["statistics"]
    assert now["distance"] > before["distance"]
    assert now["unknown"] > before["unknown"]
    assert found["sentences"][0].startswith("Drift in 1 of 2 windows, the newest of them number 2, by distance")


def test_the_limit_of_a_window_grows_with_their_number(reference):
    one, three = (
        detect_drift(reference, vectors(count, 5), DriftSettings(window=50, false_alarms=0.1)) for count in (50, 150)
    )
    assert one["windows"][0]["limit"] < min(window["limit"] for window in three["windows"])


def test_the_first_windows_are_the_reference_where_queries_never_were_like_the_evaluated_ones(reference):
    live = np.concatenate([vectors(200, 6, noise=0.5), vectors(50, 7, noise=0.05)])
    assert detect_drift(reference, live, DriftSettings(window=50))["windows"][0]["drift"]
    own = replace(reference, kind="first", vectors=reference.vectors[:0])
    found = detect_drift(own, live, DriftSettings(window=50, reference="first"))
    assert [window["drift"] for window in found["windows"]] == [False, False, True]
    assert found["reference"]["queries"] == 100
    with pytest.raises(DataError, match=r"E_QUERIES_FEW.*at least 150.*two before it.*Received: 149"):
        detect_drift(own, live[:149], SETTINGS)


def test_hubs_name_the_item_that_attracts_the_queries(reference):
    attracted = np.tile(reference.gallery[7], (50, 1)) + 0.05 * vectors(50, 8)
    found = detect_drift(reference, attracted, SETTINGS)
    hub = next(row for row in found["hubs"] if row["id"] == "item 7")
    assert hub["window"] == 1.0
    assert hub["reference"] < 0.5
    assert "hubs" in found["windows"][0]["drifted"]


@pytest.mark.parametrize(
    ("queries", "settings", "message"),
    [
        (vectors(49, 9), SETTINGS, "E_QUERIES_FEW.*at least 50 queries.*Received: 49"),
        (np.ones((60, 4), np.float32), SETTINGS, r"E_QUERY_SHAPE.*\(N, 6\).*\(60, 4\)"),
        (np.zeros((60, 6), np.float32), SETTINGS, "E_VECTOR_UNUSABLE.*60 others"),
        (np.full((60, 6), np.nan), SETTINGS, "E_VECTOR_UNUSABLE.*60 others"),
    ],
)
def test_queries_that_cannot_be_compared_are_refused(reference, queries, settings, message):
    with pytest.raises(DataError, match=message):
        detect_drift(reference, queries, settings)


@pytest.mark.parametrize(
    "values", [{"window": 49}, {"windows": 0}, {"false_alarms": 0.0}, {"false_alarms": 0.6}, {"reference": "last"}]
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(UsageError, match=f"E_DRIFT_SETTING.*`{next(iter(values))}`"):
        DriftSettings(**values)
