"""What the short commands load; each case in a process of its own, where nothing is loaded yet."""

import os
import subprocess
import sys

import numpy as np
import pytest

from anchorage.retrieval.table import Embeddings, write_ids

_OFFERED = {"IPython", "googleapiclient", "matplotlib", "pandas", "scipy", "sklearn"}


def run(code):
    """Run code as from a user's shell: TFX, once loaded here, leaves variables that make its children load more."""
    shell = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "HOME") if key in os.environ}
    done = subprocess.run([sys.executable, "-c", code], env=shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def ids(tmp_path):
    texts = np.array(["a", "b"], object)
    path = tmp_path / "ids.parquet"
    write_ids(path, Embeddings(texts, texts, texts, texts, np.eye(2, dtype=np.float32)))
    return path


@pytest.mark.thorough
def test_a_search_waits_for_tensorflow_alone(ids):
    run(
        f"""
import sys
from anchorage_pipeline.startup import load_tensorflow
load_tensorflow()
import anchorage.serving.searcher
from anchorage.reporting.pictures import Answered, draw_sheet
from anchorage.retrieval.table import read_ids
assert read_ids({str(ids)!r})["id"].tolist() == ["a", "b"]
draw_sheet([Answered("a", "query", None, [])], {str(ids.with_suffix(".png"))!r})
assert not {{"keras", *{_OFFERED!r}}} & set(sys.modules), {{"keras", *{_OFFERED!r}}} & set(sys.modules)
import keras
import tensorflow as tf
assert tf.keras.layers.Dense is keras.layers.Dense
"""
    )


@pytest.mark.thorough
def test_keras_is_whole_without_what_it_offers_to_work_with():
    run(
        f"""
import sys
from anchorage_pipeline.startup import load_keras
load_keras()
import keras
assert not {_OFFERED!r} & set(sys.modules)
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
import matplotlib.pyplot, pandas, sklearn.metrics
"""
    )
