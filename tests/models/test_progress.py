import numpy as np

from anchorage.judging.bootstrap import compare_by_classes
from anchorage.progress import advance, is_shown, shown_on, task, track
from anchorage.reporting.figures import draw_figures


class Recorder:
    def __init__(self):
        self.calls = []

    def start(self, *arguments):
        self.calls.append(("start", *arguments))

    def advance(self, *arguments):
        self.calls.append(("advance", *arguments))

    def finish(self, *arguments):
        self.calls.append(("finish", *arguments))


def test_work_is_shown_on_the_display_and_only_inside():
    display = Recorder()
    with shown_on(display):
        assert is_shown()
        assert list(track("ab", "letters")) == ["a", "b"]
        with shown_on(None), task("hidden"):
            advance("hidden")
        with task("training", 10, 4):
            advance("training", 2, "loss 0.5")
    with task("later"):
        advance("later")
    assert not is_shown()
    assert display.calls == [
        ("start", "letters", 2, 0),
        ("advance", "letters", 1, ""),
        ("advance", "letters", 1, ""),
        ("finish", "letters"),
        ("start", "training", 10, 4),
        ("advance", "training", 2, "loss 0.5"),
        ("finish", "training"),
    ]


def test_a_task_that_fails_is_removed():
    display = Recorder()
    with shown_on(display):
        try:
            with task("training"):
                raise KeyError
        except KeyError:
            pass
    assert display.calls[-1] == ("finish", "training")


def test_the_bootstrap_and_the_figures_are_shown(tmp_path):
    display, values = Recorder(), np.arange(4.0)
    with shown_on(display):
        every = {"all": np.ones(4, bool)}
        compare_by_classes({"all": (values, values)}, np.arange(4), every, resamples=250, seed=0)
        draw_figures({"recall_curve": {"k": [1, 2], "candidate": [0.5, 1.0], "queries": 9}}, tmp_path)
    started = [call[1:3] for call in display.calls if call[0] == "start"]
    assert started == [("resampling the classes", 3), ("drawing the figures", 1)]
    assert [call[0] for call in display.calls].count("advance") == 4
