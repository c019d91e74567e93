"""What a user of the wheel runs, beside a package `models` of their own: train, save, load; prints what was loaded.

    python user_program.py FOLDER_OF_THE_INSTALLED_WHEEL

Needs Keras, NumPy and JAX or PyTorch, and nothing of this project but the wheel.
"""

# ruff: noqa: E402 - the platform and the backend are settled before Keras is imported
import importlib.util
import json
import os
import sys
from importlib import metadata
from pathlib import Path

sys.modules["fcntl"] = None  # type: ignore[assignment]  # Windows has none
os.environ.setdefault("KERAS_BACKEND", "jax" if importlib.util.find_spec("jax") else "torch")

import keras
import models.mine  # the user's own
import numpy as np

import anchorage
from anchorage.data.sampling import ClassBatches
from anchorage.losses import LOSSES, MultiSimilarityLoss, SoftTripleLoss
from anchorage.methods import MovingAverage
from anchorage.mining import PairMarginMiner
from anchorage.retrieval import evaluate_retrieval

assert models.mine.NAME == "the user's own"
assert Path(anchorage.__file__).is_relative_to(Path(sys.argv[1]).resolve()), anchorage.__file__
assert anchorage.__version__ == metadata.version("anchorage") != "0+unknown"
PairMarginMiner()

keras.utils.set_random_seed(1)
draws = np.random.default_rng(1)
labels = np.repeat(np.arange(4), 16)
images = (np.eye(4)[labels] + 0.5 * draws.standard_normal((64, 4))).astype("float32")
learner = None
for loss, methods in ((SoftTripleLoss(num_classes=4), [MovingAverage()]), (MultiSimilarityLoss(), [])):
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.UnitNormalization()])
    learner = anchorage.MetricLearner(encoder, loss, methods)
    learner.compile(optimizer=keras.optimizers.Adam(0.01))
    sampler = ClassBatches(labels, classes=4, per_class=4, seed=1)
    rows = np.concatenate([sampler.batch(step) for step in range(16)])
    history = learner.fit(images[rows], labels[rows], batch_size=16, epochs=2, shuffle=False, verbose=0).history
    assert history["loss"][-1] < history["loss"][0], history
    embeddings = learner.predict(images, verbose=0)

    learner.save("learner.keras")
    loaded = anchorage.load_learner("learner.keras")
    assert np.allclose(loaded.predict(images, verbose=0), embeddings, atol=1e-6)
    assert type(loaded.loss_layer) is type(loss)

recall = evaluate_retrieval(embeddings, labels, metrics=["recall@1"]).values["recall@1"]
assert recall > 0.5, recall


def top(name):
    return name.partition(".")[0]


loaded = {top(name) for name, module in sys.modules.items() if module is not None}
print(
    json.dumps(
        {
            "python": list(sys.version_info[:2]),
            "backend": keras.backend.backend(),
            "losses": len(LOSSES),
            "modules": sorted(loaded - sys.stdlib_module_names),
        }
    )
)
