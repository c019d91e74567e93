"""Exports of a gallery, read back by the programs that they are for: whole, once, and resumed after `kill -9`."""

import json
import os
import sys
from pathlib import Path
from signal import SIGKILL
from subprocess import run

import lancedb
import numpy as np
import psycopg
import pyarrow.parquet as parquet
import pytest
from databases import fresh_database
from vector_releases import publish_vectors, unit_vectors

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage.items import Item
from anchorage.serving.follower import load_live_index
from anchorage.serving.vector_export import export_vectors, gallery_rows
from anchorage.serving.vector_export.files import VectorFiles, column_names
from anchorage.serving.vector_export.lance import LanceTable
from anchorage.serving.vector_export.pgvector import PgvectorTable

KINDS = ("parquet", "jsonl", "lancedb", "pgvector")
TABLE, QUOTED = 'my 5 %s "gallery"', '"my 5 %s ""gallery"""'  # names are data, not SQL
VECTORS = unit_vectors(40)
ADDED = [
    Item("new", "fresh", {"color": "green", "Label": "odd"}, VECTORS[0] * 1.0, 1),
    Item("item 3 ü", deleted=True, change=2),
    Item("item 5 ü", "moved", {}, VECTORS[1], 3),
]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return publish_vectors(tmp_path_factory.mktemp("published"), VECTORS)


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    """Kind and place of an export: a folder, or the URL of an empty database."""
    if request.param == "pgvector":
        return request.param, fresh_database(request.getfixturevalue("postgresql_server"), f"export_{tmp_path.name}")
    return request.param, str(tmp_path / "export")


def target_of(kind, where):
    if kind == "pgvector":
        return PgvectorTable(where, TABLE)
    return LanceTable(Path(where), "gallery") if kind == "lancedb" else VectorFiles(Path(where), kind)


def gallery_of(release, items=ADDED):
    live = load_live_index(release)
    live.apply(items)
    return live


def export(release, place, items=ADDED, batch=7):
    seen = []
    rows = gallery_rows(gallery_of(release, items), release.content)
    before = export_vectors(rows, target_of(*place), lambda done, total: seen.append((done, total)), batch)
    return before, seen


def read(kind, where):
    """`id -> (label, attributes, vector)` as the program for this kind of export reads it."""
    if kind == "pgvector":
        with psycopg.connect(where) as connection:
            rows = connection.execute(
                f"SELECT id, label, attributes, embedding::text FROM {QUOTED}".encode()
            ).fetchall()
        return {id_: (label, attributes, json.loads(vector)) for id_, label, attributes, vector in rows}
    if kind == "jsonl":
        lines = [json.loads(line) for path in Path(where).glob("*.json") for line in path.read_text().splitlines()]
        for line in lines:
            assert {"namespace": "label", "allow": [line["embedding_metadata"]["label"]]} in line["restricts"]
        metadata = [line["embedding_metadata"] for line in lines]
        return {
            line["id"]: (each["label"], each["attributes"], line["embedding"])
            for line, each in zip(lines, metadata, strict=True)
        }
    if kind == "lancedb":
        table = lancedb.connect(where).open_table("gallery").to_arrow()
    else:
        table = parquet.read_table(where)
        assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
    rows = table.to_pylist()
    names = {"color": "color", "Label": "attribute_Label"}
    return {
        row["id"]: (row["label"], {name: row[c] for name, c in names.items() if row.get(c)}, row["vector"])
        for row in rows
    }


def check(found, live):
    assert sorted(found) == sorted(item.id for item in live.items())
    for item in live.items():
        label, attributes, vector = found[item.id]
        assert (label, attributes) == (item.label, item.attributes)
        np.testing.assert_allclose(vector, item.vector, atol=1e-7)


def test_every_item_arrives_once_with_progress(release, place):
    before, seen = export(release, place)
    assert before == 0
    assert seen == [(done, 40) for done in (0, 7, 14, 21, 28, 35, 40)]
    check(read(*place), gallery_of(release))


