"""Our losses and metrics against those of TensorFlow Addons and TensorFlow Similarity, row by row of the page.

The rows are read from models/anchorage/losses/MIGRATION.md and made as they are printed there. The answers of the other
libraries were made by the scripts under tests/oracles, which run the real packages.
"""

import ast
import json
import pkgutil
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from backends import differentiate

import anchorage.losses
from anchorage.geometry import MEASURES
from anchorage.losses import create_loss
from anchorage.retrieval.metrics import evaluate_retrieval
from anchorage_pipeline.cli import create_parser

ORACLES = Path(__file__).parents[2] / "data" / "oracles"
PAGE = (Path(anchorage.losses.__file__).parent / "MIGRATION.md").read_text(encoding="utf-8")
FILES = {"TensorFlow Addons": "tensorflow-addons.json", "The same from ours": "tensorflow-similarity.json"}
# What their constructors take for granted.
DEFAULTS = {
    "TripletSemiHardLoss": {"margin": 1.0, "distance_metric": "L2"},
    "TripletHardLoss": {"margin": 1.0, "distance_metric": "L2", "soft": False},
    "LiftedStructLoss": {"margin": 1.0},
    "MultiSimilarityLoss": {"alpha": 2, "beta": 40, "epsilon": 0.1, "lmda": 0.5},
    "CircleLoss": {"gamma": 80, "margin": 0.4},
    "SoftNearestNeighborLoss": {"temperature": 1},
    "VicReg": {"std_const": 1e-4, "lambda_": 25, "mu": 25, "nu": 1},
}
PAIRED = ("two_of_each", "torn")  # one positive for every anchor


class Row(NamedTuple):
    """A row of the page: their loss and its arguments, and ours, if there is one."""

    theirs: str
    arguments: dict[str, Any]
    ours: str | None
    params: dict[str, Any]


def section(title):
    """The text under a heading of the page."""
    return re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]


