"""Gateways that share a store: what one writes the others serve, rebuilt or not, under the model that they have."""

import numpy as np
import pytest

from anchorage.data.images import ImageFault
from anchorage.errors import DataError, GateError
from anchorage.items import Item
from anchorage.release.items import ItemStore
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.index_tuning import IndexLimits
from anchorage.retrieval.live import LiveIndex
from anchorage.serving.follower import Follower, Limits
from anchorage.serving.queries import Checked


def unit(rows, seed):
    vectors = np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


BASE = unit(30, 0)
NEW = unit(20, 1)
INDEX = build_index(BASE, limits=IndexLimits(0.9))


class Embedder:
    """Turns an image into the vector that its first byte numbers; byte 255 cannot be embedded, 254 is no image."""

    dimension, fingerprint, input_dimension, takes_vectors = 4, "two", 0, False

    def __init__(self):
        self.embedded = 0

    def embed(self, records):
        self.embedded += len(records)
        vectors = [np.zeros(4, np.float32) if image[0] == 255 else NEW[image[0]] for image in records]
        return np.array(vectors, np.float32).reshape(-1, 4)


def check(image):
    fault = ImageFault("E_IMAGE_FORMAT", "no image") if image[0] == 254 else None
    return Checked(image, [], fault, f"digest {image[0]}")


def follower(url, fingerprint="one", pixels=None, **more):
    gallery = {"id": np.array([f"base-{row}" for row in range(30)], object), "label": np.array(["old"] * 30, object)}
    if pixels is not None:
        gallery["pixels"] = pixels
    return Follower(LiveIndex(INDEX, gallery, BASE), ItemStore(url), fingerprint=fingerprint, **more)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/items.sqlite"


def contents(follower):
    return {item.id: item.label for item in follower.live.items()}


def test_each_serves_what_the_other_writes(url):
    one, two = follower(url), follower(url)
    assert one.write([Item("a", "x", vector=NEW[0]), Item("base-1", deleted=True)]) == 2
    assert one.live.search(NEW[:1], 1)[0].ids[0] == "a"
    assert two.write([Item("b", "y", vector=NEW[1]), Item("a", "z", vector=NEW[0])]) == 4
    assert one.catch_up() == 4
    assert contents(one) == contents(two)
    assert contents(one)["a"] == "z"
    assert "base-1" not in contents(one)


def test_a_restart_serves_the_same(url):
    one = follower(url)
    one.write([Item("a", "x", vector=NEW[0]), Item("base-3", deleted=True)])
    again = follower(url)
    again.catch_up()
    assert contents(again) == contents(one)


def test_deletions_of_what_another_gateway_deleted(url):
    one, two = follower(url), follower(url)
    one.write([Item("base-1", deleted=True)])
    with pytest.raises(DataError, match=r"item 1 \('base-1'\): E_ITEM_UNKNOWN.* item 2 \('b'\): E_VECTOR_SHAPE"):
        two.write([Item("a", vector=NEW[0]), Item("base-1", deleted=True), Item("b", vector=np.ones(3, np.float32))])
    assert two.store.last_change() == 1


def test_items_of_another_model(url):
    follower(url).write([
        Item("with image", "x", vector=NEW[0], image=bytes([7])),
        Item("damaged", "x", vector=NEW[1], image=bytes([255])),
        Item("no image", "x", vector=NEW[1], image=bytes([254])),
        Item("without", "x", vector=NEW[2]),
        Item("base-2", "x", vector=NEW[3]),
    ])  # fmt: skip
    two = follower(url, "two", embedder=Embedder(), check=check)
    two.catch_up()
    assert two.left_out == {"damaged", "no image", "without", "base-2"}
    np.testing.assert_array_equal(two.live.vector("with image"), NEW[7])
    assert not two.left_out & set(contents(two))
    assert two.copies.ids("digest 7") == ["with image"]
    two.write([Item("without", "y", vector=NEW[4]), Item("damaged", deleted=True), Item("no image", deleted=True)])
    assert two.left_out == {"base-2"}
    assert contents(two)["without"] == "y"


def test_an_item_of_another_model_is_embedded_once(url):
    one, embedder = follower(url), Embedder()
    one.write([Item("a", "x", vector=NEW[0], image=bytes([7])), Item("b", "x", vector=NEW[1], image=bytes([8]))])
    follower(url, "two", embedder=embedder, check=check).catch_up()
    assert embedder.embedded == 2
    again = follower(url, "two", embedder=embedder, check=check)
    again.catch_up()
    assert embedder.embedded == 2
    np.testing.assert_array_equal(again.live.vector("a"), NEW[7])
    assert again.copies.ids("digest 7") == ["a"]
    back = follower(url)  # a rollback finds the vectors of its own model
    back.catch_up()
    np.testing.assert_array_equal(back.live.vector("a"), NEW[0])
    back.write([Item("a", "x", vector=NEW[2], image=bytes([9]))])  # another image: embedded anew
    again.catch_up()
    assert embedder.embedded == 3
    np.testing.assert_array_equal(again.live.vector("a"), NEW[9])


