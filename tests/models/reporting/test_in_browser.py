"""The page in a real browser: nothing in the console, nothing fetched, no broken picture, no sideways scrolling."""

import fcntl
import json
import os
import select
import shutil
import time

import numpy as np
import pytest
from searches import record
from tables import clusters, join

from anchorage.judging.calibration_check import calibrate_and_check
from anchorage.judging.judge import judge_candidate
from anchorage.judging.settings import JudgeSettings
from anchorage.reporting.page import CAP
from anchorage.reporting.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120  # seconds until an answer must have come

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

COMPLAINTS = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed"}
PICTURES = """(async () => {
  const images = [...document.images];
  images.forEach(image => image.loading = "eager");
  await Promise.allSettled(images.map(image => image.decode()));
  return {all: images.length, broken: images.filter(image => !image.naturalWidth).map(image => image.alt)};
})()"""


class Chromium:
    """A headless Chromium, spoken to in the DevTools protocol over the pipes 3 and 4."""

    def __init__(self, profile):
        theirs_in, ours_out = _pipe()
        ours_in, theirs_out = _pipe()
        flags = ["--headless=new", "--remote-debugging-pipe", "--disable-gpu", f"--user-data-dir={profile}"]
        flags += ["--no-sandbox"] * (os.geteuid() == 0)
        nothing = os.open(os.devnull, os.O_RDWR)
        inherited = [(nothing, 0), (nothing, 1), (nothing, 2), (theirs_in, 3), (theirs_out, 4)]
        actions = [(os.POSIX_SPAWN_DUP2, *pair) for pair in inherited]
        self.process = os.posix_spawn(BROWSER, [BROWSER, *flags], os.environ, file_actions=actions)
        for end in (nothing, theirs_in, theirs_out):
            os.close(end)
        self.ends, self.rest, self.number, self.events, self.session = (ours_in, ours_out), b"", 0, [], None

    def ask(self, method, **params):
        """The answer to a command; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.ends[1], json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda received: received.get("id") == self.number)
        assert "error" not in answer, answer
        return answer["result"]

    def wait_for(self, method):
        if not any(event["method"] == method for event in self.events):
            self._wait(lambda received: received.get("method") == method)

    def evaluate(self, expression):
        answer = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return answer["result"]["value"]

    def close(self):
        self.session = None
        self.ask("Browser.close")
        os.waitpid(self.process, 0)
        for end in self.ends:
            os.close(end)

    def _wait(self, wanted):
        end = time.monotonic() + PATIENCE
        while True:
            while b"\0" in self.rest:
                line, _, self.rest = self.rest.partition(b"\0")
                received = json.loads(line)
                if "method" in received:
                    self.events.append(received)
                if wanted(received):
                    return received
            assert select.select([self.ends[0]], [], [], max(0, end - time.monotonic()))[0], "Chromium does not answer"
            part = os.read(self.ends[0], 1 << 20)
            assert part, "Chromium is gone"
            self.rest += part


def _pipe():
    """A pipe whose ends stand clear of the numbers that the browser will use."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved


