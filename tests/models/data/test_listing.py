import os
import unicodedata

import pytest

from anchorage.data.listing import Source, assign_classes, list_images
from anchorage.errors import DataError

SHARES = {"val_share": 0.25, "test_share": 0.5, "seed": 1}


def plant(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def table(root, text):
    (root / "t.csv").write_text(text, encoding="utf-8")
    return list_images(root, root / "t.csv", **SHARES)


def test_folder_per_class_at_any_depth(tmp_path):
    plant(tmp_path, "cat/b.JPG", "cat/deep/er/a.png", "dog/1.webp", "dog/notes.txt", ".git/x/y.png", "dog/.hidden.png")
    (tmp_path / "empty").mkdir()
    listing = list_images(tmp_path, **SHARES)
    assert [(source.id, source.label, source.role) for source in listing.sources] == [
        ("cat/b.JPG", "cat", "both"),
        ("cat/deep/er/a.png", "cat", "both"),
        ("dog/1.webp", "dog", "both"),
    ]
    assert (listing.rejects, listing.skipped) == ([], 1)


def test_classes_are_dealt_whole_and_the_same_everywhere(tmp_path):
    plant(tmp_path, *(f"class-{number:02}/{image}.png" for number in range(16) for image in range(3)))
    first, again = (list_images(tmp_path, **SHARES).sources for _ in range(2))
    assert first == again
    splits = {source.label: source.split for source in first}
    assert {(source.label, source.split) for source in first} == set(splits.items())
    assert [list(splits.values()).count(split) for split in ("train", "val", "test")] == [6, 2, 8]
    other = list_images(tmp_path, **{**SHARES, "seed": 2}).sources
    assert {source.label: source.split for source in other} != splits


def test_shares_leave_at_least_one_class_on_each_side():
    sources = [Source(name, name, name, "", "both") for name in "abc"]
    dealt = assign_classes(sources, val_share=0.01, test_share=0.99, seed=0)
    assert sorted(source.split for source in dealt) == ["test", "test", "train"]
    dealt = assign_classes(sources, val_share=0.01, test_share=0.01, seed=0)
    assert sorted(source.split for source in dealt) == ["test", "train", "val"]
    dealt = assign_classes(sources, val_share=0, test_share=0, seed=0)
    assert [source.split for source in dealt] == ["train"] * 3


def test_folder_per_split_without_val_takes_it_from_the_train_classes(tmp_path):
    plant(tmp_path, *(f"train/{name}/1.png" for name in "abcd"), "test/a/2.png", "test/x/1.png")
    splits = {source.id: source.split for source in list_images(tmp_path, **SHARES).sources}
    assert splits["test/a/2.png"] == splits["test/x/1.png"] == "test"
    assert sorted(split for key, split in splits.items() if key.startswith("train")) == ["train"] * 3 + ["val"]


def test_folder_per_split_with_val_query_and_gallery(tmp_path):
    plant(tmp_path, "train/a/1.png", "val/b/1.png", "query/c/1.png", "gallery/c/deep/1.png")
    assert [source[1:5] for source in list_images(tmp_path, **SHARES).sources] == [
        ("gallery/c/deep/1.png", "c", "test", "gallery"),
        ("query/c/1.png", "c", "test", "query"),
        ("train/a/1.png", "a", "train", "both"),
        ("val/b/1.png", "b", "val", "both"),
    ]


def test_a_class_called_train_among_others_is_a_class(tmp_path):
    plant(tmp_path, "train/1.png", "test/1.png", "bus/1.png")
    assert {source.label for source in list_images(tmp_path, **SHARES).sources} == {"train", "test", "bus"}


@pytest.mark.parametrize("paths", [["a/1.png", "stray.png"], ["train/a/1.png", "test/b/1.png", "test/stray.png"]])
def test_image_outside_of_a_class_folder_has_no_label(tmp_path, paths):
    listing = list_images(plant(tmp_path, *paths), **SHARES)
    assert len(listing.sources) == len(paths) - 1
    assert [(reject.path, reject.code) for reject in listing.rejects] == [(paths[-1], "E_LABEL_MISSING")]


def test_f10_unicode_and_spaces(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Käse und Öl")
    plant(tmp_path, f"{decomposed}/größe  №1 😀.png", "日本/ファイル.jpg")
    sources = list_images(tmp_path, **SHARES).sources
    assert [(source.id, source.label) for source in sources] == [
        ("Käse und Öl/größe  №1 😀.png", "Käse und Öl"),
        ("日本/ファイル.jpg", "日本"),
    ]
    assert all((tmp_path / source.path).exists() for source in sources)


def test_f10_ids_that_fall_together_are_reported(tmp_path):
    plant(tmp_path, "a/\u00e4.png", "a/a\u0308.png", "b/1.png")
    listing = list_images(tmp_path, **SHARES)
    assert [source.id for source in listing.sources] == ["a/ä.png", "b/1.png"]
    assert [(reject.id, reject.code) for reject in listing.rejects] == [("a/ä.png", "E_ID_DUPLICATE")]


def test_f10_name_that_is_not_utf8(tmp_path):
    plant(tmp_path, "a/1.png")
    with open(os.fsencode(tmp_path) + b"/a/caf\xe9.png", "wb"):  # noqa: PTH123 - pathlib takes no bytes
        pass
    listing = list_images(tmp_path, **SHARES)
    assert len(listing.sources) == 1
    assert [(reject.path, reject.code) for reject in listing.rejects] == [("a/caf\\udce9.png", "E_PATH_ENCODING")]


def test_linked_folders_are_followed_but_not_round_in_circles(tmp_path):
    plant(tmp_path, "b/1.png", ".store/x/1.png")
    (tmp_path / "a").symlink_to(".store/x")
    (tmp_path / ".store/x/loop").symlink_to(tmp_path)
    listing = list_images(tmp_path, **SHARES)
    assert [(source.id, source.label) for source in listing.sources] == [("a/1.png", "a"), ("b/1.png", "b")]
    assert listing.rejects == []


def test_a_linked_folder_outside_the_root_is_an_error_unless_the_data_allows_it(tmp_path):
    plant(tmp_path, "far/x/1.png", "data/b/1.png")
    (tmp_path / "data/a").symlink_to(tmp_path / "far/x")
    with pytest.raises(DataError, match=rf"E_PATH_OUTSIDE: .*data/a: .* to {tmp_path}/far/x; .*`data.follow_links`"):
        list_images(tmp_path / "data", **SHARES)
    listing = list_images(tmp_path / "data", **SHARES, follow_links=True)
    assert [(source.id, source.label) for source in listing.sources] == [("a/1.png", "a"), ("b/1.png", "b")]


def test_a_linked_image_outside_the_root_is_rejected_unless_the_data_allows_it(tmp_path):
    plant(tmp_path, "far.png", "data/a/1.png", "data2/1.png")
    (tmp_path / "data/a/2.png").symlink_to("1.png")
    (tmp_path / "data/a/3.png").symlink_to("../../far.png")
    (tmp_path / "data/a/4.png").symlink_to("../../data2/1.png")  # its path begins like the root's
    listing = list_images(tmp_path / "data", **SHARES)
    assert [source.id for source in listing.sources] == ["a/1.png", "a/2.png"]
    assert [(reject.path, reject.code) for reject in listing.rejects] == [
        ("a/3.png", "E_PATH_OUTSIDE"),
        ("a/4.png", "E_PATH_OUTSIDE"),
    ]
    assert len(list_images(tmp_path / "data", **SHARES, follow_links=True).sources) == 4


def test_links_in_the_paths_of_a_table_go_by_the_same_rule(tmp_path):
    plant(tmp_path, "far/1.png", "data/a/1.png")
    (tmp_path / "data/out").symlink_to("../far")
    (tmp_path / "data/in").symlink_to("a")
    text = "path,label\na/1.png,a\nin/1.png,b\nout/1.png,c\n"
    listing = table(tmp_path / "data", text)
    assert [source.id for source in listing.sources] == ["a/1.png", "in/1.png"]
    assert [(reject.path, reject.code) for reject in listing.rejects] == [("out/1.png", "E_PATH_OUTSIDE")]
    allowed = list_images(tmp_path / "data", tmp_path / "data/t.csv", **SHARES, follow_links=True)
    assert len(allowed.sources) == 3


def test_a_root_that_is_itself_a_link_is_fine(tmp_path):
    plant(tmp_path, "far/a/1.png")
    (tmp_path / "data").symlink_to("far")
    assert [source.id for source in list_images(tmp_path / "data", **SHARES).sources] == ["a/1.png"]


def test_a_link_to_itself_is_listed_like_any_file(tmp_path):
    plant(tmp_path, "a/1.png")
    (tmp_path / "a/loop.png").symlink_to("loop.png")
    (tmp_path / "a/other").symlink_to("other")
    listing = list_images(tmp_path, **SHARES)
    assert [source.id for source in listing.sources] == ["a/1.png", "a/loop.png"]
    assert listing.skipped == 1


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(tmp_path, monkeypatch):
    plant(tmp_path, "a/1.png", "b/1.png")
    honest = os.scandir

    def scandir(place):
        if str(place).endswith("/b"):
            raise PermissionError(13, "Permission denied", place)
        return honest(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"E_DATA_UNREADABLE: .*/b\. Received: Permission denied"):
        list_images(tmp_path, **SHARES)


def test_table_with_split_and_role(tmp_path):
    listing = table(
        tmp_path,
        "path,class,split,role\n./x//1.png,a,train,\n2.png,b,Val,both\n3.png,c,test,query\n4.png,c,gallery,\n"
        "5.png,c,query,both\n",
    )
    assert [source[1:5] for source in listing.sources] == [
        ("2.png", "b", "val", "both"),
        ("3.png", "c", "test", "query"),
        ("4.png", "c", "test", "gallery"),
        ("5.png", "c", "test", "both"),
        ("x/1.png", "a", "train", "both"),
    ]


def test_table_without_split_is_dealt_like_a_folder(tmp_path):
    rows = "".join(f"{label}/{image}.png,{label}\n" for label in "abcdefgh" for image in range(2))
    plant(tmp_path, *(f"{label}/{image}.png" for label in "abcdefgh" for image in range(2)))
    listed = list_images(tmp_path, **SHARES).sources
    assert table(tmp_path, "path,label\n" + rows).sources == listed


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("1.png,,test,", "E_LABEL_MISSING"),
        ("1.png,  ,test,", "E_LABEL_MISSING"),
        (",a,test,", "E_PATH_MISSING"),
        ("/etc/passwd,a,test,", "E_PATH_OUTSIDE"),
        ("../1.png,a,test,", "E_PATH_OUTSIDE"),
        ("b/../../1.png,a,test,", "E_PATH_OUTSIDE"),
        (".,a,test,", "E_PATH_OUTSIDE"),
        ("a\0b.png,a,test,", "E_PATH_INVALID"),
        (f"{'x' * 300}.png,a,test,", "E_PATH_INVALID"),
        (f"{'x/' * 3000}1.png,a,test,", "E_PATH_INVALID"),
        ("1.png,a,,", "E_SPLIT_UNKNOWN"),
        ("1.png,a,holdout,", "E_SPLIT_UNKNOWN"),
        ("1.png,a,test,probe", "E_ROLE_UNKNOWN"),
        ("good.png,a,test,", "E_ID_DUPLICATE"),
    ],
)
def test_bad_rows_are_rejected_one_by_one(tmp_path, row, code):
    listing = table(tmp_path, f"path,label,split,role\ngood.png,g,val,\n{row}\n")
    assert [source.id for source in listing.sources] == ["good.png"]
    assert [reject.code for reject in listing.rejects] == [code]


