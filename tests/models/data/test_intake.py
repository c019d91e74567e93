import os

import pytest

from anchorage.data.intake import check_rejects, check_splits, count_by_code, read_image, reject_limit
from anchorage.data.listing import Reject
from anchorage.errors import DataError


def rejects(*codes):
    return [Reject(f"a/{place}.png", f"a/{place}.png", code, "why", "test") for place, code in enumerate(codes)]


def test_a_file_that_is_not_an_image_is_reported(tmp_path):
    (tmp_path / "a.png").write_text("text")
    assert read_image(tmp_path / "a.png")[1].code == "E_IMAGE_FORMAT"
    assert read_image(tmp_path / "b.png")[1].code == "E_IMAGE_MISSING"


@pytest.mark.parametrize(
    ("make", "expected"),
    [(os.mkfifo, "a named pipe"), (os.mkdir, "a folder"), (lambda path: path.symlink_to("/dev/zero"), "a device")],
)
def test_a_special_file_is_reported_and_never_opened(tmp_path, make, expected):
    make(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[1] == ("E_IMAGE_NO_FILE", f"expected a regular file. Received: {expected}")


def test_broken_links_are_reported(tmp_path):
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert read_image(tmp_path / "gone.png")[1] == (
        "E_IMAGE_MISSING",
        "the link points to nowhere.png, which does not exist",
    )
    assert read_image(tmp_path / "loop.png")[1].code == "E_IMAGE_UNREADABLE"


def test_all_bad_records_are_kept_in_a_file_that_the_message_names(tmp_path):
    file, bad = str(tmp_path / "runs/rejects.jsonl"), [Reject("", "", "E_PATH_MISSING", "row 2 names no path")]
    check_rejects(bad, 100, max_rejects=1, max_share=0, file=file)
    assert not (tmp_path / "runs").exists()
    bad += rejects("A", "B", "C")
    with pytest.raises(DataError, match=rf"First: row 2 names no path; a/0.png: why; .*All are in {file}\.") as caught:
        check_rejects(bad, 100, max_rejects=1, max_share=0, file=file)
    assert ": :" not in str(caught.value)
    assert len((tmp_path / "runs/rejects.jsonl").read_text().splitlines()) == 4


def test_the_larger_of_number_and_share_may_be_bad():
    assert reject_limit(20_000, max_rejects=10, max_share=0.001) == 20
    assert reject_limit(100, max_rejects=10, max_share=0.001) == 10
    check_rejects(rejects("A", "B"), 100, max_rejects=2, max_share=0)
    with pytest.raises(DataError, match=r"at most 2 bad records of 100. Received: 2 B, 1 A. First: a/0.png: why; "):
        check_rejects(rejects("A", "B", "B"), 100, max_rejects=2, max_share=0)


def test_an_empty_split_is_rejected_with_what_removed_its_images():
    counts = {"train": 3, "val": 1, "test": 2}
    check_splits(counts, counts, [], 0)
    with pytest.raises(DataError, match=r"The split test has no images: all of its 2 images were rejected: 2 A"):
        check_splits({"train": 3, "val": 1}, counts, rejects("A", "A"), 0)
    with pytest.raises(DataError, match=r"The split val has no images: bring more\."):
        check_splits({"train": 3}, {"train": 3}, [], 0, {"val": "bring more"})
    with pytest.raises(DataError, match=r"no image was found; 4 files had another suffix"):
        check_splits({}, {}, [], 4)


def test_rejects_are_counted_by_code():
    assert count_by_code(rejects("A", "B", "B")) == "2 B, 1 A"
    assert count_by_code([]) == "none"
