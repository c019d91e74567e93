"""Data in an object store: what is copied, how often, and what its digest sees."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from anchorage.data import remote
from anchorage.data.inputs import list_inputs
from anchorage.data.remote import DataPlace, copy_data, holds_vectors, list_data
from anchorage.data.spans import resolve_span, split_path, version_of
from anchorage.errors import DataError, UsageError
from anchorage.storage import delete, folders, join, write_bytes


@pytest.fixture(autouse=True)
def fetched(monkeypatch):
    """Names of the objects that are copied; a process holds no copies yet."""
    seen = []
    plain = folders.fetch_object

    def fetch(uri, *arguments):
        seen.append(uri.rsplit("/", 1)[1])
        plain(uri, *arguments)

    monkeypatch.setattr(folders, "fetch_object", fetch)
    monkeypatch.setattr(remote, "_held", {})
    return seen


def put(bucket, *names, content=b"x"):
    for name in names:
        write_bytes(join(bucket, name), content)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_a_folder_is_copied_once_for_each_content(bucket, fetched):
    put(bucket, "photos/cat/1.png", "photos/cat/2.png", "photos/dog/1.png", "other/3.png")
    place = split_path(join(bucket, "photos/"), is_vectors=False)
    assert place == DataPlace(join(bucket, "photos"))
    before = version_of(place, is_vectors=False)
    assert fetched == []  # the digest comes from the listing
    local = copy_data(place, {}, is_vectors=False)
    assert files(local.root) == ["cat/1.png", "cat/2.png", "dog/1.png"]
    remote._held.clear()  # as a later process
    assert copy_data(place, {}, is_vectors=False) == local
    assert len(fetched) == 3
    put(bucket, "photos/dog/1.png", content=b"y")
    delete(join(bucket, "photos/cat/2.png"))
    assert version_of(place, is_vectors=False) != before
    assert copy_data(place, {}, is_vectors=False) == local  # a run works on what it began with
    fresh = copy_data(place, {}, is_vectors=False, again=True)
    assert files(fresh.root) == ["cat/1.png", "dog/1.png"]
    assert (Path(fresh.root) / "dog/1.png").read_bytes() == b"y"


def test_of_a_table_only_what_it_lists(bucket, fetched):
    put(bucket, "shop/a/1.png", "shop/a/2.png", "shop/b.png", "shop/huge.bin")
    put(bucket, "shop/list.csv", content=b"file,label\na/1.png,x\n./b.png,y\ngone.png,y\n")
    place, columns = split_path(join(bucket, "shop/list.csv"), is_vectors=False), {"path": "file"}
    local = copy_data(place, columns, is_vectors=False)
    assert files(local.root) == ["a/1.png", "b.png", "list.csv"]
    assert local.table == str(Path(local.root) / "list.csv")
    before = version_of(place, columns, is_vectors=False)
    put(bucket, "shop/huge.bin", content=b"other")
    assert version_of(place, columns, is_vectors=False) == before
    put(bucket, "shop/b.png", content=b"other")
    assert version_of(place, columns, is_vectors=False) != before
    assert "huge.bin" not in fetched


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (
            [
                "cat/1.png",
                "cat/deep/2.JPG",
                "dog/e\u0301.png",
                "dog/\u00e9.png",
                "loose.png",
                "notes/read.txt",
                "dog/.x/3.png",
            ],
            [("cat/1.png", "cat"), ("cat/deep/2.JPG", "cat"), ("dog/\u00e9.png", "dog")],
        ),
        (
            ["train/cat/1.png", "test/dog/2.png", "test/3.png", ".cache/a/4.png", "notes.txt"],
            [("test/dog/2.png", "dog"), ("train/cat/1.png", "cat")],
        ),
        (["train/cat/1.png", "other/dog/2.png"], [("other/dog/2.png", "other"), ("train/cat/1.png", "train")]),
    ],
)
@pytest.mark.parametrize("own_labels", [False, True])
def test_a_folder_is_listed_as_its_copy_would_be_and_nothing_is_copied(bucket, fetched, names, sources, own_labels):
    put(bucket, *names)
    place, assignment = DataPlace(bucket), {"val_share": 0.0, "test_share": 0.5, "seed": 1, "own_labels": own_labels}
    listing = list_data(place, {}, is_vectors=False, **assignment)
    assert fetched == []
    if not own_labels:
        assert [(source.id, source.label) for source in listing.sources] == sources
    copied = list_data(copy_data(place, {}, is_vectors=False), {}, is_vectors=False, **assignment)
    assert [each._replace(path="") for each in listing.sources] == [each._replace(path="") for each in copied.sources]
    assert {(reject.id, reject.code) for reject in listing.rejects} == {
        (reject.id, reject.code) for reject in copied.rejects
    }
    assert (listing.skipped, listing.unlisted) == (copied.skipped, copied.unlisted)


def test_of_a_table_of_images_only_the_table_is_copied_to_list_them(bucket, fetched):
    put(bucket, "shop/a/1.png", "shop/b.png")
    put(bucket, "shop/list.csv", content=b"file,label,split\na/1.png,x,train\n./b.png,y,test\n../c.png,y,test\n")
    place, columns = split_path(join(bucket, "shop/list.csv"), is_vectors=False), {"path": "file"}
    assignment = {"val_share": 0.0, "test_share": 0.5, "seed": 1}
    listing = list_data(place, columns, is_vectors=False, **assignment)
    assert fetched == ["list.csv"]
    assert [(source.id, source.split) for source in listing.sources] == [("a/1.png", "train"), ("b.png", "test")]
    assert [reject.code for reject in listing.rejects] == ["E_PATH_OUTSIDE"]
    assert listing == list_data(copy_data(place, columns, is_vectors=False), columns, is_vectors=False, **assignment)


def test_a_bucket_that_cannot_be_copied_cannot_be_listed(bucket):
    put(bucket, "cat/1.png", "cat/1.png/2.png")
    with pytest.raises(DataError, match="E_OBJECT_NAME"):
        list_data(DataPlace(bucket), {}, is_vectors=False, val_share=0.0, test_share=0.5, seed=1)


def test_vectors_are_copied_and_recognized_by_their_columns(bucket, tmp_path):
    table = pa.table({"id": ["a"], "vector": [[1.0, 2.0]]})
    parquet.write_table(table, tmp_path / "v.parquet")
    parquet.write_table(table.select(["id"]), tmp_path / "list.parquet")
    np.save(tmp_path / "w.npy", np.ones((1, 2), "float32"))
    for name in ("v.parquet", "list.parquet", "w.npy"):
        put(bucket, f"data/{name}", content=(tmp_path / name).read_bytes())
    put(bucket, "data/w.csv", content=b"id\na\n")
    put(bucket, "data/arrow/data-0.arrow", "data/photos/cat/1.png")
    names = ["v.parquet", "w.npy", "arrow", "list.parquet", "photos", "w.csv", "nothing.parquet"]
    assert [name for name in names if holds_vectors(join(bucket, "data", name))] == ["v.parquet", "w.npy", "arrow"]
    for name, expected in (("v.parquet", ["v.parquet"]), ("w.npy", ["w.csv", "w.npy"]), ("arrow", ["data-0.arrow"])):
        local = copy_data(split_path(join(bucket, "data", name), is_vectors=True), {}, is_vectors=True)
        folder = Path(local.table) if name == "arrow" else Path(local.root)
        assert files(folder) == expected
        assert Path(local.table).exists()


def test_rejects_an_address_without_data(bucket):
    put(bucket, "photos/cat/1.png")
    for path, is_vectors in (("phtos", False), ("photos/list.csv", False), ("v.parquet", True)):
        place = split_path(join(bucket, path), is_vectors=is_vectors)
        for look in (copy_data, version_of, partial(list_data, val_share=0.0, test_share=0.5, seed=1)):
            with pytest.raises(DataError, match="E_DATA_MISSING"):
                look(place, {}, is_vectors=is_vectors)


@pytest.mark.parametrize(
    ("path", "newest"), [("{SPAN}/photos", "10"), ("photos-{SPAN}.csv", "3"), ("span-{SPAN}", "100")]
)
def test_the_newest_span(bucket, path, newest):
    put(bucket, "9/photos/a.png", "10/photos/a.png", "11/other/a.png")
    put(bucket, "photos-1.csv", "photos-3.csv", "photos-4.txt", "span-99/a/1.png", "span-100/a/1.png")
    assert resolve_span(join(bucket, path)) == join(bucket, path.replace("{SPAN}", newest))
    with pytest.raises(UsageError, match="E_SPAN"):
        resolve_span(join(bucket, path), "8")


def test_images_to_embed_are_objects_folders_and_patterns(bucket):
    put(
        bucket,
        "photos/cat/1.png",
        "photos/cat/2.PNG",
        "photos/cat/notes.txt",
        "photos/dog/.hidden/3.png",
        "photos/4.jpg",
    )
    there = join(bucket, "photos")

    def listed(*places):
        inputs, rejects = list_inputs([join(there, place) if place else there for place in places], vectors=False)
        assert rejects == []
        assert [item.path for item in inputs] == [item.id for item in inputs]
        return [item.path.removeprefix(f"{there}/") for item in inputs]

    assert listed("") == ["4.jpg", "cat/1.png", "cat/2.PNG"]
    assert listed("cat", "4.jpg") == ["cat/1.png", "cat/2.PNG", "4.jpg"]
    assert listed("*/*.png") == ["cat/1.png"]
    assert listed("**/*") == ["4.jpg", "cat/1.png", "cat/2.PNG"]
    with pytest.raises(DataError, match="E_NO_IMAGES"):
        listed("bird")
