"""The report on disk: one self-contained page, the same numbers as JSON, the figures as PNG."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from searches import record
from tables import clusters, join, table_of

from anchorage.judging.calibration_check import calibrate_and_check
from anchorage.judging.judge import judge_candidate
from anchorage.judging.searched import describe_search
from anchorage.judging.settings import JudgeSettings
from anchorage.reporting.figures import FIGURES, find
from anchorage.reporting.page import SECTIONS, describe, render_page
from anchorage.reporting.report import write_report, write_search_page

AUDIT = {
    "splits": {
        "test": {
            "images": 30,
            "classes": 6,
            "per_class": {"least": 1, "median": 5, "most": 5},
            "roles": {"both": 30},
            "singletons": {"count": 1, "first": ["lonely"]},
        }
    },
    "leaks": {"count": 1, "first": [{"label": "leaky", "images": {"train": 2, "test": 3}}]},
    "rejects": {
        "count": 1,
        "by_code": {"E_IMAGE_EMPTY": 1},
        "first": [{"path": "a/b.jpg", "code": "E_IMAGE_EMPTY", "message": "no bytes"}],
    },
    "notes": {"cmyk": 2},
    "skipped": 4,
}


CHOICE = {"setting": "training.sampler", "value": {"name": "class_batches", "params": {"classes": 8}}, "reason": "few"}
TRAINING = {
    "best_epoch": 1,
    "recipe": [CHOICE],
    "epochs": [{"epoch": 0, "val_map@r": 0.2}, {"epoch": 1, "loss": 2.0, "val_map@r": 0.3}],
}
# Their numbers come from elsewhere.
UNDRAWN = {"training", "diagnostics", "index", "index-trials"}
UNDRAWN |= {"search-progress", "search-settings", "search-importance"}


class Page(HTMLParser):
    """Tags with their attributes, and the embedded JSON by the id of its element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.data = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script" and (name := self.all("script")[-1].get("id")):
            self.data[name] = self.data.get(name, "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def judged():
    def judge(candidate=None, baseline=None, untrained=None, **context):
        candidate = clusters(1.0) if candidate is None else candidate
        settings = JudgeSettings(metrics=["recall@1"], max_drop=1.0, slices=[])
        validation = clusters(1.0, 20, split="val", seed=1)
        return judge_candidate(
            candidate,
            settings,
            baseline=baseline,
            baseline_facts={"version": 2 if baseline else None, "reason": "Because."},
            untrained=untrained,
            validation=validation,
            calibration=calibrate_and_check(candidate, validation, join(candidate, validation), settings),
            context=context,
        )

    return judge


@pytest.fixture(scope="module")
def written(judged, tmp_path_factory):
    """A report with a baseline, its folder, and its page."""
    folder = tmp_path_factory.mktemp("written") / "report"
    untrained = {"raw pixels": clusters(3.0, classes=12, seed=5), "untrained network": clusters(9.0, classes=12)}
    report = judged(clusters(2.0, classes=12), clusters(2.5, classes=12, seed=4), untrained)
    write_report(report, folder, pictures)
    return report, folder, (folder / "report.html").read_text("utf-8")


def pictures(ids):
    """A grey picture for every second image; the others are missing."""
    return {id_: np.full((64, 64, 3), 128, np.uint8) if row % 2 else None for row, id_ in enumerate(ids)}


def test_files_and_page_hold_the_same_numbers(written):
    report, folder, text = written
    assert json.loads((folder / "report.json").read_text("utf-8")) == report
    page = Page(text)
    assert json.loads(page.data["report-data"]) == report
    assert not page.open
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == set(FIGURES) - UNDRAWN
    for name in ("random", "worst", "confident", "improved", "worsened"):
        assert Image.open(folder / f"neighbors/{name}.png").width > 1000


def test_page_fetches_nothing(written):
    text = written[2]
    page = Page(text)
    links = [a.get("src", a.get("href")) for tag in ("img", "link", "a", "script", "iframe") for a in page.all(tag)]
    assert {link.split(":")[0] for link in links if link and not link.startswith("#")} == {"data"}
    anchors = {link[1:] for link in links if link and link.startswith("#")}
    assert anchors == {attributes["id"] for attributes in page.all("section")}
    assert "@import" not in text
    assert text.count("url(") == text.count("url(${pictures.uri})") == 1
    assert json.loads(page.data["pictures"])["uri"].startswith("data:image/jpeg")
    assert [attributes.get("type") for attributes in page.all("script")] == ["application/json"] * 2 + [None] * 2
    assert not any("src" in attributes for attributes in page.all("script"))


def test_every_image_has_words_and_loads_lazily(written):
    images = Page(written[2]).all("img")
    assert len(images) > 50
    assert all(image["alt"] and image["loading"] == "lazy" and image["decoding"] == "async" for image in images)


def test_every_figure_explains_itself_and_gives_its_numbers(written):
    text = written[2]
    figures = re.findall("<figure>.*?</figure>", text, re.S)
    assert len(figures) == len(FIGURES) - len(UNDRAWN)
    for figure in figures:
        assert re.search(r"<figcaption>.{60,}", figure, re.S)
        [link] = [a for a in Page(figure).all("a") if "download" in a]
        rows = base64.b64decode(link["href"].partition("base64,")[2]).decode().splitlines()
        assert len(rows) > 1
    assert [section.name for section in SECTIONS if f'id="{section.name}"' in text] == [s.name for s in SECTIONS]


def test_old_and_new_answers_stand_below_each_other(written):
    report, _, text = written
    changed = report["changed"]["improved"] + report["changed"]["worsened"]
    assert changed
    assert text.count('<p class="which">release 2</p>') == len(changed)
    assert text.count("<br>was ") == len(changed)


def test_why_a_scheduled_run_trained_and_whether_it_helped(judged):
    drift = {"drifted": 2, "windows": 3, "statistics": {"distance": 0.25, "unknown": 0.5}}
    facts = {"trigger": {"reasons": ["Release 2 is <old>."], "drift": drift, "release": 2}}
    page = render_page(judged(clusters(1.6, classes=12), clusters(2.0, classes=12), facts=facts), {}, {})
    assert "<li>Release 2 is &lt;old&gt;.</li>" in page
    assert "against release 2 on their common queries. It helped." in page
    assert "2 of 3 windows of queries had drifted, with a median distance of 0.250" in page
    worse = judged(clusters(2.0, classes=12), clusters(1.6, classes=12), facts=facts)
    assert "It did not help." in render_page(worse, {}, {})
    assert "Why it was trained" not in render_page(judged(), {}, {})


def test_missing_pictures_are_marked(written):
    report, _, _ = written
    assert render_page(report, {}, {}).count("image<br>missing") > 50


def test_page_stays_under_its_cap(written):
    report, _, whole = written
    rng = np.random.default_rng(0)
    shown = {id_: rng.integers(0, 255, (96, 96, 3), np.uint8) for id_ in set(re.findall("test/[0-9]+.png", whole))}
    large = render_page(report, {}, shown)
    smaller = render_page(report, {}, shown, cap=len(large) - 1)
    assert len(smaller) < len(large)
    assert len(Page(smaller).all("img")) == len(Page(large).all("img")) > 50
    without = render_page(report, {}, shown, cap=1)
    assert not Page(without).all("img")
    assert "Images are omitted" in without


def test_right_and_wrong_differ_by_more_than_colour(written):
    text = written[2]
    right, wrong = (len(re.findall(f'<li class="{kind}">', text)) for kind in ("right", "wrong"))
    assert right
    assert wrong
    assert text.count(">✓</span>") == right
    assert text.count(">✗</span>") == wrong
    assert re.search(r"\.wrong \.picture \{ border: 3px dashed", text)


def test_sections_without_data_stay_grey(judged):
    def drawn(report):
        return {name: b"<svg/>" for name, drawing in FIGURES.items() if find(report, drawing.needs)}

    page = render_page(judged(), drawn(judged()), {})
    grey = {attributes["id"] for attributes in Page(page).all("section") if attributes.get("class") == "missing"}
    assert grey == {"training", "untrained", "forest", "map", "compatibility", "index", "search"}
    assert "The data was not audited in this run." in page
    whole = judged(
        clusters(1.6, classes=12),
        clusters(2.0, classes=12),
        {"raw pixels": clusters(3.0, classes=12)},
        index={"kind": "brute_force", "recall": 1.0, "rows": 65, "classes": 13, "splits": {"test": 30, "train": 35}},
        audit=AUDIT,
        training=TRAINING,
        search=record(),
    )
    page = render_page(whole, drawn(whole), {})
    grey = {attributes["id"] for attributes in Page(page).all("section") if attributes.get("class") == "missing"}
    assert not grey
    assert "1: leaky (train = 2 · test = 3)" in page
    assert "1 with a single image: lonely" in page
    assert "E_IMAGE_EMPTY: no bytes" in page
    assert "trial 2: E_LOSS_NOT_FINITE: &lt;loss&gt; is nan" in page
    assert len(Page(page).all("section")) == len(SECTIONS)


def test_names_from_the_data_cannot_become_markup(judged, tmp_path):
    evil = ['<script>alert("x")</script>', "</script><b>", "ünï & <i>"]
    vectors = np.random.default_rng(0).normal(size=(12, 12))
    table = table_of(
        vectors, [evil[row % 3] for row in range(12)], ids=[f'"><img src=x onerror=y>{row}' for row in range(12)]
    )
    write_report(judged(table), tmp_path, pictures)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert json.loads(page.data["report-data"])["classes"][0]["label"] in evil
    assert len(page.all("script")) == 4
    assert not page.all("b") or all(not attributes for attributes in page.all("b"))
    assert all("onerror" not in attributes for attributes in page.all("img"))


def test_the_page_of_a_search_alone(tmp_path):
    write_search_page(describe_search(record()), "toy", tmp_path / "search.html")
    page = Page(text := (tmp_path / "search.html").read_text("utf-8"))
    assert not page.open
    assert json.loads(page.data["report-data"])["search"]["best"] == 1
    links = [a.get("src", a.get("href")) for tag in ("img", "link", "a", "script") for a in page.all(tag)]
    assert {link.partition(":")[0] for link in links if link} == {"data"}
    for part in ("37.0", "95 %: 25.0 to 49.0", "seed 2 38.0", "loss.params.margin = 0.25", "&lt;loss&gt; is nan"):
        assert part in text
    assert "Not shown: 3 settings need at least 10 trials with a score. Received: 3" in text


def test_a_search_in_the_format_of_earlier_releases_is_left_out(judged):
    assert "search" not in judged(search={"objective": "map@r", "failed": 0, "trials": []})


def test_baselines_without_training_stand_on_card_table_and_figure(written):
    report, _, text = written
    assert [baseline["name"] for baseline in report["untrained"]] == ["raw pixels", "untrained network"]
    values = [100 * baseline["metrics"]["map@r"]["baseline"] for baseline in report["untrained"]]
    assert f'<div class="small muted">raw pixels {values[0]:.1f}</div>' in text
    for name, value in zip(("raw pixels", "untrained network"), values, strict=True):
        assert f'<th scope="col" class="wide-only">{name}</th>' in text
        assert f'<td class="wide-only">{value:.1f} %</td>' in text
    [link] = [attributes["href"] for attributes in Page(text).all("a") if attributes.get("download") == "untrained.csv"]
    rows = base64.b64decode(link.partition("base64,")[2]).decode().splitlines()
    assert rows[0] == "baseline,metric,candidate,baseline,difference,low,high,queries,classes"
    assert len(rows) == 1 + 2 * len(report["metrics"])


def test_csv_of_the_classes(written):
    report, _, text = written
    [link] = [attributes["href"] for attributes in Page(text).all("a") if attributes.get("download") == "classes.csv"]
    rows = base64.b64decode(link.partition("base64,")[2]).decode().splitlines()
    assert rows[0] == "label,images,queries,map@r,recall@1,baseline"
    assert len(rows) == 1 + len(report["classes"])


def test_values_in_words():
    assert describe({"a": 0.25, "b": None, "c": {"d": [1, 2]}, "e": {}}) == "a = 0.25 · c = d = 1, 2"
    assert describe(True) == "yes"
    assert describe(1234567) == "1,234,567"
    assert describe([]) == describe({}) == "none"
    assert describe(list(range(30))).endswith("19, and 10 more")
    assert describe("ab" * 32) == "abababababababab…"
    assert describe(None) == "unknown"
