"""Searcher over a real SavedModel and a real ScaNN index: the model shrinks an image to 4 x 4 pixels, centred."""

import hashlib
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from releases import SIZE, Shrink, encode, number_tokens, save_shrink, save_text_encoder

from anchorage.data.images import load_image
from anchorage.errors import DataError, UsageError
from anchorage.release import fingerprint_model, open_release, publish_release
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.table import Embeddings, write_ids
from anchorage.serving import queries
from anchorage.serving.searcher import Searcher


@pytest.fixture(scope="module")
def images():
    """Twelve random pictures of 4 x 4 blocks, so that shrinking them loses nothing."""
    blocks = np.random.default_rng(3).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    return [encode(np.kron(block, np.ones((8, 8, 1), np.uint8))) for block in blocks]


@pytest.fixture(scope="module")
def make_release(tmp_path_factory, images):
    def make(
        rows=SIZE, index_rows=SIZE, gallery=12, thresholds=b'{"likely_match": {"threshold": 0.9}}', pixels=None, **more
    ):
        folder = tmp_path_factory.mktemp("release")
        model = save_shrink(folder / "model", rows=rows)
        indexed = model if rows == index_rows else Shrink(index_rows)
        vectors = indexed.embed(tf.constant(images))["embeddings"].numpy()
        index = build_index(vectors, neighbors=3)
        packed = {} if pixels is None else {"image_size": SIZE, "fit": "squash"}
        save_index(index, folder / "index", model_fingerprint=fingerprint_model(folder / "model"), **packed)
        text = {name: np.array([f"{name} {n} ü" for n in range(gallery)], object) for name in ("image", "class")}
        write_ids(
            folder / "ids",
            Embeddings(text["image"], text["class"], text["class"], text["class"], vectors[:gallery]),
            pixels,
        )
        publish_release(
            folder / "releases",
            model_folder=folder / "model",
            index_folder=folder / "index",
            files={"gallery.parquet": folder / "ids", "thresholds.json": thresholds, **more.get("files", {})},
            facts={},
        )
        return open_release(folder / "releases")

    return make


@pytest.fixture(scope="module")
def searcher(make_release):
    return Searcher(make_release())


def test_every_gallery_image_finds_itself_first(searcher, images):
    answers = searcher.search(images, k=3)
    assert [answer.ids[0] for answer in answers] == [f"image {n} ü" for n in range(12)]
    assert [answer.labels[0] for answer in answers] == [f"class {n} ü" for n in range(12)]
    assert all(answer.scores[0] == pytest.approx(1, abs=1e-5) for answer in answers)
    assert all(answer.likely == [True, False, False] for answer in answers)
    assert all(sorted(answer.scores, reverse=True) == answer.scores for answer in answers)


def pixels_of(image):
    return hashlib.sha256(load_image(image, SIZE, "squash").numpy().tobytes()).hexdigest()


def test_query_that_is_in_the_gallery_is_left_out_of_its_answers(make_release, images, searcher):
    digests = [pixels_of(image) for image in images]
    knowing = Searcher(make_release(pixels=digests))
    stranger = encode(np.random.default_rng(8).integers(0, 256, (32, 32, 3), np.uint8))
    third, other, bad = knowing.search([images[3], stranger, b"x"], k=4)
    before = searcher.search([images[3], stranger], k=5)
    assert third.left_out == ["image 3 ü"]
    assert third.ids == before[0].ids[1:]  # still four answers, the image itself not among them
    assert third.scores == pytest.approx(before[0].scores[1:], abs=1e-6)
    assert (list(other.left_out), other.ids) == ([], before[1].ids[:4])
    assert list(bad.left_out) == []
    assert len(knowing.search(images[:1], k=500)[0].ids) == 11


def test_an_image_is_decoded_once_to_check_it_and_to_find_it(make_release, images, monkeypatch):
    knowing = Searcher(make_release(pixels=[pixels_of(image) for image in images]))
    decoded, decode = [], queries.decode_checked
    monkeypatch.setattr(
        queries, "decode_checked", lambda image, *limits: decoded.append(image) or decode(image, *limits)
    )
    assert [len(answer.left_out) for answer in knowing.search([images[2], b"x", images[5]], k=1)] == [1, 0, 1]
    assert decoded == [images[2], b"x", images[5]]


def test_the_same_pixels_under_two_names_are_both_the_query(make_release, images):
    digests = [pixels_of(images[0])] * 2 + [pixels_of(image) for image in images[2:]]
    (answer,) = Searcher(make_release(pixels=digests)).search(images[:1], k=3)
    assert answer.left_out == ["image 0 ü", "image 1 ü"]
    assert len(answer.ids) == 3
    assert not set(answer.ids) & set(answer.left_out)