def test_without_an_embedder_all_items_of_another_model_are_left_out(url):
    follower(url).write([Item("with image", "x", vector=NEW[0], image=bytes([7]))])
    two = follower(url, "two")
    two.catch_up()
    assert two.left_out == {"with image"}


def test_a_rebuild_keeps_the_items_and_applies_what_came_meanwhile(url, monkeypatch):
    one, two = follower(url), follower(url)
    one.write([Item("a", "x", {"color": "red"}, NEW[0]), Item("base-1", deleted=True)])
    before, build = one.live, LiveIndex.rebuilt

    def build_slowly(live):
        result = build(live)
        two.write([Item("b", "y", vector=NEW[1]), Item("a", deleted=True)])
        one.catch_up()
        return result

    monkeypatch.setattr(LiveIndex, "rebuilt", build_slowly)
    one.rebuild()
    assert one.live is not before
    assert contents(one) == contents(two)
    assert (one.live.change, one.rebuilds) == (4, 1)
    for k in (1, 10):
        mine, others = one.live.search(NEW, k), two.live.search(NEW, k)
        assert [hits.ids.tolist() for hits in mine] == [hits.ids.tolist() for hits in others]


def test_items_of_the_release_keep_its_vectors_after_a_rebuild(url):
    """Another gateway, of another model, changes the label of one and adds a deleted one again."""
    digests = {"pixels": np.array([f"digest {row}" for row in range(30)], object)}
    one, two = follower(url, **digests), follower(url, "two")
    one.write([Item("base-1", "mine", vector=BASE[1], pixels="digest 1"), Item("base-2", deleted=True)])
    one.rebuild()
    two.write([
        Item(f"base-{row}", "new", vector=NEW[row], pixels=f"digest {row}") for row in (1, 2, 3)
    ])  # fmt: skip
    one.catch_up()
    assert one.left_out == set()
    for row in (1, 2, 3):
        np.testing.assert_array_equal(one.live.vector(f"base-{row}"), BASE[row])
        assert contents(one)[f"base-{row}"] == "new"


def test_a_limit_starts_a_rebuild_in_the_background(url):
    one = follower(url, limits=Limits(changed_share=0.2, changed_rows=3))
    one.start(poll_seconds=0.01)
    try:
        one.write([Item(f"new-{n}", vector=NEW[n]) for n in range(5)])
        assert one.rebuilds == 0
        one.write([Item(f"new-{n}", vector=NEW[n]) for n in range(5, 10)])
        for _ in range(1000):
            if one.rebuilds:
                break
            one._stop.wait(0.01)
    finally:
        one.stop()
    assert one.rebuilds == 1
    assert one.live.changed_share() == 0
    assert one.live.rows == 40


def test_a_rebuild_that_fails_keeps_the_index_and_says_why(url, monkeypatch):
    one = follower(url, limits=Limits(changed_share=0.0, changed_rows=1))

    def fail(live):
        raise GateError("E_INDEX_RECALL", "too low")

    monkeypatch.setattr(LiveIndex, "rebuilt", fail)
    one.write([Item("a", vector=NEW[0])])
    before = one.live
    one.start(poll_seconds=0.01)
    for _ in range(1000):
        if one.fault:
            break
        one._stop.wait(0.01)
    one.stop()
    assert "too low" in one.fault
    assert one.live is before
    assert not one.needs_rebuild()  # not again before more has changed
    one.write([Item("b", vector=NEW[1])])
    assert one.needs_rebuild()


def test_a_low_recall_is_a_reason_to_rebuild(url, monkeypatch):
    limits = Limits(changed_share=1.0, changed_rows=1, measured_rows=2, queries=10)
    one = follower(url, limits=limits)
    one.write([Item("a", vector=NEW[0])])
    assert not one.needs_rebuild()
    one.write([Item("b", vector=NEW[1])])
    assert not one.needs_rebuild()
    assert one.recall == 1
    search = LiveIndex.search
    monkeypatch.setattr(LiveIndex, "search", lambda live, vectors, k, **more: search(live, -vectors, k, **more))
    one.write([Item("c", vector=NEW[2]), Item("d", vector=NEW[3])])
    assert one.needs_rebuild()
    assert one.recall < 0.9
