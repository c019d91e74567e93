"""Train on a folder of images with one subfolder per class, evaluate on unseen classes, and search, from Python.

    python pipeline/examples/own_data.py [OUTPUT [PHOTOS]]

Without PHOTOS it draws coloured shapes. `train_plainly` is the function behind `anchorage train FILE`; with the same
settings in an experiment file, `anchorage run FILE` runs the whole pipeline and publishes a release.
"""

import sys
from pathlib import Path

import numpy as np

from anchorage import load_learner
from anchorage.data.images import load_image
from anchorage.retrieval import nearest_neighbors
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.datasets.shapes import draw_shapes
from anchorage_pipeline.plain import train_plainly

output = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own-data")
photos = Path(sys.argv[2]) if len(sys.argv) > 2 else output / "shapes"
if len(sys.argv) <= 2:
    draw_shapes(photos)

# The keys of an experiment file. Others have defaults or are chosen for the data; a small network keeps this fast.
settings = {
    "name": "own-data",
    "seed": 1,
    "data": {"path": str(photos.resolve()), "image_size": 32, "val_share": 0.25, "test_share": 0.34},
    "encoder": {"name": "small", "embedding_size": 32},
    "training": {
        "epochs": 4,
        "steps_per_epoch": 10,
        "sampler": {"name": "class_batches", "params": {"classes": 8, "per_class": 4}},
    },
}
metrics = train_plainly(Experiment.model_validate(settings), output)
print({name: round(value, 3) for name, value in metrics["values"].items()})

# The trained learner embeds any images that are decoded in the same way.
learner = load_learner(output / "learner.keras")
files = sorted(photos.glob("*/*.png"))
pixels = np.stack([load_image(file.read_bytes(), 32, "crop") for file in files])
embeddings = learner.predict(pixels, verbose=0)
rows, similarities = nearest_neighbors(embeddings[:1], embeddings, k=3, own_rows=np.array([0]))
for row, similarity in zip(rows[0], similarities[0], strict=True):
    print(f"{files[0].parent.name} -> {files[row].parent.name} ({similarity:.2f})")
