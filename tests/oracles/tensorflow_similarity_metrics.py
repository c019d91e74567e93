# /// script
# requires-python = "==3.10.*"
# dependencies = [
#   "nmslib==2.1.2", "numpy==1.26.4", "tensorflow-cpu==2.15.1", "tensorflow-metadata<1.15",
#   "tensorflow-similarity==0.17.1",
# ]
# ///
"""Writes what the retrieval metrics of TensorFlow Similarity say of the space "both" in `retrieval_cases.py`.

`uv run --script tests/oracles/tensorflow_similarity_metrics.py` writes
tests/data/oracles/tensorflow-similarity-metrics.json.
"""

import json
from pathlib import Path

import numpy as np
from retrieval_cases import scores, space

PATH = Path(__file__).parents[1] / "data" / "oracles" / "tensorflow-similarity-metrics.json"


def main() -> None:
    import tensorflow as tf
    import tensorflow_similarity.retrieval_metrics as theirs

    case = space("both")
    queries, products = scores(case)
    nearest = np.argsort(-products[queries], axis=1)[:, :-1]  # the last one is the query itself
    found = {
        "query_labels": tf.constant(case["labels"][queries]),
        "lookup_distances": tf.constant(1.0 - np.take_along_axis(products[queries], nearest, axis=1), tf.float32),
        "match_mask": tf.constant(case["labels"][nearest] == case["labels"][queries, None]),
    }
    names, counts = np.unique(case["labels"], return_counts=True)
    others = dict(zip(names.tolist(), (counts - 1).tolist(), strict=True))
    metrics = {
        "RecallAtK(k=4)": theirs.RecallAtK(k=4),
        "PrecisionAtK(k=4)": theirs.PrecisionAtK(k=4),
        "PrecisionAtK(k=40, clip_at_r=True)": theirs.PrecisionAtK(k=40, clip_at_r=True, r=others),
        "MapAtK(k=40, clip_at_r=True)": theirs.MapAtK(k=40, clip_at_r=True, r=others),
        "MapAtK(k=4)": theirs.MapAtK(k=4, r=others),
        "BNDCG(k=40)": theirs.BNDCG(k=40),
        "BNDCG(k=119)": theirs.BNDCG(k=119),
    }
    answers = {name: float(metric.compute(**found)) for name, metric in metrics.items()}
    PATH.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    print(f"{len(answers)} metrics in {PATH}")


if __name__ == "__main__":
    main()
