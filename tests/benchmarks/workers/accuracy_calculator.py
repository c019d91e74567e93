# /// script
# requires-python = ">=3.11"
# dependencies = ["pytorch-metric-learning==2.9.0", "torch==2.13.0", "faiss-cpu>=1.12", "numpy>=2", "scikit-learn>=1.5"]
# ///
"""Run pytorch-metric-learning's AccuracyCalculator with faiss on saved vectors, and print costs and values as JSON.

Called by `tests/benchmarks/evaluation.py --peer PYTHON` as `PYTHON accuracy_calculator.py SPACE.npz`.
"""

import json
import sys
import time

import numpy as np
import torch
from memory import resident_peak
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN

METRICS = ("precision_at_1", "r_precision", "mean_average_precision_at_r")


def main() -> None:
    space = np.load(sys.argv[1])
    vectors, labels = torch.from_numpy(space["vectors"]), torch.from_numpy(space["labels"])
    small = AccuracyCalculator(include=METRICS, k="max_bin_count", knn_func=CustomKNN(CosineSimilarity()))
    small.get_accuracy(vectors[:2000], labels[:2000] % 100, vectors[:2000], labels[:2000] % 100, True)  # warm up
    calculator = AccuracyCalculator(include=METRICS, k="max_bin_count", knn_func=FaissKNN())
    values = {}
    cpu, wall = time.process_time(), time.perf_counter()
    mib = resident_peak(lambda: values.update(calculator.get_accuracy(vectors, labels, vectors, labels, True)))
    costs = (time.process_time() - cpu, time.perf_counter() - wall, mib / 2**10)
    print(json.dumps({"costs": costs, "values": {name: float(value) for name, value in values.items()}}))


main()