def test_a_second_export_changes_nothing(release, place):
    export(release, place)
    first = read(*place)
    times = {path: path.stat().st_mtime_ns for path in Path(place[1]).rglob("*")}
    assert export(release, place) == (40, [(40, 40)])
    assert read(*place) == first
    assert {path: path.stat().st_mtime_ns for path in Path(place[1]).rglob("*")} == times


def test_a_changed_gallery_replaces_what_was_exported(release, place):
    export(release, place)
    more = [*ADDED, Item("later", "x", {}, VECTORS[2], 4), Item("item 0 ü", deleted=True, change=5)]
    before, _ = export(release, place, more)
    assert before == 0
    check(read(*place), gallery_of(release, more))


KILLED = """
import os, signal, sys
from test_vector_export import *
from anchorage.release import open_release
release, kind, where, batches = open_release(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
def stop(done, total):
    if done == 7 * batches:
        os.kill(os.getpid(), signal.SIGKILL)
export_vectors(gallery_rows(gallery_of(release), release.content), target_of(kind, where), stop, 7)
"""


def is_thorough(item):
    """`make test` kills the export to Parquet only."""
    killed = item.originalname == "test_after_kill_9_the_same_command_goes_on"
    return killed and item.callspec.params["place"] != "parquet"


def test_after_kill_9_the_same_command_goes_on(release, place):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", KILLED, str(release.path), *place, "2"]
    killed = run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert killed.returncode == -SIGKILL, killed.stderr
    before, seen = export(release, place)
    assert (before, seen[0]) == (14, (14, 40))
    check(read(*place), gallery_of(release))


def test_readers_of_postgresql_see_the_old_rows_until_the_new_are_complete(release, postgresql_server):
    place = "pgvector", fresh_database(postgresql_server, "replaced")
    export(release, place, [])
    rows = gallery_rows(gallery_of(release), release.content)

    def look(done, total):
        assert len(read(*place)) == 40
        assert "new" not in read(*place)

    export_vectors(rows, target_of(*place), look, 7)
    check(read(*place), gallery_of(release))


def test_neighbors_in_postgresql_are_those_of_the_index(release, postgresql_server):
    place = "pgvector", fresh_database(postgresql_server, "searched")
    export(release, place, [])
    with psycopg.connect(place[1]) as connection:
        nearest = f"SELECT id FROM {QUOTED} ORDER BY embedding <=> '{VECTORS[7].tolist()}' LIMIT 5"
        found = connection.execute(nearest.encode()).fetchall()
    (hits,) = gallery_of(release, []).search(VECTORS[7:8], 5)
    assert [id_ for (id_,) in found] == hits.ids.tolist()


