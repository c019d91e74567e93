# /// script
# requires-python = "==3.10.*"
# dependencies = ["numpy==1.26.4", "tensorflow-addons==0.23.0", "tensorflow-cpu==2.15.1"]
# ///
"""Runs the losses of TensorFlow Addons, which no newer TensorFlow can import, and keeps their values and gradients.

`uv run --script tests/oracles/tensorflow_addons_losses.py` writes tests/data/oracles/tensorflow-addons.json.
"""

from itertools import combinations

import numpy as np
from cases import answer, batches, write

OVER_BATCHES = [
    ("TripletSemiHardLoss", {}),
    ("TripletSemiHardLoss", {"margin": 0.3, "distance_metric": "squared-L2"}),
    ("TripletSemiHardLoss", {"margin": 0.2, "distance_metric": "angular"}),
    ("TripletHardLoss", {}),
    ("TripletHardLoss", {"margin": 0.3, "distance_metric": "squared-L2"}),
    ("TripletHardLoss", {"margin": 0.2, "distance_metric": "angular"}),
    ("TripletHardLoss", {"soft": True}),
    ("LiftedStructLoss", {}),
    ("LiftedStructLoss", {"margin": 0.4}),
]


def main() -> None:
    import tensorflow as tf
    import tensorflow_addons as tfa

    cases = []
    for batch, rows, labels in batches(unit=False):
        for name, params in OVER_BATCHES:
            loss = getattr(tfa.losses, name)(**params)
            cases.append(answer(tf, name, params, batch, rows, labels, lambda r, f=loss, y=labels: f(y, r)))
        pairs = tf.constant(list(combinations(range(len(labels)), 2)))
        same = (labels[pairs[:, 0]] == labels[pairs[:, 1]]).astype("int32")
        for margin in (1.0, 2.5):
            loss = tfa.losses.ContrastiveLoss(margin=margin)

            def of_all_pairs(r, f=loss, p=pairs, y=same):
                return f(y, tf.norm(tf.gather(r, p[:, 0]) - tf.gather(r, p[:, 1]), axis=1))

            cases.append(answer(tf, "ContrastiveLoss", {"margin": margin}, batch, rows, labels, of_all_pairs))
        if batch == "two_of_each":
            for name, classes in {batch: labels, "one class of two pairs": np.where(labels == 7, 3, labels)}.items():

                def of_n_pairs(r, y=classes):
                    return tfa.losses.NpairsLoss()(y[::2], tf.matmul(r[::2], r[1::2], transpose_b=True))

                cases.append(answer(tf, "NpairsLoss", {}, name, rows, classes, of_n_pairs))
    write("tensorflow-addons.json", cases)


if __name__ == "__main__":
    main()
