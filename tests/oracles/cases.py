"""The batches on which other libraries' losses are run, and the file their answers go to."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[1] / "data" / "oracles"
LABELS = {
    "two_of_each": [3, 3, 0, 0, 7, 7, 1, 1, 4, 4],
    "uneven": [5, 5, 5, 5, 2, 2, 2, 9, 9, 0, 0],
    "torn": [0, 1, 2, 3, 4, 0, 1, 2, 3, 4],  # the two items of every class lie in two far clusters
}


def batches(unit: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Names, embeddings `(N, 6)` float32, of unit length or not, and labels `(N,)` int32."""
    for number, (name, numbers) in enumerate(LABELS.items()):
        random = np.random.default_rng(number)
        labels = np.array(numbers, "int32")
        noise = random.normal(size=(len(labels), 6))
        if name == "torn":
            rows = np.repeat(np.eye(2, 6), 5, axis=0) + 0.1 * noise
        else:
            rows = 0.7 * random.normal(size=(10, 6))[labels] + 0.6 * noise
        if unit:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        yield name, rows.astype("float32"), labels


def answer(tf: Any, name: str, params: dict, batch: str, rows, labels, value_of: Callable) -> dict:
    """One case: what was put in, the mean of what `value_of(rows)` gives, and its gradient."""
    rows = tf.Variable(rows)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(value_of(tf.convert_to_tensor(rows)))
    gradient = tf.convert_to_tensor(tape.gradient(value, rows))
    return {
        "loss": name,
        "params": params,
        "batch": batch,
        "embeddings": rows.numpy().tolist(),
        "labels": labels.tolist(),
        "value": float(value),
        "gradient": gradient.numpy().tolist(),
    }


def write(file: str, cases: list[dict]) -> None:
    """Put the answers under tests/data/oracles, one case a line."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (FOLDER / file).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(cases)} cases in {FOLDER / file}")
