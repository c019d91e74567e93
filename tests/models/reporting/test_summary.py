from anchorage.reporting.summary import summarize

REPORT = {
    "created": "2026-01-02T03:04:05+00:00",
    "experiment": "toy",
    "split": "test",
    "verdict": {"state": "HOLD", "reasons": ["Worse.", "Much worse."]},
    "counts": {"queries": 1200, "classes": 40, "gallery": 1200, "distance": "cosine similarity"},
    "baseline": {"name": "release 3"},
    "metrics": {"map@r": {"value": 0.464, "interval": [0.424, 0.501], "difference": -0.021}},
    "comparison": {
        "slices": [
            {"name": "class_size=1-5", "difference": -0.1, "queries": 30},
            {"name": "confused", "difference": 0.1, "queries": 30},
        ]
    },
    "classes": [{"label": "hard-drive", "map@r": 0.1}],
    "identity": {"limits": ["One seed."]},
}
TEXT = """# HOLD: toy

- Worse.
- Much worse.

Split test: 1,200 queries of 40 classes against 1,200 gallery images, cosine similarity; 2026-01-02.

| metric | this model, % | 95 % interval | points against release 3 |
|---|---|---|---|
| MAP@R | 46.4 | 42.4 to 50.1 | {minus}2.1 |

Slices with losses:

- class_size=1-5: {minus}10.0 points (30 queries)

Worst classes:

- hard-drive: MAP@R 10.0 %

Known limits:

- One seed.
""".format(minus="\N{MINUS SIGN}")


def test_one_page_of_markdown():
    assert summarize(REPORT) == TEXT


def test_first_release_has_nothing_to_compare():
    first = {**REPORT, "baseline": {"name": None}, "metrics": {"map@r": {"value": 0.5, "interval": [0.4, 0.6]}}}
    del first["comparison"]
    text = summarize(first)
    assert "| MAP@R | 50.0 | 40.0 to 60.0 |\n" in text
    assert "against release" not in text
    assert "Slices" not in text


def test_baselines_without_training_have_a_column_each():
    untrained = [{"name": "raw pixels", "metrics": {"map@r": {"baseline": 0.177}}}]
    text = summarize({**REPORT, "untrained": untrained})
    assert "| metric | this model, % | 95 % interval | points against release 3 | raw pixels, % |\n" in text
    assert "| MAP@R | 46.4 | 42.4 to 50.1 | \N{MINUS SIGN}2.1 | 17.7 |\n" in text
