"""Train on several machines: Keras on JAX, one process per machine, one loss over the joined batch.

    KERAS_BACKEND=jax python several_processes.py --processes 2 --rank 0 --coordinator localhost:8476 learner.keras &
    KERAS_BACKEND=jax python several_processes.py --processes 2 --rank 1 --coordinator localhost:8476 learner.keras

Needs `anchorage` and Keras on JAX. After an interruption, start all processes again: they go on from the last epoch.
"""

import argparse

import keras
import numpy as np

from anchorage import MetricLearner
from anchorage.data.sampling import ClassBatches
from anchorage.losses import MultiSimilarityLoss
from anchorage.processes import SharedCheckpoint, join_processes, local_part

STEPS = 10  # of an epoch

parser = argparse.ArgumentParser()
parser.add_argument("checkpoint", help="file that all processes share; it is the result, too")
parser.add_argument("--processes", type=int, default=1)
parser.add_argument("--rank", type=int, default=0)
parser.add_argument("--coordinator", default="localhost:8476")
parser.add_argument("--epochs", type=int, default=5)
options = parser.parse_args()

join_processes(options.coordinator, options.processes, options.rank)
keras.utils.set_random_seed(1)  # the same in all processes

# The rows of every process; each could read its own part of the batches from a disk, too.
draws = np.random.default_rng(1)
labels = np.repeat(np.arange(12), 20)
rows = draws.standard_normal((240, 64)).astype("float32")
rows[:, :8] = draws.standard_normal((12, 8))[labels] + 0.3 * rows[:, :8]
sampler = ClassBatches(labels, classes=8, per_class=4, seed=1)


def batches(step):
    """This process's part of each batch, from a step on."""
    while True:
        chosen = local_part(sampler.batch(step))
        yield rows[chosen], labels[chosen]
        step += 1


checkpoint = SharedCheckpoint(options.checkpoint, STEPS)
if saved := checkpoint.load():
    learner, epoch = saved
else:
    encoder = keras.Sequential([keras.Input((64,)), keras.layers.Dense(16), keras.layers.UnitNormalization()])
    learner, epoch = MetricLearner(encoder, MultiSimilarityLoss()), 0
    learner.compile(optimizer=keras.optimizers.Adam(0.01))
epochs = {"initial_epoch": epoch, "epochs": options.epochs, "steps_per_epoch": STEPS}
history = learner.fit(batches(epoch * STEPS), **epochs, callbacks=[checkpoint], verbose=0)
for number, loss in zip(history.epoch, history.history.get("loss", []), strict=True):
    print(f"epoch {number + 1}: loss {loss:.6f}")
