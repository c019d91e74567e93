# /// script
# requires-python = ">=3.11"
# dependencies = ["pytorch-metric-learning==2.9.0", "torch==2.13.0", "numpy>=2", "scikit-learn>=1.5"]
# ///
"""Writes what pytorch-metric-learning's AccuracyCalculator says of the spaces in `retrieval_cases.py`.

uv run tests/oracles/metric_learning_metrics.py > tests/data/oracles/metric-learning-metrics.json
"""

import json
import sys
from importlib.metadata import version

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from retrieval_cases import space

OURS = {
    "precision_at_1": "precision@1",
    "r_precision": "r_precision",
    "mean_average_precision_at_r": "map@r",
    "mean_average_precision": "map",
    "mean_reciprocal_rank": "mrr",
}


def main() -> None:
    answers: dict = {"version": version("pytorch-metric-learning")}
    for kind in ("both", "roles"):
        case = space(kind)
        vectors, labels = torch.tensor(case["vectors"]).double(), torch.tensor(case["labels"])
        asks, found = torch.tensor(case["roles"] != "gallery"), torch.tensor(case["roles"] != "query")
        calculator = AccuracyCalculator(include=tuple(OURS), k=None, knn_func=CustomKNN(CosineSimilarity()))
        answered = calculator.get_accuracy(
            vectors[asks], labels[asks], vectors[found], labels[found], ref_includes_query=kind == "both"
        )
        answers[kind] = {ours: float(answered[theirs]) for theirs, ours in OURS.items()}
    json.dump(answers, sys.stdout, indent=1)
    print()


main()
