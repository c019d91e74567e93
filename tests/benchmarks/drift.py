"""How soon `anchorage drift` finds changed queries, and how often it finds a change where there is none, on icons.

    anchorage data icons
    anchorage run pipeline/experiments/icons.toml
    python tests/benchmarks/drift.py --release releases/icons

Queries are icons of the test classes, which the encoder was not trained on, each in small random views. The gallery has
other icons of the same classes. One half of the classes (`--half tuned`) is there to choose constants on, the other is
measured.
"""

import argparse
import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from anchorage.judging.drift import DriftSettings, Reference, detect_drift
from anchorage.release import open_release
from anchorage.retrieval.drift import TESTS, observe
from anchorage.serving.embedders import LocalEmbedder

WINDOW, REFERENCE, VIEWS, HELD_OUT_FAMILIES = 500, 500, 2, 4
CHANGES = {
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "rotated": lambda image: image.rotate(15, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)),
}


def view(image, random):
    """A small shift and zoom, as if the icon were drawn again."""
    side = image.width
    left, top = random.integers(-2, 3, 2)
    inset = int(random.integers(-2, 3))
    box = (left + inset, top + inset, left + side - inset, top + side - inset)
    return image.transform((side, side), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR, fillcolor=(255,) * 3)


def encode(image):
    """The picture as a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Half:
    """Half of the test classes: a gallery, and populations of queries without and with a change."""

    def __init__(self, rows, folder, embed, seed):
        random = np.random.default_rng(seed)
        classes = random.permutation(sorted({row["class"] for row in rows}))
        new_classes = set(classes[: len(classes) // 4])
        families = Counter(row["family"] for row in rows)
        new_families = set(random.permutation(sorted(families, key=families.get)[-12:])[:HELD_OUT_FAMILIES])
        images = {"gallery": [], "same": [], "new families": [], "new classes": [], **{name: [] for name in CHANGES}}
        for place, row in enumerate(sorted(rows, key=lambda row: (row["class"], row["path"]))):
            image = Image.open(folder / row["path"]).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
            views = [view(image, random) for _ in range(VIEWS)]
            if row["class"] in new_classes:
                images["new classes"] += [] if row["family"] in new_families else views
            elif row["family"] in new_families:
                images["new families"] += views
            elif place % 2:
                images["gallery"].append(image)
            else:
                images["same"] += views
                for name, change in CHANGES.items():
                    images[name] += [change(each) for each in views]
        self.vectors = {name: embed([encode(each) for each in some]) for name, some in images.items()}
        self.names = f"{len(new_classes)} of {len(classes)} classes and the families {', '.join(sorted(new_families))}"

    def draw(self, name, count, random):
        """Queries of a population, each drawn independently."""
        return self.vectors[name][random.integers(0, len(self.vectors[name]), count)]

    def report(self, name, random, windows=2):
        """The report on windows of a population, against queries without a change."""
        gallery, reference = self.vectors["gallery"], self.draw("same", REFERENCE, random)
        below = float(1 - np.quantile(observe(self.vectors["same"], gallery, 1).distances, 0.95))
        ids = np.array([str(row) for row in range(len(gallery))], object)
        known = Reference("evaluation", reference, gallery, ids, ids, below)
        return detect_drift(known, self.draw(name, windows * WINDOW, random), DriftSettings(window=WINDOW))


def measure(half, quiet_reports, changed_reports):
    """Reports with a false alarm, and for each change how many reports found it, and by which tests."""
    random = np.random.default_rng(7)
    quiet = [half.report("same", random) for _ in range(quiet_reports)]
    alarms = sum(window["drift"] for report in quiet for window in report["windows"])
    print(f"without a change: {alarms} of {2 * quiet_reports} windows", flush=True)
    rows = []
    for name in ("new families", "new classes", *CHANGES):
        reports = [half.report(name, random) for _ in range(changed_reports)]
        windows = [window for report in reports for window in report["windows"]]
        tests = Counter(test for window in windows for test in window["drifted"])
        shares = [tests[test] / len(windows) for test in TESTS]
        first = sum(report["windows"][0]["drift"] for report in reports)
        rows.append((name, len(half.vectors[name]), first, sum(report["drift"] for report in reports), shares))
        print(rows[-1], flush=True)
    return alarms, rows


def main():
    """Embed the icons, measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", default="releases/icons")
    parser.add_argument("--data", default="data/icons")
    parser.add_argument("--reports", type=int, default=50, help="reports of two windows without a change")
    parser.add_argument("--changed", type=int, default=10, help="reports of two windows for each change")
    parser.add_argument("--half", choices=("tuned", "measured"), default="measured")
    parser.add_argument("--page", default="")
    options = parser.parse_args()
    release = open_release(options.release)
    embedder = LocalEmbedder(release)

    def embed(images):
        parts = [embedder.embed(images[start : start + 64]) for start in range(0, len(images), 64)]
        return np.concatenate(parts)

    folder = Path(options.data)
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    classes = sorted({row["class"] for row in rows})
    chosen = set(classes[::2] if options.half == "tuned" else classes[1::2])
    half = Half([row for row in rows if row["class"] in chosen], folder, embed, seed=len(chosen))
    alarms, found = measure(half, options.reports, options.changed)
    lines = [
        f"Held out: {half.names}.",
        "",
        f"Without a change {alarms} of {2 * options.reports} windows were false alarms, in reports of two windows with "
        "a stated chance of 1 % each.",
        "",
        "| change | pictures | found in the first window | within two windows | " + " | ".join(TESTS) + " |",
        "|---|---|---|---|" + "---|" * len(TESTS),
        *(
            f"| {name} | {count} | {first} of {options.changed} | {both} of {options.changed} | "
            + " | ".join(f"{100 * share:.0f} %" for share in shares)
            + " |"
            for name, count, first, both, shares in found
        ),
    ]
    print("\n".join(lines))
    if options.page:
        Path(options.page).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