def test_a_row_without_a_path_is_named_by_its_number(tmp_path):
    listing = table(tmp_path, "path,label\n1.png,a\n,b\n")
    assert [reject.message for reject in listing.rejects] == ["row 2, with label 'b', has no path"]


def test_rejects_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"E_DATA_MISSING: Expected a folder of images at .*nothing"):
        list_images(tmp_path / "nothing", **SHARES)


def test_attributes_of_a_table_travel_with_each_image(tmp_path):
    (tmp_path / "t.csv").write_text("path,class,family,weight\n1.png,a,lucide,3\n2.png,a,,4\n")
    sources = list_images(tmp_path, tmp_path / "t.csv", attributes=["family"], **SHARES).sources
    assert [source.attributes for source in sources] == [(("family", "lucide"),), (("family", ""),)]
    with pytest.raises(DataError, match=r"E_TABLE_COLUMNS: .* a column 'camera', which `evaluation` uses"):
        list_images(tmp_path, tmp_path / "t.csv", attributes=["camera"], **SHARES)
    with pytest.raises(DataError, match=r"E_TABLE_COLUMNS: Expected a table with the columns \['family'\]"):
        list_images(tmp_path, attributes=["family"], **SHARES)


@pytest.mark.parametrize(
    ("parts", "shares", "split", "expected"),
    [
        (
            [("a", ""), ("b", "")],
            (0.25, 0.5),
            "val",
            "but only 2 can be assigned; add more classes",
        ),
        ([("a", ""), ("b", ""), ("c", "")], (0.0, 0.5), "val", "`data.val_share` is 0; raise it"),
        ([("a", ""), ("b", ""), ("c", "")], (0.25, 0.0), "test", "`data.test_share` is 0; raise it"),
        ([("a", "train"), ("b", "train")], (0.25, 0.5), "test", "the splits of the data have no images for it"),
        (
            [("a", "train"), ("b", "test")],
            (0.25, 0.5),
            "val",
            "but only 1 can be assigned; add more classes",
        ),
        ([("a", "train"), ("b", "train"), ("c", "test")], (0.0, 0.5), "val", "`data.val_share` is 0; raise it"),
        ([("a", "test"), ("b", "val")], (0.25, 0.5), "train", "the splits of the data have no images for it"),
    ],
)
def test_a_split_without_a_class_has_a_reason_and_a_remedy_that_helps(tmp_path, parts, shares, split, expected):
    rows = [f"{label}.png,{label},{part}" for label, part in parts]
    if not any(part for _, part in parts):
        rows = [row.rstrip(",") for row in rows]
    (tmp_path / "t.csv").write_text("\n".join(["path,label" + (",split" if rows[0].count(",") == 2 else ""), *rows]))
    listing = list_images(tmp_path, tmp_path / "t.csv", val_share=shares[0], test_share=shares[1], seed=0)
    assert split not in {source.split for source in listing.sources}
    assert expected in listing.unlisted[split]