def test_copy_in_other_bytes_with_the_same_pixels_is_the_query_and_one_with_others_is_not(make_release, images):
    knowing = Searcher(make_release(pixels=[pixels_of(image) for image in images]))
    picture, buffers = Image.open(io.BytesIO(images[4])), [io.BytesIO(), io.BytesIO()]
    picture.save(buffers[0], "BMP")
    picture.save(buffers[1], "JPEG", quality=70)
    lossless, lossy = knowing.search([buffer.getvalue() for buffer in buffers], k=1)
    assert lossless.left_out == ["image 4 ü"]
    assert lossy.ids == ["image 4 ü"]


def test_bad_image_is_a_fault_of_its_own_answer_only(searcher, images):
    answers = searcher.search([images[5], b"<html>", images[7][:90], b"", images[7]], k=1)
    assert [answer.ids for answer in answers] == [["image 5 ü"], [], [], [], ["image 7 ü"]]
    codes = [answer.fault and answer.fault.code for answer in answers]
    assert codes[0] is codes[4] is None
    assert codes[1] == "E_IMAGE_FORMAT"
    assert codes[2] == "E_IMAGE_TRUNCATED"
    assert codes[3] == "E_IMAGE_EMPTY"
    assert [answer.likely for answer in answers] == [[True], None, None, None, [True]]


def test_only_bad_images_and_none_at_all(searcher):
    assert [answer.ids for answer in searcher.search([b"x"], k=2)] == [[]]
    assert searcher.search([], k=2) == []


def test_a_query_is_a_path_bytes_a_picture_or_pixels(searcher, images, tmp_path):
    (tmp_path / "query.png").write_bytes(images[6])
    picture = Image.open(io.BytesIO(images[6]))
    forms = [tmp_path / "query.png", str(tmp_path / "query.png"), images[6], picture, np.asarray(picture)]
    expected = searcher.search([images[6]], k=3)
    assert searcher.search(forms, k=3) == expected * 5
    for single in forms:
        assert searcher.search(single, k=3) == expected
    assert searcher.search(np.stack([picture, picture]), k=3) == expected * 2
    rotated = picture.transpose(Image.Transpose.ROTATE_90)
    rotated.getexif()[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    assert searcher.search(rotated, k=3) == expected


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("nowhere.png", "E_IMAGE_MISSING"),
        (3, "E_QUERY_KIND"),
        (np.zeros((4, 4, 3)), "E_QUERY_KIND"),
        (np.zeros((4, 4), np.uint8), "E_QUERY_KIND"),
    ],
)
def test_other_queries_are_refused(searcher, query, code):
    with pytest.raises(UsageError) as caught:
        searcher.search(query)
    assert caught.value.code == code


def test_answers_are_shown_as_a_table(searcher, images):
    answers = searcher.search([images[2], b"<html>"], k=2)
    first, nearest, *_, fault = repr(answers).splitlines()
    assert first == "query 0"
    assert nearest.split()[:2] == ["1", "1.0000"]
    assert nearest.endswith("image 2 ü")
    assert fault.startswith("query 1: E_IMAGE_FORMAT: ")
    assert answers._repr_html_().count("<tr>") == 3
    assert f"release {searcher.release.version} " in repr(searcher)


def test_a_searcher_opens_the_release_of_a_path(searcher, images):
    assert Searcher(searcher.release.path).search(images[:2], k=2) == searcher.search(images[:2], k=2)


def test_more_than_one_batch(searcher, images):
    answers = searcher.search(images * 11, k=1)
    assert [answer.ids[0] for answer in answers] == [f"image {n} ü" for n in range(12)] * 11


def test_k_is_cut_to_the_gallery(searcher, images):
    assert len(searcher.search(images[:1], k=500)[0].ids) == 12
    with pytest.raises(UsageError):
        searcher.search(images[:1], k=0)


def test_release_without_thresholds_calls_nothing_likely(make_release, images):
    searcher = Searcher(make_release(thresholds=b"{}"))
    assert searcher.search(images[:1], k=1)[0].likely is None


CALIBRATION = {
    "probability": {"neighbors": 3, "temperature": 0.1, "intercept": -1.0, "similarity": 2.0, "agreement": 0.0},
    "unknown": {"threshold": 0.95},
    "check": {
        "probability": {"holds": True, "statement": "Holds: so well."},
        "unknown": {
            "holds": True,
            "statement": "Holds: as well.",
            "false_accept": {"value": 0.125},
            "answered": {"value": 0.75},
        },
    },
}


def calibrated(make_release, calibration):
    return Searcher(make_release(files={"calibration.json": json.dumps(calibration).encode()}))


