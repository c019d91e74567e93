"""What raw pixels find on the test half of a data set, the floor for any model; `python tests/benchmarks/pixels.py`."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from models.data.listing import list_images
from models.retrieval.metrics import evaluate_retrieval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/icons"), help="folder of `anchorage data`")
    parser.add_argument("--side", type=int, default=32, help="pixels an image is brought to, grey (default: 32)")
    options = parser.parse_args()
    table = options.data / "manifest.csv"
    listing = list_images(options.data, table, {"label": "class"}, val_share=0.1, test_share=0.5, seed=1)
    test = [source for source in listing.sources if source.split == "test"]
    size = (options.side, options.side)
    images = [Image.open(options.data / source.path).convert("L").resize(size, Image.Resampling.BOX) for source in test]
    vectors = np.stack([np.asarray(image, np.float32).ravel() for image in images])
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    result = evaluate_retrieval(
        vectors, [source.label for source in test], metrics=["recall@1", "map@r", "r_precision", "ndcg@10"]
    )
    told = "  ".join(f"{name} {100 * value:.1f}" for name, value in result.values.items())
    print(f"{told}  (percent; {result.num_queries} queries, test half of {options.data})")


if __name__ == "__main__":
    main()