def table(title):
    """Cells of the table under a heading, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def with_defaults(name, arguments):
    return {**DEFAULTS.get(name, {}), **arguments}


def read_row(theirs, ours):
    call = ast.parse(theirs.strip("`"), mode="eval").body
    arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    arguments = with_defaults(call.func.id, arguments)
    if ours == "none":
        return Row(call.func.id, arguments, None, {})
    name, params = re.fullmatch(r"`(\w+)`, `(\{.*\})`", ours).groups()
    return Row(call.func.id, arguments, name, tomllib.loads(f"params = {params}")["params"])


def load(file):
    return json.loads((ORACLES / file).read_text())


ROWS = {file: [read_row(*cells[:2]) for cells in table(title)] for title, file in FILES.items()}


def row_of(file, case):
    """The row that speaks of a case."""
    arguments = with_defaults(case["loss"], case["params"])
    return next((row for row in ROWS[file] if (row.theirs, row.arguments) == (case["loss"], arguments)), None)


def is_one_definition(case):
    """Whether theirs and ours compute the same in this batch; the page says where they do not."""
    params, batch = case["params"], case["batch"]
    match case["loss"]:
        case "TripletLoss" | "PNLoss":  # theirs takes the hardest positive of an anchor, ours every one
            return params.get("negative_mining_strategy") == "hard" or batch in PAIRED
        case "CircleLoss":  # theirs adds log(1 + A) and log(1 + B), ours is log(1 + AB): one where both are large
            return batch == "torn"
        case "SoftNearestNeighborLoss":  # theirs keeps shares above 1e-9, and here they are not far from it
            return not (params.get("temperature", 1) < 1 and batch == "torn")
        case "VicReg":  # theirs divides variances by n; beyond a standard deviation of 1 their term is 0 in both
            return params.get("mu") == 0 or batch.startswith("20")
    return True


def factor(case):
    """What the page says is between their value and ours."""
    count = len(case["labels"])
    return {"ContrastiveLoss": 1 / (count * (count - 1)), "SimCLRLoss": 2}.get(case["loss"], 1)


CASES = [
    pytest.param(file, number, id=f"{case['loss']}-{number}")
    for file, rows in ROWS.items()
    for number, case in enumerate(load(file))
    if case["loss"] != "XBM" and (row := row_of(file, case)) and row.ours and is_one_definition(case)
]


@pytest.mark.parametrize(("file", "number"), CASES)
def test_ours_agrees(file, number):
    case = load(file)[number]
    row = row_of(file, case)
    loss, labels = create_loss(row.ours, row.params), np.array(case["labels"], "int32")
    value, (gradient,) = differentiate(lambda rows: loss(rows, labels), np.array(case["embeddings"], "float32"))
    assert factor(case) * value == pytest.approx(case["value"], rel=2e-5, abs=2e-6)
    if case["loss"] != "CircleLoss":  # theirs differentiates the weights too, which the paper keeps fixed
        assert factor(case) * gradient == pytest.approx(np.array(case["gradient"]), rel=2e-4, abs=2e-5)


def test_ours_agrees_with_their_memory_step_by_step():
    """A memory of whole batches: of a batch that fits in part, theirs keeps the first rows and ours the last."""
    row = next(row for row in ROWS["tensorflow-similarity.json"] if row.theirs == "XBM")
    ours = create_loss(row.ours, row.params)
    cases = [case for case in load("tensorflow-similarity.json") if case["loss"] == "XBM"]
    assert [case["params"] for case in cases] == 4 * [row.arguments]
    for case in cases:
        rows, labels = np.array(case["embeddings"], "float32"), np.array(case["labels"])
        assert float(ours(rows, labels, training=True)) == pytest.approx(case["value"], rel=2e-5)


def test_every_row_was_run_and_every_answer_has_its_row():
    for file, rows in ROWS.items():
        cases = load(file)
        without = {row.theirs for row in rows if row.ours is None}
        assert [case for case in cases if case["loss"] not in without and row_of(file, case) is None] == []
        answered = [row_of(file, case) for case in cases if is_one_definition(case)]
        assert [row for row in rows if row.ours and row not in answered] == []
    assert len(CASES) == 71


def test_distances_are_what_the_page_says():
    """Their definitions, in NumPy, on rows of unit length."""
    random = np.random.default_rng(3)
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in random.normal(size=(2, 4, 6)))
    gaps = a[:, None] - b[None]
    theirs = {
        "cosine": 1.0 - a @ b.T,
        "euclidean": np.linalg.norm(gaps, axis=2),
        "squared_euclidean": np.sum(gaps**2, axis=2),
        "snr": np.var(gaps, axis=2) / np.var(a, axis=1)[:, None],
        "inner_product": a @ b.T,
    }
    rows = {names.split(", ")[0].strip('`"'): ours.strip('`"') for names, ours, _ in table("Distances")}
    assert rows.keys() == theirs.keys() | {"manhattan"}
    assert rows.pop("manhattan") == "none"
    for name, ours in rows.items():
        found = np.asarray(MEASURES[ours].matrix(a.astype("float32"), b.astype("float32")))
        assert (1.0 - found if name == "cosine" else found) == pytest.approx(theirs[name], abs=1e-6), name


def test_metrics_are_what_the_page_says(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "oracles")
    from retrieval_cases import space

    answers, case = load("tensorflow-similarity-metrics.json"), space("both")
    rows = {theirs.strip("`"): ours.strip("`") for theirs, ours, _ in table("Retrieval metrics")}
    assert rows.keys() == answers.keys() - {"BNDCG(k=119)"}
    assert rows.pop("MapAtK(k=4)") == "none"
    found = evaluate_retrieval(case["vectors"], case["labels"], metrics=[*rows.values(), "ndcg@119"]).values
    low = rows.pop("BNDCG(k=40)")
    assert found[low] < answers["BNDCG(k=40)"]  # an item beyond the 40 nearest costs ours something
    assert found["ndcg@119"] == pytest.approx(answers["BNDCG(k=119)"], abs=1e-6)
    assert {theirs: found[ours] for theirs, ours in rows.items()} == pytest.approx(
        {theirs: answers[theirs] for theirs in rows}, abs=1e-6
    )


@pytest.mark.parametrize("snippet", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_toml_of_the_page_is_a_loss(snippet):
    loss = tomllib.loads(snippet)["loss"]
    if loss["name"].startswith("tensorflow_similarity"):
        pytest.importorskip("tensorflow_similarity")
    assert create_loss(loss["name"], loss["params"])


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_python_of_the_page_runs(snippet):
    names: dict[str, Any] = {}
    exec(snippet, names)
    images, labels = np.zeros((4, 32, 32, 3), "float32"), np.array([0, 0, 1, 1])
    names["learner"].fit(images, labels, verbose=0)
    assert isinstance(names["learner"], keras.Model)


def test_modules_and_commands_that_the_page_names_are_there():
    for path in set(re.findall(r"`(anchorage(?:\.\w+)+)", PAGE)):
        assert pkgutil.resolve_name(path)
    verbs = create_parser()._subparsers._group_actions[0].choices
    assert set(re.findall(r"`anchorage (\w+)", PAGE)) <= set(verbs)
