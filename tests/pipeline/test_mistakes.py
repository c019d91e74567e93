from anchorage.errors import UsageError
from anchorage_pipeline.config import load_experiment

_WRONG = """
name = "Toy"
image_size = 3
[data]
path = "images"
image_sise = 32
fit = "cro"
columns = { lable = "x" }
val_share = 1.5
[loss]
name = "contrastive"
params = { margin = { lo = 1, high = 3 } }
[training]
epochs = "x"
learning_rate = 3
zoom = 3
[tuning]
trials = true
"""


def test_mistakes_are_reported_with_the_nearest_known_names(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text(_WRONG)
    try:
        load_experiment(path)
    except UsageError as error:
        lines = dict(line.split(maxsplit=1) for line in error.message.splitlines()[1:])
    assert lines == {
        "name": 'Expected 1 to 63 of the characters a-z, 0-9 and -, not starting with -. Received: "Toy".',
        "image_size": "unknown key. Did you mean 'data.image_size'?",
        "data.image_sise": "unknown key. Did you mean 'image_size'?",
        "data.fit": "Expected 'crop', 'pad' or 'squash'. Received: \"cro\". Did you mean 'crop'?",
        "data.columns.lable": (
            "Expected 'path', 'label', 'split', 'role', 'vector' or 'id'. Received: \"lable\". Did you mean 'label'?"
        ),
        "data.val_share": "Expected a number below 1. Received: 1.5.",
        "loss.params.margin.low": "is missing",
        "loss.params.margin.lo": "unknown key. Did you mean 'low'?",
        "training.epochs": 'Expected an integer. Received: "x".',
        "training.learning_rate": "unknown key. Did you mean 'training.optimizer.learning_rate'?",
        "training.zoom": "unknown key.",
        "tuning.trials": "Expected an integer. Received: true.",
    }
