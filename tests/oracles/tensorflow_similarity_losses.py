# /// script
# requires-python = "==3.10.*"
# dependencies = [
#   "nmslib==2.1.2", "numpy==1.26.4", "tensorflow-cpu==2.15.1", "tensorflow-metadata<1.15",
#   "tensorflow-similarity==0.17.1",
# ]
# ///
"""Runs the losses of TensorFlow Similarity on Keras 2, for which they were written; keeps their values and gradients.

`uv run --script tests/oracles/tensorflow_similarity_losses.py` writes tests/data/oracles/tensorflow-similarity.json.
"""

from typing import Any

import numpy as np
from cases import answer, batches, write

OVER_BATCHES = [
    ("TripletLoss", {"negative_mining_strategy": "hard", "margin": 0.1}),
    ("TripletLoss", {"negative_mining_strategy": "hard", "distance": "euclidean"}),
    ("TripletLoss", {"negative_mining_strategy": "hard", "distance": "snr", "margin": 0.5}),
    ("TripletLoss", {}),
    ("TripletLoss", {"distance": "sql2", "margin": 0.5}),
    ("TripletLoss", {"positive_mining_strategy": "easy", "negative_mining_strategy": "hard", "margin": 0.5}),
    ("PNLoss", {}),
    ("PNLoss", {"distance": "euclidean", "margin": 1.0}),
    ("MultiSimilarityLoss", {}),
    ("MultiSimilarityLoss", {"alpha": 3.0, "beta": 20.0, "epsilon": 0.3, "lmda": 0.4}),
    ("CircleLoss", {}),
    ("CircleLoss", {"gamma": 24.0, "margin": 0.25}),
    ("SoftNearestNeighborLoss", {}),
    ("SoftNearestNeighborLoss", {"temperature": 0.25}),
]
OVER_VIEWS = [
    ("SimCLRLoss", {"temperature": 0.2}, 1),
    ("SimSiamLoss", {}, 1),
    ("Barlow", {}, 1),
    ("MultiNegativesRankLoss", {"scale": 5.0}, 1),
    ("VicReg", {}, 1),
    ("VicReg", {}, 20),
    ("VicReg", {"mu": 0.0}, 1),
]


def main() -> None:
    import tensorflow as tf
    import tensorflow_similarity.losses as theirs

    cases = []
    for batch, rows, labels in batches(unit=True):
        for name, params in OVER_BATCHES:
            loss = getattr(theirs, name)(**params)
            cases.append(answer(tf, name, params, batch, rows, labels, lambda r, f=loss, y=labels: f(y, r)))
        if batch == "two_of_each":
            for name, params, scale in OVER_VIEWS:
                loss = getattr(theirs, name)(**params)
                case = answer(tf, name, params, batch, scale * rows, labels, lambda r, f=loss: f(r[::2], r[1::2]))
                cases.append({**case, "batch": f"{scale} times {batch}"})
    write("tensorflow-similarity.json", cases + memory_cases(tf, theirs))


def memory_cases(tf: Any, theirs: Any) -> list[dict]:
    """Cross-batch memory over four steps; values only, as theirs lets the gradient into the memory."""
    loss = theirs.XBM(theirs.MultiSimilarityLoss(), memory_size=20)
    _, rows, labels = next(batches(unit=True))
    steps = [(np.roll(rows, step, axis=1), np.roll(labels, 3 * step)) for step in range(4)]
    return [
        {
            "loss": "XBM",
            "params": {"memory_size": 20},
            "batch": f"step {number}",
            "embeddings": embeddings.tolist(),
            "labels": own.tolist(),
            "value": float(tf.reduce_mean(loss(own, embeddings))),
        }
        for number, (embeddings, own) in enumerate(steps)
    ]


if __name__ == "__main__":
    main()
