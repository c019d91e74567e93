from anchorage.progress import advance, is_shown, shown_on, task, track


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