@pytest.fixture
def browser(tmp_path):
    started = Chromium(tmp_path / "profile")
    target = started.ask("Target.createTarget", url="about:blank")["targetId"]
    started.session = started.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        started.ask(f"{domain}.enable")
    yield started
    started.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with every part that a few clusters can give, and a picture for each image."""
    candidate, validation = clusters(1.6, classes=12), clusters(1.6, classes=20, split="val", seed=1)
    settings = JudgeSettings(metrics=["recall@1"], minimum={"map@r": 0.1})
    report = judge_candidate(
        candidate,
        settings,
        baseline=clusters(2.2, classes=12, seed=4),
        baseline_facts={"version": 2, "reason": "Release 2 is current.", "first": False},
        untrained={"raw pixels": clusters(4.0, classes=12, seed=2)},
        validation=validation,
        calibration=calibrate_and_check(candidate, validation, join(candidate, validation), settings),
        context={
            "training": {
                "best_epoch": 1,
                "epochs": [{"epoch": 0, "val_map@r": 0.3, "effective_rank": 5.0}, {"epoch": 1, "loss": 1.0}],
            },
            "search": record(),
        },
    )
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("report")
    write_report(report, folder, lambda ids: {id_: rng.integers(0, 255, (64, 64, 3), np.uint8) for id_ in ids})
    return folder / "report.html"


def test_opens_clean_on_desk_and_phone(browser, page):
    assert page.stat().st_size < CAP
    for width, phone in ((1200, False), (390, True)):
        browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=phone)
        browser.events.clear()
        browser.ask("Page.navigate", url=page.as_uri())
        browser.wait_for("Page.loadEventFired")
        pictures = browser.evaluate(PICTURES)
        assert pictures["all"] > 100
        assert pictures["broken"] == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("[...document.querySelectorAll('section.missing')].map(part => part.id)") == ["index"]
        ids = browser.evaluate("[...document.querySelectorAll('[id]')].map(part => part.id)")
        assert len(set(ids)) == len(ids)
        assert not [event for event in browser.events if event["method"] in COMPLAINTS]
        asked = [event["params"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
        assert {params["request"]["url"].partition(":")[0] for params in asked} <= {"file", "data"}


@pytest.fixture
def opened(browser, page):
    """The page on a desk, with no event heard yet."""
    browser.ask("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
    browser.events.clear()
    browser.ask("Page.navigate", url=page.as_uri())
    browser.wait_for("Page.loadEventFired")
    yield browser
    assert not [event for event in browser.events if event["method"] in COMPLAINTS]


def rows(browser, column=1):
    cells = f"[...document.querySelectorAll('#class-table tbody tr')].map(row => row.cells[{column - 1}].textContent)"
    return browser.evaluate(cells)


@pytest.mark.thorough
def test_the_table_of_classes_sorts_and_filters(opened, page):
    report = json.loads((page.parent / "report.json").read_text("utf-8"))
    values = sorted(100 * row["map@r"] for row in report["classes"])
    assert [float(text[:-2]) for text in rows(opened, 5)] == pytest.approx(values, abs=0.051)
    opened.evaluate("document.querySelectorAll('#class-table th button')[4].click(); 0")
    assert [float(text[:-2]) for text in rows(opened, 5)] == pytest.approx(values[::-1], abs=0.051)
    opened.evaluate("document.querySelectorAll('#class-table th button')[0].click(); 0")
    names = sorted(row["label"] for row in report["classes"])
    assert rows(opened) == names
    opened.evaluate(
        "{const box = document.querySelector('#class-table input');"
        f"box.value = {names[3]!r}; box.dispatchEvent(new Event('input'));}}"
    )
    assert rows(opened) == [name for name in names if names[3] in name]


@pytest.mark.thorough
def test_the_table_of_trials_sorts_and_marks_lines(opened):
    numbers = "[...document.querySelectorAll('#trials-table tbody tr')].map(row => Number(row.dataset.trial))"
    assert opened.evaluate(numbers) == [0, 1, 2, 3]
    head = "document.querySelectorAll('#trials-table th button')[{}].click(); {}"
    assert opened.evaluate(head.format(1, numbers)) == [1, 0, 3, 2]  # the failed one has no score
    assert opened.evaluate(head.format(1, numbers)) == [3, 0, 1, 2]
    assert opened.evaluate(head.format(3, numbers)) == [3, 1, 2, 0]  # by margin, which trial 0 has not
    assert opened.evaluate("document.querySelectorAll('#trials-plane polyline').length") == 3
    opened.evaluate("document.querySelector('#trials-table tr[data-trial=\"1\"] button').click(); 0")
    assert "Trial 1: 40.0 %; loss triplet, margin 0.25" in opened.evaluate(
        "document.getElementById('trials-note').textContent"
    )
    assert opened.evaluate("document.querySelector('#trials-plane .chosen').dataset.trial") == "1"
    opened.evaluate(
        "{const box = document.getElementById('trials-shown'); box.value = 1; box.dispatchEvent(new Event('input'));}"
    )
    assert opened.evaluate("document.querySelectorAll('#trials-plane polyline').length") == 1


def test_a_click_on_a_class_shows_its_queries_without_themselves(opened, page):
    shown = json.loads((page.parent / "report.json").read_text("utf-8"))["explorer"]
    opened.evaluate("document.querySelector('#class-table tbody button').click(); 0")
    label = rows(opened)[0]
    title = opened.evaluate("document.querySelector('#neighbors-shown h3').textContent")
    count = sum(shown["labels"][item] == label for item in shown["queries"])
    assert title == f"Class {label}: {count} queries"
    assert opened.evaluate("document.querySelectorAll('#neighbors-shown .query').length") == min(count, 20)
    assert opened.evaluate("document.querySelectorAll('#neighbors-shown .tile-picture').length") > count
    assert all(item not in near for item, near in zip(shown["queries"], shown["neighbors"], strict=True))


@pytest.mark.thorough
def test_the_map_answers_pointer_and_click(opened, page):
    point = opened.evaluate(
        "{const canvas = document.getElementById('map-canvas'); canvas.scrollIntoView({behavior: 'instant'});"
        "const box = canvas.getBoundingClientRect(), map = JSON.parse(document.getElementById('report-data')"
        ".textContent).map, low = Math.min(...map.x), high = Math.max(...map.x), down = Math.min(...map.y),"
        "up = Math.max(...map.y);"
        "({x: box.left + 14 + (map.x[0] - low) / (high - low) * (box.width - 28),"
        "  y: box.bottom - 14 - (map.y[0] - down) / (up - down) * (box.height - 28), id: map.ids[0]})}"
    )
    mouse = {"x": point["x"], "y": point["y"], "button": "left", "clickCount": 1}
    opened.ask("Input.dispatchMouseEvent", type="mouseMoved", x=point["x"], y=point["y"])
    assert point["id"] in opened.evaluate("document.getElementById('map-hint').textContent")
    for kind in ("mousePressed", "mouseReleased"):
        opened.ask("Input.dispatchMouseEvent", type=kind, **mouse)
    assert point["id"] in opened.evaluate("document.getElementById('neighbors-shown').textContent")
    opened.evaluate(
        "{const box = document.getElementById('map-color'); box.selectedIndex = 1;"
        "box.dispatchEvent(new Event('change'));}"
    )
    assert opened.evaluate("document.querySelectorAll('#map-key .swatch').length") == 9
    assert opened.evaluate("document.getElementById('map-static').hidden")


@pytest.mark.thorough
def test_finds_images_by_a_part_of_their_name(opened, page):
    shown = json.loads((page.parent / "report.json").read_text("utf-8"))["explorer"]
    name = shown["ids"][shown["queries"][5]]
    assert opened.evaluate("document.getElementById('find').checkVisibility()")
    opened.evaluate(
        f"{{const box = document.getElementById('find'); box.value = {name!r};box.dispatchEvent(new Event('change'));}}"
    )
    assert name in opened.evaluate("document.querySelector('#neighbors-shown .asked').textContent")


def test_a_broken_picture_and_an_error_are_noticed(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<img alt="torn" src="data:image/png;base64,AAAA"><script>console.error("oh"); nothing()</script>')
    browser.ask("Page.navigate", url=bad.as_uri())
    browser.wait_for("Page.loadEventFired")
    assert browser.evaluate(PICTURES) == {"all": 1, "broken": ["torn"]}
    heard = {event["method"] for event in browser.events}
    assert {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"} <= heard
