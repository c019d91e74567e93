"""Train with a loss and a sampler of `anchorage` in plain Keras, and evaluate on unseen classes.

    python pipeline/examples/losses_only.py

Needs `anchorage` and any Keras backend, but not the pipeline.
"""

import keras
import numpy as np

from anchorage import MetricLearner
from anchorage.data.sampling import ClassBatches
from anchorage.losses import MultiSimilarityLoss
from anchorage.retrieval import evaluate_retrieval

keras.utils.set_random_seed(1)
draws = np.random.default_rng(1)

# 24 classes that differ in 8 of 64 dimensions; the other 56 are noise. Half of the classes are held out for the test.
labels = np.repeat(np.arange(24), 20)
rows = draws.standard_normal((480, 64)).astype("float32")
rows[:, :8] = draws.standard_normal((24, 8))[labels] + 0.3 * rows[:, :8]
training, test = labels < 12, labels >= 12

encoder = keras.Sequential([keras.Input((64,)), keras.layers.Dense(16), keras.layers.UnitNormalization()])
learner = MetricLearner(encoder, MultiSimilarityLoss())
learner.compile(optimizer=keras.optimizers.Adam(0.01))

# Each batch has 8 classes with 4 rows each, so that every anchor has positives and negatives.
sampler = ClassBatches(labels[training], classes=8, per_class=4, seed=1)
order = np.concatenate([sampler.batch(step) for step in range(100)])
before = evaluate_retrieval(learner.predict(rows[test], verbose=0), labels[test])
learner.fit(rows[training][order], labels[training][order], batch_size=32, epochs=2, shuffle=False, verbose=0)
after = evaluate_retrieval(learner.predict(rows[test], verbose=0), labels[test])

for metric in ("recall@1", "map@r"):
    print(f"{metric} on unseen classes: {before.values[metric]:.3f} before training, {after.values[metric]:.3f} after")
