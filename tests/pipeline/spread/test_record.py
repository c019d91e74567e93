import json

import pytest

from anchorage.errors import DataError
from anchorage_pipeline.spread.record import Conditions, Spread, describe, read_spread, write_spread

OLDER = Conditions(settings="s", data="d", code="older")
NOW, BEFORE = "2026-01-02T03:04:05Z", "2025-01-02T03:04:05Z"


def summary(rows, settings="s", version="v", code="c"):
    return Spread(data_versions={"v": "d", "w": "other"}, rows=rows).summarize(settings, version, code)


def test_statistics_by_hand(row):
    """Of 0.2, 0.4 and 0.6 the squares of the differences add up to 0.08: sqrt(0.08 / 2) = 0.2."""
    found = describe([row(1, 0.4), row(2, 0.2), row(3, 0.6)])
    assert found["map@r"].model_dump() == pytest.approx(
        {"mean": 0.4, "deviation": 0.2, "lowest": 0.2, "highest": 0.6}, abs=1e-12
    )
    assert found["recall@1"].model_dump() == {"mean": 0.5, "deviation": 0.0, "lowest": 0.5, "highest": 0.5}


def test_a_summary_counts_seeds_machines_and_trainings(row):
    found = summary([row(2, 0.4), row(1, 0.2), row(1, 0.6, "two")])
    assert (found.seeds, found.machines, found.trainings, found.same_code) == ([1, 2], 2, 3, True)
    assert found.metrics["map@r"].mean == pytest.approx(0.4)


@pytest.mark.parametrize("other", [{"settings": "x"}, {"version": "w"}, {"version": "unknown"}])
def test_a_spread_of_other_settings_or_data_is_none(row, other):
    rows = [row(1, 0.2), row(2, 0.4)]
    assert summary(rows) is not None
    assert summary(rows, **other) is None


def test_one_seed_has_no_spread(row):
    assert summary([]) is None
    assert summary([row(1, 0.2)]) is None
    assert summary([row(1, 0.2), row(1, 0.4, "two")]) is None


def test_earlier_code_is_marked_and_used_only_where_todays_was_not_measured(row):
    before = [row(seed, 0.1, conditions=OLDER, measured=BEFORE) for seed in (1, 2)]
    found = summary([*before, row(1, 0.9)])
    assert (found.same_code, found.metrics["map@r"].mean) == (False, pytest.approx(0.1))
    found = summary([*before, row(1, 0.9), row(2, 0.9)])
    assert (found.same_code, found.metrics["map@r"].mean) == (True, pytest.approx(0.9))
    third = [row(seed, 0.3, conditions=OLDER.model_copy(update={"code": "third"})) for seed in (1, 2)]
    assert summary([*before, *third]).metrics["map@r"].mean == pytest.approx(0.3)  # the newer of the two


def test_rows_are_found_by_machine_and_the_newest_of_a_seed_counts(row, machine):
    spread = Spread(rows=[row(2, 0.2), row(1, 0.3), row(1, 0.4)]).add(row(1, 0.5, "two"))
    conditions = row(1, 0.0).conditions
    assert [found.values["map@r"] for found in spread.find(conditions)] == [0.4, 0.2, 0.5]
    assert [found.values["map@r"] for found in spread.find(conditions, machine("two"))] == [0.5]
    assert spread.find(conditions, machine("one", onednn=False)) == []
    assert spread.find(OLDER) == []


def test_a_file_comes_back_as_it_was_written(row, tmp_path):
    path = tmp_path / "spread.json"
    assert read_spread(path) == Spread()
    written = Spread(data_versions={"v": "d"}, rows=[row(1, 0.25)])
    write_spread(path, written)
    assert read_spread(path) == written
    assert [file.name for file in tmp_path.iterdir()] == ["spread.json"]


def _change(path, value):
    def damage(document):
        *places, last = path
        for place in places:
            document = document[place]
        document[last] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_change(["rows", 0, "values", "map@r"], 1.5), "rows.0.values.map@r"),
        (_change(["rows", 0, "values"], {}), "rows.0.values"),
        (_change(["rows", 0, "seed"], -1), "rows.0.seed"),
        (_change(["rows", 0, "machine", "cores"], "two"), "rows.0.machine.cores"),
        (_change(["rows", 0, "more"], 1), "rows.0.more"),
        (_change(["rows"], None), "rows"),
        (_change(["format"], 2), "format"),
    ],
)
def test_rejects_a_damaged_file(row, tmp_path, damage, expected):
    document = Spread(rows=[row(1, 0.25)]).model_dump()
    damage(document)
    (tmp_path / "spread.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"E_SPREAD_DAMAGED.*remove the file") as caught:
        read_spread(tmp_path / "spread.json")
    assert f"Received: {expected}: " in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"rows": [NaN]}'])
def test_rejects_a_file_of_another_kind(tmp_path, content):
    (tmp_path / "spread.json").write_bytes(content)
    with pytest.raises(DataError, match="E_SPREAD_DAMAGED"):
        read_spread(tmp_path / "spread.json")


def test_rejects_a_folder_in_its_place(tmp_path):
    with pytest.raises(DataError, match=r"E_SPREAD_DAMAGED.*Is a directory"):
        read_spread(tmp_path)
