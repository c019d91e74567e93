"""Train some losses for fifty steps in one of several processes. Arguments: coordinator, processes, rank, file."""

import sys

import keras
import numpy as np

from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.processes import join_processes, local_part

# Pairs of the joined batch, proxies, a ranking of all pairs, and a memory that lives as long as the training.
LOSSES = {
    "contrastive": {},
    "proxy_anchor": {},
    "smooth_ap": {},
    "cross_batch_memory": {"loss": {"name": "contrastive"}, "memory_size": 32},
}
draws = np.random.default_rng(0)
rows, labels = draws.normal(size=(64, 6)).astype("float32"), np.arange(64) % 5


def batches():
    step = 0
    while True:
        chosen = local_part((16 * step + np.arange(16)) % 64)
        yield rows[chosen], labels[chosen]
        step += 1


if __name__ == "__main__":
    coordinator, processes, rank, answers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    join_processes(coordinator, processes, rank)
    results = {}
    for name, params in LOSSES.items():
        keras.utils.set_random_seed(1)
        encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.UnitNormalization()])
        learner = MetricLearner(encoder, create_loss(name, params, num_classes=5))
        learner.compile(optimizer=keras.optimizers.Adam(1e-2))
        history = learner.fit(batches(), epochs=5, steps_per_epoch=10, verbose=0).history["loss"]
        results[f"{name} loss"] = np.array(history)
        for number, variable in enumerate(learner.variables):
            results[f"{name} {number}"] = np.asarray(variable.value)
    if rank == 0:
        np.savez(answers, **results)