def test_calibrated_release_gives_probabilities_and_marks_unknown_queries(make_release, images):
    searcher = calibrated(make_release, CALIBRATION)
    stranger = encode(np.kron(np.eye(4, dtype=np.uint8)[:, :, None] * 255, np.ones((8, 8, 3), np.uint8)))
    known, unknown, bad = searcher.search([images[0], stranger, b"x"], k=4)
    for answer in (known, unknown):
        assert answer.probabilities[3] is None  # farther down the list than it was fitted to
        for score, probability in zip(answer.scores[:3], answer.probabilities, strict=False):
            assert probability == pytest.approx(1 / (1 + np.exp(1 - 2 * score)), abs=1e-6)
    assert (known.unknown, unknown.unknown, bad.unknown) == (False, True, None)
    assert len(unknown.ids) == 4  # the nearest are still reported
    assert bad.probabilities is None
    assert searcher.doubts == []


def test_probability_of_an_answer_depends_on_all_neighbours_that_vote_not_on_how_many_are_shown(make_release, images):
    voting = {**CALIBRATION, "probability": {**CALIBRATION["probability"], "agreement": 1.0}}
    searcher = calibrated(make_release, voting)
    (one,), (three,) = searcher.search(images[:1], k=1), searcher.search(images[:1], k=3)
    assert one.probabilities == pytest.approx(three.probabilities[:1])
    assert len(one.ids) == 1


@pytest.mark.parametrize("broken", ["probability", "unknown"])
def test_what_did_not_hold_on_the_test_classes_is_not_shown_and_said(make_release, images, broken):
    check = {**CALIBRATION["check"], broken: {"holds": False, "statement": "Does not hold: it is off."}}
    searcher = calibrated(make_release, {**CALIBRATION, "check": check})
    (answer,) = searcher.search(images[:1], k=2)
    assert (answer.probabilities is None) == (broken == "probability")
    assert (answer.likely is None) == (answer.probabilities is not None)  # one judgement of each result
    assert (answer.unknown is None) == (broken == "unknown")
    assert searcher.unknown_rates == (None if broken == "unknown" else (0.875, 0.25))
    [doubt] = searcher.doubts
    assert doubt.endswith(": Does not hold: it is off.")


def test_calibration_of_an_earlier_release_is_read_and_not_trusted(make_release, images):
    earlier = {
        "probability": {"similarity": [0.0, 0.5, 1.0], "probability": [0.1, 0.2, 0.9]},
        "unknown": {"threshold": 0.95},
        "reliability": {"ece": 0.02},
    }
    searcher = calibrated(make_release, earlier)
    (answer,) = searcher.search(images[:1], k=1)
    assert answer.probabilities is answer.unknown is None
    assert "earlier format" in searcher.doubts[0]
    few = calibrated(make_release, {"split": "val", "reason": "4 classes are too few"})
    assert few.doubts == ["no match probability and no unknown queries: 4 classes are too few"]


def test_release_without_calibration_gives_none(searcher, images):
    (answer,) = searcher.search(images[:1], k=1)
    assert answer.probabilities is answer.unknown is None


def test_index_of_another_dimension_is_refused(make_release):
    with pytest.raises(DataError, match=r"E_QUERY_SHAPE.*24 dimensions.*Received: 48"):
        Searcher(make_release(rows=4, index_rows=2))


def test_gallery_of_another_length_is_refused(make_release):
    with pytest.raises(DataError, match=r"E_RELEASE_MIXED.*11 ids and 12 rows"):
        Searcher(make_release(gallery=11))


def test_a_release_without_a_text_encoder_says_which_releases_have_one(searcher):
    with pytest.raises(UsageError, match="epochs = 0") as raised:
        searcher.search_text(["a red umbrella"])
    assert raised.value.code == "E_NO_TEXT"


def test_texts_are_searched_by_what_the_text_encoder_makes_of_them(make_release, images, monkeypatch, tmp_path):
    searcher = Searcher(make_release(files={"text": save_text_encoder(tmp_path / "text", images)}))
    tokenizer = "anchorage.encoders.text.load_tokenizer"
    monkeypatch.setattr(tokenizer, lambda folder: number_tokens)
    seven, two = searcher.search_text(["7", "2"], k=3)
    assert (seven.ids[0], seven.labels[0]) == ("image 7 ü", "class 7 ü")
    assert two.ids[0] == "image 2 ü"
    assert two.scores[0] == pytest.approx(1, abs=1e-5)
    assert len(two.ids) == 3
    assert (two.likely, two.probabilities, two.unknown, two.fault) == (None, None, None, None)
