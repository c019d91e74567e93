import subprocess
import sys
from importlib.util import find_spec
from textwrap import dedent

import pytest

from anchorage.errors import UsageError
from anchorage_pipeline.config import load_experiment
from anchorage_pipeline.preflight import check_file, check_parts

_EXPERIMENT = """
name = "toy"
[data]
path = "images"
image_size = 32
[loss]
name = "multi_proxy_anchor"
params = { alpha = 16.0 }
[encoder]
name = "small"
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


def test_a_logger_whose_package_is_missing_names_the_extra(check, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlflow" else find_spec(name))
    with pytest.raises(UsageError, match=r"training.loggers.0.*uv sync --extra cpu --extra mlflow`"):
        check("[training]", "[training]\nloggers = ['mlflow']")


def test_a_sound_experiment_passes(check):
    check()
    check('"multi_proxy_anchor"\nparams = { alpha = 16.0 }', '"soprc"\nparams = { prior_mul = 0.1 }')
    check('name = "small"', "cache = true\ncached_copies = 2")


@pytest.mark.parametrize(
    ("old", "new", "path", "expected"),
    [
        ('name = "small"', 'name = "small"\ncache = true', "encoder.cache", "random features"),
        ('name = "small"', 'name = "small"\ncached_copies = 2', "encoder.cached_copies", "needs `cache` = true"),
        (
            'name = "small"\n[training]',
            "cache = true\n[training]\noptimizer = { rate_factors = { trunk = 0.1 } }",
            "encoder.cache",
            "`rate_factors` that train the trunk",
        ),
        ('"multi_proxy_anchor"', '"multi_proxy_anchr"', "loss.name", "Did you mean 'multi_proxy_anchor'?"),
        ("alpha = 16.0", "alpa = 16.0", "loss.params.alpa", "Did you mean 'alpha'?"),
        ("alpha = 16.0", "alpha = -1.0", "loss.params.alpha", "must be positive"),
        ("alpha = 16.0", "proxies_per_class = 1_000_000_000", "loss.params", "fit into the"),
        ("alpha = 16.0", "alpha = { low = -1.0, high = 8.0 }", "loss.params.alpha", "must be positive"),
        ("alpha = 16.0", "delt = { low = 0.1, high = 8.0 }", "loss.params.delt", "delta"),
        ('name = "small"', "name = 'smal'", "encoder.name", "small"),
        ('name = "small"', "name = 'small'\nparams = {width = [8]}", "encoder.params", "widths"),
        ('name = "small"', "name = 'small'\nweights = 'imagenet'", "encoder.weights", "no stored weights"),
        ('name = "small"', "name = 'small'\nhead = {name = 'plan'}", "encoder.head.name", "plain"),
        ("per_class = 4", "per_class = 0", "training.sampler.params.per_class", "per_class"),
        (", params = { classes = 8, per_class = 4 }", "", "training.sampler.params", "needs ['classes', 'per_class']"),
        ('"class_batches"', '"class_batch"', "training.sampler.name", "class_batches"),
        ("[training]", "[training]\naugmentation = { spin = 3 }", "training.augmentation.spin", "rotation"),
        ("[training]", "[training]\noptimizer = { name = 'adamm' }", "training.optimizer.name", "adamw"),
        ("[training]", "[training]\noptimizer = { params = { momentm = 1 } }", "training.optimizer.params", "beta_1"),
        ("[training]", "[training]\nprocedure = { name = 'class_fold' }", "training.procedure.name", "class_folds"),
        ("[training]", "[training]\nmethods = [{ name = 'moving' }]", "training.methods.0.name", "moving_average"),
        (
            "[training]",
            "[training]\nloggers = ['tensorbord']",
            "training.loggers.0.name",
            "mean 'tensorboard'?",
        ),
        (
            "[training]",
            "[training]\nloggers = [{name = 'tensorboard', params = {histogram_fre = 1}}]",
            "training.loggers.0.params.histogram_fre",
            "Did you mean 'histogram_freq'?",
        ),
        (
            'name = "multi_proxy_anchor"\nparams = { alpha = 16.0 }',
            "choices = ['contrastive', { name = 'circle', params = { gama = 1.0 } }]",
            "loss.choices.1.params.gama",
            "Did you mean 'gamma'?",
        ),
        (
            'name = "multi_proxy_anchor"\nparams = { alpha = 16.0 }',
            "choices = ['contrastive', { name = 'circle', params = { gamma = { low = -1.0, high = 8.0 } } }]",
            "loss.choices.1.params.gamma",
            "must be positive",
        ),
        (
            "alpha = 16.0 }",
            "alpha = { low = 8.0, high = 16.0 } }\n[tuning]\nparams = { points = 3 }",
            "tuning.params",
            "'random' takes",
        ),
        (
            "alpha = 16.0 }",
            "alpha = { low = 8.0, high = 16.0 } }\n[tuning]\ntuner_fn = 'nowhere.tuner_fn'",
            "tuning.tuner_fn",
            "No module named 'nowhere'",
        ),
        ("[training]", "[evaluation]\nmetrics = ['map@r', 'recal@1']\n[training]", "evaluation.metrics.1", "recall@k"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(check, old, new, path, expected):
    with pytest.raises(UsageError) as caught:
        check(old, new)
    head, *lines = str(caught.value).splitlines()
    assert head == "E_EXPERIMENT: the experiment 'toy' has mistakes:"
    assert len(lines) == 1
    assert lines[0].split()[0] == path
    assert expected in lines[0]


_CONTRASTIVE = 'name = "contrastive"\nparams = {}'
_MULTI_PROXY = 'name = "multi_proxy_anchor"\nparams = { alpha = 16.0 }'
_REST = '[encoder]\nname = "small"\n[training]'


@pytest.mark.parametrize(
    ("loss", "encoder", "training", "path", "expected"),
    [
        (
            _CONTRASTIVE,
            "",
            "methods = [{ name = 'proxy_synthesis' }]",
            "methods.0",
            "Expected a loss with one proxy per class",
        ),
        (
            _MULTI_PROXY,
            "",
            "methods = [{ name = 'moving_average' }, { name = 'chance_constrained_proxies' }]",
            "methods.1",
            "Expected a loss over pairs",
        ),
        (
            _CONTRASTIVE,
            "",
            "methods = [{ name = 'chance_constrained_proxies' }]",
            "methods.0",
            "Set `normalize = false` in the parameters of the loss",
        ),
        (
            'name = "vicreg"',
            "",
            "methods = [{ name = 'intra_class_augmentation', params = { start_epoch = 2 } }]",
            "methods.0",
            "Expected a pair loss",
        ),
        (
            'name = "ensemble"',
            "",
            "methods = [{ name = 'learned_concatenation' }]",
            "methods.0",
            "'ensemble'",
        ),
        (
            'name = "ensemble"',
            "head = { name = 'ensemble', params = { members = 2 } }",
            "",
            "loss",
            "Expected one head for each of 3 members",
        ),
        (
            _CONTRASTIVE,
            "",
            "optimizer = { frozen_steps = { trunc = 5 } }",
            "optimizer.frozen_steps",
            "Did you mean 'trunk'?",
        ),
        (
            _CONTRASTIVE,
            "",
            "optimizer = { rate_factors = { prxies = 5.0 } }",
            "optimizer.rate_factors",
            "`rate_factors` names the group 'prxies'",
        ),
        (
            _CONTRASTIVE,
            "",
            "epochs = 2\nsteps_per_epoch = 5\noptimizer = { warmup_steps = 10 }",
            "optimizer.warmup_steps",
            "less than the 10 steps",
        ),
    ],
)
def test_rejects_parts_that_do_not_fit_before_anything_runs(check, loss, encoder, training, path, expected):
    with pytest.raises(UsageError) as caught:
        check(f"{_MULTI_PROXY}\n{_REST}", f"{loss}\n[encoder]\nname = 'small'\n{encoder}\n[training]\n{training}")
    head, *lines = str(caught.value).splitlines()
    assert head == "E_EXPERIMENT: the experiment 'toy' has mistakes:"
    assert len(lines) == 1
    assert lines[0].split()[0].removeprefix("training.") == path
    assert expected in lines[0]


@pytest.mark.parametrize(
    ("loss", "training"),
    [
        (_CONTRASTIVE, "optimizer = { rate_factors = { proxies = 50.0 } }"),  # named by default, of no use here
        ('name = "softmax"', "optimizer = { rate_factors = { softmax_loss = 0.1 }, frozen_steps = { stage_0_0 = 5 } }"),
        (_CONTRASTIVE, "methods = [{ name = 'intra_class_augmentation', params = { start_epoch = 2 } }]"),
        (_CONTRASTIVE, "epochs = 2\nsteps_per_epoch = 5\noptimizer = { warmup_steps = 9 }"),
    ],
)
def test_parts_that_go_together_pass_as_often_as_one_looks(check, loss, training):
    for _ in range(2):  # Keras counts names up
        check(f"{_MULTI_PROXY}\n{_REST}", f"{loss}\n{_REST}\n{training}")


_WRONG = """
name = "Toy"
sed = 1
[data]
path = "nowhere"
[encoder]
name = "smal"
head = { name = "global_locl" }
[loss]
name = "mined"
[loss.params]
los = 3
loss = { name = "tripet" }
miner = { name = "batch_easy_hard", params = { positiv = "easy" } }
[training]
epochs = -1
sampler = { name = "class_batches", params = { class = 8, per_class = 4 } }
augmentation = { spin = 3.0, zoom = 7.0 }
optimizer = { name = "adamm" }
[[training.methods]]
name = "moving_avrage"
[[training.methods]]
name = "listwise_self_distillation"
params = { wait = 1.0, temperature = -1.0 }
[training.procedure]
name = "pseudo_clusters"
params = { num_pseudo = 3, refresh_every = 1 }
[evaluation]
metrics = ["map@r", "recal@1"]
"""


def check_text(tmp_path, text):
    """The mistakes reported for a file, by path, in order."""
    (tmp_path / "experiment.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        check_file(tmp_path / "experiment.toml")
    head, *lines = str(caught.value).splitlines()
    assert head == f"E_EXPERIMENT: {tmp_path}/experiment.toml has mistakes:"
    return dict(line.split(maxsplit=1) for line in lines)


def test_mistakes_found_without_keras_are_reported_first(tmp_path):
    result = check_text(tmp_path, _WRONG)
    assert sorted(result) == ["data.path", "evaluation.metrics.1", "name", "sed", "training.epochs"]


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    right = {"Toy": "toy", "sed = 1": "", "nowhere": ".", "epochs = -1": "epochs = 1", "recal@1": "recall@1"}
    text = _WRONG
    for wrong, mended in right.items():
        text = text.replace(wrong, mended)
    result = check_text(tmp_path, text)
    assert sorted(result) == [
        "encoder.head.name",
        "encoder.name",
        "loss.params.los",
        "loss.params.loss.name",
        "loss.params.miner.params.positiv",
        "training.augmentation.spin",
        "training.augmentation.zoom",
        "training.methods.0.name",
        "training.methods.1.params.temperature",
        "training.methods.1.params.wait",
        "training.optimizer.name",
        "training.procedure.params",
        "training.procedure.params.num_pseudo",
        "training.sampler.params",
        "training.sampler.params.class",
    ]
    assert result["training.sampler.params"].startswith("'class_batches' needs ['classes']")
    assert "Did you mean 'triplet'?" in result["loss.params.loss.name"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("", ["data", "name"]),
        ("name = 'a'\ndata = 3\n[loss]\nname = 'nt_xnt'", ["data", "loss.name"]),
        ("name = 'a'\n[data]\npath = '.'\n[loss]\nparams = { margin = 1 }", ["loss.name"]),
        # What the schema refuses is not missing as well.
        (
            "name = 'a'\n[data]\npath = '.'\n[loss]\nname = 'contrastive'\n"
            "[training]\nprocedure = { name = 'weak_labels', params = { pattern = { low = 1 } } }",
            ["training.procedure.params.pattern.high"],
        ),
        # The entries of a list keep their numbers.
        (
            "name = 'a'\n[data]\npath = '.'\n[loss]\nname = 'contrastve'\n"
            "[training]\nmethods = [{ nam = 'x' }, { name = 'moving_average' }]",
            ["loss.name", "training.methods.0.nam", "training.methods.0.name"],
        ),
        (
            "name = 'a'\n[data]\npath = '.'\n[loss]\nname = 'mind'\n[evaluation]\nprimary = 'recall@3'",
            ["evaluation", "loss.name"],
        ),
        # A method asks for what a sampler with a wrong name would have known.
        (
            "name = 'a'\n[data]\npath = '.'\n[loss]\nname = 'contrastive'\n"
            "[training]\nsampler = { name = 'represent' }\nmethods = [{ name = 'alternating_projections' }]",
            ["training.sampler.name"],
        ),
        (
            "name = 'a'\n[data]\npath = '.'\n[loss]\nname = 'ensemble'\nparams = { members = "
            "[{ name = 'triplet' }, { name = 'nt_xnt' }, { name = 'circle', params = { gama = 1.0 } }] }",
            ["loss.params.members.1.name", "loss.params.members.2.params.gama"],
        ),
        (
            "name = 'a'\n[data]\npath = '.'\n[loss]\nname = 'mined'\n"
            "params = { loss = { name = 'triplet', params = 3 } }",
            ["loss.params"],
        ),
    ],
)
def test_a_mistake_makes_no_others(tmp_path, monkeypatch, text, paths):
    monkeypatch.chdir(tmp_path)
    assert sorted(check_text(tmp_path, text)) == paths


def test_a_loss_of_ones_own_is_looked_up_too(tmp_path, monkeypatch):
    (tmp_path / "checked_loss.py").write_text(
        dedent("""
        import keras

        class OwnLoss(keras.layers.Layer):
            def __init__(self, weight, miner=None, **kwargs):
                super().__init__(**kwargs)

            def call(self, embeddings, labels):
                return keras.ops.mean(embeddings)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    rest = "name = 'a'\n[data]\npath = '.'\n[loss]\n"
    own = f"{rest}name = 'checked_loss:OwnLoss'\n"
    assert list(check_text(tmp_path, f"{own}params = {{ wait = 1.0 }}")) == ["loss.params.wait", "loss.params"]
    (tmp_path / "good.toml").write_text(f"{own}params = {{ weight = 1.0, miner = {{ name = 'of_my_own' }} }}")
    assert check_file(tmp_path / "good.toml").loss.name == "checked_loss:OwnLoss"
    assert list(check_text(tmp_path, f"{rest}name = 'checked_loss:Absent'")) == ["loss.name"]
    keras_loss = f"{rest}name = 'keras.losses:Circle'\nparams = {{ gama = 1.0 }}"
    assert list(check_text(tmp_path, keras_loss)) == ["loss.params"]


