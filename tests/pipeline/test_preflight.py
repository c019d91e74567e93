import pytest

from models.errors import UsageError
from pipeline.config import load_experiment
from pipeline.preflight import check_parts

_EXPERIMENT = """
name = "toy"
[data]
path = "images"
image_size = 32
[loss]
name = "multi_proxy_anchor"
params = { alpha = 16.0 }
[training]
sampler = { name = "class_batches", params = { classes = 8, per_class = 4 } }
"""


@pytest.fixture
def check(tmp_path):
    """Checks the experiment after one replacement in its text."""

    def check(old="", new=""):
        assert old in _EXPERIMENT
        path = tmp_path / "experiment.toml"
        path.write_text(_EXPERIMENT.replace(old, new) if old else _EXPERIMENT)
        check_parts(load_experiment(path))

    return check


def test_a_sound_experiment_passes(check):
    check()
    check('"multi_proxy_anchor"\nparams = { alpha = 16.0 }', '"soprc"\nparams = { prior_mul = 0.1 }')


@pytest.mark.parametrize(
    ("old", "new", "section", "told"),
    [
        ('"multi_proxy_anchor"', '"multi_proxy_anchr"', "loss", "multi_proxy_anchor"),
        ("alpha = 16.0", "alfa = 16.0", "loss", "alpha"),
        ("alpha = 16.0", "alpha = -1.0", "loss", "must be positive"),
        ("alpha = 16.0", "alpha = { low = -1.0, high = 8.0 }", "loss", "must be positive"),
        ("alpha = 16.0", "delta = { low = 0.1, high = 8.0 }", "loss", "delta"),
        ("image_size = 32", "image_size = 32\n[encoder]\nname = 'smal'", "encoder", "small"),
        ("per_class = 4", "per_class = 0", "training.sampler", "per_class"),
        ('"class_batches"', '"class_batch"', "training.sampler", "class_batches"),
        ("[training]", "[training]\naugmentation = { spin = 3 }", "training.augmentation", "rotation"),
        ("[training]", "[training]\noptimizer = { name = 'adamm' }", "training.optimizer", "adamw"),
        ("[training]", "[evaluation]\nmetrics = ['map@r', 'recal@1']\n[training]", "evaluation.metrics", "recall@k"),
    ],
)
def test_what_is_wrong_is_named_with_its_section(check, old, new, section, told):
    with pytest.raises(UsageError) as caught:
        check(old, new)
    assert f"[{section}]" in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
