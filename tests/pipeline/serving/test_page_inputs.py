"""The web page of releases that take descriptions, and of releases that take vectors."""

import numpy as np
import pytest
import tensorflow as tf
from pages import Site, Visit, expect, in_browser
from releases import number_tokens, publish_tiny, save_text_encoder
from services import KEY

from anchorage.release import fingerprint_model, publish_release
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.table import Embeddings, write_ids

pytestmark = in_browser
DIM = 3


@pytest.fixture
def show(browser):
    """Opens the page of a site; afterwards nothing may have gone wrong in it."""
    visits = []

    def show(site):
        visits.append(Visit(browser, site.url))
        return visits[-1]

    yield show
    for visit in visits:
        visit.context.close()
        assert visit.errors == []


def test_a_description_finds_what_the_text_encoder_makes_of_it(show, images, monkeypatch, tmp_path):
    tokenizer = "anchorage.encoders.text.load_tokenizer"
    monkeypatch.setattr(tokenizer, lambda folder: number_tokens)
    publish_tiny(tmp_path, images, extra={"text": save_text_encoder(tmp_path / "text", images)})
    with Site(tmp_path / "releases") as site:
        visit = show(site)
        page = visit.page
        page.get_by_label("Description").fill("7")
        page.keyboard.press("Enter")
        expect(page.locator(".hit .score")).to_have_count(12)
        assert visit.ids()[0] == "class-1/7.png"
        expect(page.locator("#query")).to_contain_text("7")
        expect(page.locator("#drop")).to_be_visible()
        expect(page.locator("#vector-form")).to_be_hidden()


class Scale(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, DIM], tf.float32, name="vectors")])
    def embed(self, vectors):
        return {"embeddings": tf.linalg.l2_normalize(vectors, axis=1)}


@pytest.fixture
def release_of_vectors(tmp_path):
    """Rows `axis 0`, `axis 1` and `axis 2`, each a direction of its own."""
    model = Scale()
    tf.saved_model.save(model, str(tmp_path / "model"), signatures={"serving_default": model.embed})
    vectors = np.eye(DIM, dtype=np.float32)
    fingerprint = fingerprint_model(tmp_path / "model")
    save_index(build_index(vectors, neighbors=2), tmp_path / "index", model_fingerprint=fingerprint)
    columns = ([f"axis {row}" for row in range(DIM)], ["a", "b", "c"], ["both"] * DIM, ["test"] * DIM)
    write_ids(tmp_path / "ids", Embeddings(*(np.array(values, object) for values in columns), vectors))
    publish_release(
        tmp_path / "releases",
        model_folder=tmp_path / "model",
        index_folder=tmp_path / "index",
        files={"gallery.parquet": tmp_path / "ids"},
        facts={},
    )
    return tmp_path / "releases"


def test_numbers_are_searched_and_added(show, release_of_vectors):
    with Site(release_of_vectors, api_key=KEY) as site:
        visit = show(site)
        page = visit.page
        expect(page.locator("#drop")).to_be_hidden()
        expect(page.locator("#text-form")).to_be_hidden()
        page.get_by_label("Vector", exact=True).first.fill("0.1, 2, 0.5")
        page.keyboard.press("Enter")
        expect(page.locator(".hit .score")).to_have_count(DIM)
        assert visit.ids() == ["axis 1", "axis 2", "axis 0"]

        page.get_by_label("Vector", exact=True).first.fill("one, two")
        page.keyboard.press("Enter")
        expect(page.locator("#problem")).to_contain_text("This is no vector")
        page.get_by_label("Vector", exact=True).first.fill("1, 2")
        page.keyboard.press("Enter")
        expect(page.locator("#problem")).to_contain_text("Expected")

        page.locator("#add-open").click()
        dialog = page.get_by_role("dialog", name="Add an item")
        dialog.get_by_label("Id").fill("mine")
        dialog.get_by_label("Vector").fill("0, 3, 4")
        dialog.get_by_role("button", name="Add").click()
        visit.enter_key()
        expect(page.get_by_role("status")).to_have_text("mine is added.")
        page.get_by_label("Vector", exact=True).first.fill("0, 3, 4")
        page.keyboard.press("Enter")
        expect(page.get_by_text("The gallery has the same content")).to_contain_text("mine")
        assert visit.ids() == ["axis 2", "axis 1", "axis 0"]
        page.get_by_label("Vector", exact=True).first.fill("0, 3, 5")
        page.keyboard.press("Enter")
        expect(page.locator(".hit .score")).to_have_count(DIM + 1)
        assert visit.ids() == ["mine", "axis 2", "axis 1", "axis 0"]


def test_a_gallery_of_one_item_says_what_it_leaves_out(show, images, tmp_path):
    publish_tiny(tmp_path, images[:1])
    with Site(tmp_path / "releases") as site:
        visit = show(site)
        page = visit.page
        page.locator(".hit").click()
        expect(page.get_by_text("No other item was found.")).to_be_visible()
        expect(page.get_by_text("The gallery has the same content")).to_have_count(0)
        visit.drop(images[0])
        expect(page.get_by_text("The gallery has the same content")).to_contain_text("class-0/0.png")
        expect(page.get_by_text("No other item was found.")).to_be_visible()
        visit.drop(images[1])
        expect(page.locator(".hit .score")).to_have_count(1)