def test_stored_weights_are_not_fetched_for_a_look_at_the_file(tmp_path, monkeypatch):
    import keras

    monkeypatch.setattr(keras.utils, "get_file", lambda *a, **k: pytest.fail("weights were fetched"))
    monkeypatch.chdir(tmp_path)
    rest = "name = 'a'\n[data]\npath = '.'\n[loss]\nname = 'contrastive'\n"
    (tmp_path / "good.toml").write_text(f"{rest}[encoder]\nname = 'MobileNetV2'\nweights = 'imagenet'")
    assert check_file(tmp_path / "good.toml").encoder.weights == "imagenet"
    with_wrong_weights = f"{rest}[encoder]\nname = 'MobileNetV2'\nweights = 'imagnet'"
    assert list(check_text(tmp_path, with_wrong_weights)) == ["encoder"]


def test_a_file_that_the_schema_refuses_loads_neither_keras_nor_tensorflow(tmp_path):
    (tmp_path / "wrong.toml").write_text(_WRONG)
    code = (
        "import sys\nfrom anchorage_pipeline.cli import main\nstatus = main(['check', sys.argv[1]])\n"
        "loaded = {'keras', 'tensorflow', 'tfx', 'apache_beam'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "wrong.toml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    result = done.stderr.partition("wrong.toml has mistakes:\n")[2]
    assert len(result.splitlines()) == 5