def test_an_image_without_a_label_can_be_the_only_one_of_its_class(tmp_path):
    plant(tmp_path, *(f"{number}.jpg" for number in range(8)), "cat/1.jpg", "cat/2.jpg", "notes.txt")
    listing = list_images(tmp_path, **SHARES, own_labels=True)
    assert (listing.rejects, listing.skipped) == ([], 1)
    labels = {source.id: source.label for source in listing.sources}
    assert labels == {**{f"{n}.jpg": f"{n}.jpg" for n in range(8)}, "cat/1.jpg": "cat", "cat/2.jpg": "cat"}
    assert {source.split for source in listing.sources} == {"train", "val", "test"}


def test_an_unlabelled_image_stays_in_the_split_of_its_folder(tmp_path):
    plant(tmp_path, "train/a.jpg", "train/b.jpg", "test/c.jpg", "test/dog/d.jpg")
    found = list_images(tmp_path, val_share=0, test_share=0.5, seed=1, own_labels=True).sources
    assert {source.id: (source.split, source.label) for source in found} == {
        "train/a.jpg": ("train", "train/a.jpg"),
        "train/b.jpg": ("train", "train/b.jpg"),
        "test/c.jpg": ("test", "test/c.jpg"),
        "test/dog/d.jpg": ("test", "dog"),
    }


def test_a_row_without_a_label_can_be_the_only_one_of_its_class(tmp_path):
    plant(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "t.csv").write_text("path,label\na.jpg,\nb.jpg,dog\n")
    found = list_images(tmp_path, tmp_path / "t.csv", **SHARES, own_labels=True)
    assert [(source.id, source.label) for source in found.sources] == [("a.jpg", "a.jpg"), ("b.jpg", "dog")]
    assert found.rejects == []