def test_what_no_export_made_is_not_overwritten(release, place, tmp_path):
    kind, where = place
    if kind == "pgvector":
        with psycopg.connect(where) as connection:
            connection.execute(f"CREATE TABLE {QUOTED} (x int)".encode())
    elif kind == "lancedb":
        lancedb.connect(where).create_table("gallery", [{"x": 1}])
    else:
        Path(where).mkdir()
        Path(where, "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="E_OUTPUT_EXISTS"):
        export(release, place)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_files_that_were_deleted_are_written_again(release, tmp_path, kind):
    place = kind, str(tmp_path / "export")
    export(release, place)
    next(Path(place[1]).glob("vectors-000000000014.*")).unlink()
    assert export(release, place)[0] == 0
    check(read(*place), gallery_of(release))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_killed_before_the_files_of_another_gallery_are_gone(release, tmp_path, monkeypatch, kind):
    place = kind, str(tmp_path / "export")
    export(release, place)
    write_mark = VectorFiles._write_mark

    def stop(files):
        write_mark(files)
        raise KeyboardInterrupt

    few = [*ADDED, *(Item(f"item {number} ü", deleted=True, change=number) for number in range(6, 40))]
    monkeypatch.setattr(VectorFiles, "_write_mark", stop)
    with pytest.raises(KeyboardInterrupt):
        export(release, place, few)
    monkeypatch.setattr(VectorFiles, "_write_mark", write_mark)
    (tmp_path / "export/.tmp-vectors-000000000000-a").write_text("of a killed write")
    export(release, place, few)
    check(read(*place), gallery_of(release, few))
    assert sorted(path.name for path in Path(place[1]).iterdir())[0] == "_EXPORT"


def test_an_attribute_called_label_is_no_filter_by_the_label(release, tmp_path):
    place = "jsonl", str(tmp_path / "export")
    items = [Item("odd", "the class", {"label": "another", "color": "red"}, VECTORS[0], 1)]
    export(release, place, items)
    check(read(*place), gallery_of(release, items))
    lines = [json.loads(line) for path in Path(place[1]).glob("*.json") for line in path.read_text().splitlines()]
    (odd,) = (line for line in lines if line["id"] == "odd")
    assert odd["restricts"] == [
        {"namespace": "label", "allow": ["the class"]},
        {"namespace": "color", "allow": ["red"]},
        {"namespace": "attribute_label", "allow": ["another"]},
    ]


def test_a_row_that_was_deleted_is_written_again(release, place):
    if place[0] not in ("pgvector", "lancedb"):
        pytest.skip("files: test_files_that_were_deleted_are_written_again")
    export(release, place)
    if place[0] == "pgvector":
        with psycopg.connect(place[1]) as connection:
            connection.execute(f"DELETE FROM {QUOTED} WHERE id = 'new'".encode())
    else:
        lancedb.connect(place[1]).open_table("gallery").delete("id = 'item 7 ü'")
    assert export(release, place)[0] == 0
    check(read(*place), gallery_of(release))


def test_a_damaged_mark(release, tmp_path):
    place = "parquet", str(tmp_path / "export")
    export(release, place)
    for damage in ("", "{", "[1]"):
        (tmp_path / "export/_EXPORT").write_text(damage)
        assert export(release, place)[0] == 0
        check(read(*place), gallery_of(release))


@pytest.mark.parametrize("kind", ["parquet", "lancedb"])
def test_a_folder_below_a_file(release, tmp_path, kind):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match="E_NOT_WRITABLE"):
        export(release, (kind, str(tmp_path / "file/export")))


def test_a_file_is_no_folder_for_an_export(release, tmp_path):
    (tmp_path / "vectors.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="E_OUTPUT_EXISTS"):
        export(release, ("jsonl", str(tmp_path / "vectors.jsonl")))


def test_an_empty_gallery(release, tmp_path):
    gone = [Item(f"item {number} ü", deleted=True, change=number + 1) for number in range(40)]
    with pytest.raises(DataError, match="E_INDEX_EMPTY"):
        export(release, ("parquet", str(tmp_path / "out")), gone)


def test_places_that_cannot_be():
    with pytest.raises(UsageError, match="E_STORE_URL"):
        PgvectorTable("mysql://me@host/x", "t")
    with pytest.raises(UsageError, match="E_STORE_URL") as wrong:
        PgvectorTable("postgresql+psycopg://me:secret@host/x", "t")
    assert "secret" not in str(wrong.value)
    with pytest.raises(UsageError, match="E_OUTPUT_PLACE"):
        PgvectorTable("postgresql://me@host/x", "t" * 61)
    with pytest.raises(UsageError, match="E_OUTPUT_PLACE"):
        LanceTable(Path("never made"), "a/b")
    with pytest.raises(ResourceError, match="E_STORE_UNAVAILABLE") as caught:
        PgvectorTable("postgresql://me:secret@127.0.0.1:1/x", "t")
    assert "secret" not in str(caught.value)


def test_attributes_never_take_the_column_of_another():
    names = column_names(["color", "ID", "attribute_id", "vector"], ("id", "label", "vector"))
    assert names == {"color": "color", "ID": "attribute_ID", "attribute_id": "attribute_attribute_id",
                     "vector": "attribute_vector"}  # fmt: skip
