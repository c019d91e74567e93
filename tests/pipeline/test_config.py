import dataclasses
import shlex

import pytest

from anchorage.errors import UsageError
from anchorage.judging.settings import JudgeSettings
from anchorage.tuning.ranges import Condition, Range, apply_values, grid_size
from anchorage_pipeline.config import Evaluation, load_experiment
from anchorage_pipeline.identity import training_settings
from anchorage_pipeline.values import search_space

_LEAST = """
name = "toy"
[data]
path = "images"
[loss]
name = "contrastive"
"""


@pytest.fixture
def write(tmp_path):
    """Puts a document on disk and gives its path."""

    def write(text):
        path = tmp_path / "experiment.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_least_file_gets_defaults(write):
    experiment = load_experiment(write('name = "toy"\n[data]\npath = "images"'))
    assert (experiment.encoder.name, experiment.encoder.weights) == ("efficientnet_lite0", "imagenet")
    assert (experiment.loss, experiment.training.sampler, experiment.training.optimizer.learning_rate) == (None,) * 3
    assert experiment.evaluation.primary == "map@r"
    assert search_space(experiment) == []


def test_a_network_that_is_named_starts_from_random_weights(write):
    for name in ("small", "efficientnet_lite0"):
        assert load_experiment(write(f'{_LEAST}[encoder]\nname = "{name}"')).encoder.weights is None
    unnamed = load_experiment(write(f"{_LEAST}[encoder]\nembedding_size = 64")).encoder
    assert (unnamed.name, unnamed.weights, unnamed.embedding_size) == ("efficientnet_lite0", "imagenet", 64)


def test_the_card_reaches_report_and_manifest(write):
    from anchorage_pipeline.provenance import describe_run

    keys = {"intended_use", "limits", "license"}
    path = write(f"{_LEAST}[card]\nintended_use = 'Icons.'\nlimitations = ['No photos.']\nlicense = 'mit'")
    facts = describe_run(load_experiment(path), "folder")
    assert {key: facts[key] for key in keys} == {"intended_use": "Icons.", "limits": ["No photos."], "license": "mit"}
    assert not keys & set(describe_run(load_experiment(write(_LEAST)), "folder"))


def test_all_mistakes_are_reported_at_once_with_their_paths(write):
    text = _LEAST + "margin = 3\n[training]\nepochs = -1\nlearning_rat = 3\n[training.optimizer]\nlearning_rate = -1\n"
    with pytest.raises(UsageError) as caught:
        load_experiment(write(text))
    message = str(caught.value)
    assert caught.value.code == "E_EXPERIMENT"
    for path in ("loss.margin", "training.epochs", "training.learning_rat", "training.optimizer.learning_rate"):
        assert f"\n  {path} " in message
    assert message.count("\n") == 4


def test_values_do_not_change_after_loading(write):
    experiment = load_experiment(write(_LEAST))
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 3


def test_ranges_are_found_wherever_they_stand(write):
    text = _LEAST + (
        "params = { margin = { low = 0.05, high = 0.5 }, mode = { choices = ['a', 'b'] } }\n"
        "[training.optimizer]\nlearning_rate = { low = 1e-4, high = 1e-2, sampling = 'log', step = 10 }\n"
        "[training.sampler]\nname = 'class_batches'\nparams = { classes = { choices = [16, 32], default = 32 } }\n"
    )
    assert search_space(load_experiment(write(text))) == [
        Range("loss.params.margin", low=0.05, high=0.5),
        Range("loss.params.mode", choices=("a", "b")),
        Range("training.sampler.params.classes", choices=(16, 32), default=32),
        Range("training.optimizer.learning_rate", low=1e-4, high=1e-2, sampling="log", step=10),
    ]


def test_a_logarithmic_range_may_be_written_as_in_former_files(write):
    text = _LEAST + "params = { margin = { low = 0.05, high = 0.5, log = true } }\n"
    assert search_space(load_experiment(write(text))) == [
        Range("loss.params.margin", low=0.05, high=0.5, sampling="log")
    ]


def test_parts_to_choose_from_bring_their_own_ranges(write):
    text = """
name = "toy"
data = { path = "." }
[[loss.choices]]
name = "multi_similarity"
[[loss.choices]]
name = "balanced_contrastive"
params = { lam = { low = 0.01, high = 100.0, sampling = "log", default = 1.0 } }
[training]
sampler = { choices = ["class_batches", { name = "n_pair_batches", params = { pairs = { choices = [8, 16] } } }] }
methods = [{ choices = ["none", "moving_average"], default = "moving_average" }]
"""
    experiment = load_experiment(write(text))
    space = search_space(experiment)
    assert space == [
        Range("loss", choices=("multi_similarity", "balanced_contrastive")),
        Range(
            "loss.choices.1.params.lam",
            low=0.01,
            high=100.0,
            sampling="log",
            default=1.0,
            condition=Condition("loss", "balanced_contrastive"),
        ),
        Range("training.sampler", choices=("class_batches", "n_pair_batches")),
        Range(
            "training.sampler.choices.1.params.pairs",
            choices=(8, 16),
            condition=Condition("training.sampler", "n_pair_batches"),
        ),
        Range("training.methods.0", choices=("none", "moving_average"), default="moving_average"),
    ]
    assert grid_size(space) == (1 + 5) * (1 + 2) * 2
    settings = training_settings(experiment)
    values = {"loss": "balanced_contrastive", "loss.choices.1.params.lam": 2.0}
    values |= {"training.sampler": "class_batches", "training.methods.0": "none"}
    applied = apply_values(settings, values)
    assert applied["loss"] == {"name": "balanced_contrastive", "params": {"lam": 2.0, "proxies_per_class": None}}
    assert applied["training"]["sampler"] == {"name": "class_batches", "params": {}}
    assert applied["training"]["methods"] == []
    assert apply_values(settings, {**values, "training.methods.0": "moving_average"})["training"]["methods"] == [
        {"name": "moving_average", "params": {}}
    ]


def test_building_blocks_stand_inside_others(write):
    """A loss may hold losses, alone or in a list, and these may hold ranges."""
    text = _LEAST + (
        "[loss.params]\nmembers = [{ name = 'triplet', params = { margin = { low = 0.1, high = 0.3 } } }]\n"
        "miner = { name = 'pair_margin' }\nreducer = { name = 'threshold', low = 0.1 }\n"
    )
    experiment = load_experiment(write(text))
    assert search_space(experiment) == [Range("loss.params.members.0.params.margin", low=0.1, high=0.3)]
    params = experiment.loss.model_dump(mode="json")["params"]
    assert params["miner"] == {"name": "pair_margin"}
    assert params["reducer"] == {"name": "threshold", "low": 0.1}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("{ margin = { low = 0.5, high = 0.05 } }", "`low` must be below `high`"),
        ("{ margin = { low = 0.0, high = 0.5, sampling = 'log' } }", "must lie above 0"),
        ("{ margin = { low = 0.1, high = 0.5, sampling = 'logarithmic' } }", "Expected 'linear' or 'log'"),
        ("{ margin = { low = 0.1, high = 0.5, step = 0 } }", "`step` must be above 0"),
        ("{ margin = { low = 0.1, high = 0.5, sampling = 'log', step = 1 } }", "`step` must be above 1"),
        ("{ margin = { low = 0.1, high = 0.5, default = 0.6 } }", "`default` must lie in the range"),
        ("{ margin = { low = 1, high = 5, step = 0.5 } }", "write `low` as 1.0"),
        ("{ margin = { choices = [1, 'a'] } }", "must be of one kind"),
        ("{ margin = { choices = [1, 2, 1] } }", "must be distinct. Received twice: 1"),
        ("{ margin = { choices = [1, 2], default = 3 } }", "must be one of the choices"),
        ("{ margin = { choices = [1] } }", "at least 2 items"),
        ("{ margin = { low = 0.5 } }", "loss.params.margin.high"),
        ("{ loss = { name = 'triplet', params = { margin = { low = 0.5 } } } }", "loss.params.loss.params.margin.high"),
    ],
)
def test_an_invalid_range_is_reported_once(write, params, expected):
    with pytest.raises(UsageError, match=expected) as caught:
        load_experiment(write(_LEAST + f"params = {params}"))
    assert str(caught.value).count("\n") == 1


def test_only_measured_metrics_can_judge(write):
    with pytest.raises(UsageError, match=r"Not among them: \['recall@3'\]"):
        load_experiment(write(_LEAST + "[evaluation]\nprimary = 'recall@3'"))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("choices = ['triplet']", "loss.choices  Expected a list with at least 2 items"),
        ("choices = ['triplet', 'triplet']", "loss  `choices` must be distinct. Received twice: 'triplet'"),
        ("choices = ['triplet', 'nca']\ndefault = 'circle'", "loss  `default` must be one of the choices"),
        ("choices = ['triplet', { params = {} }]", "loss.choices.1.name  is missing"),
        ("choices = ['triplet', 'nca']\nparams = {}", "loss.params  unknown key"),
        (
            "choices = ['nca', { name = 'triplet', params = { margin = { low = 1.0 } } }]",
            "loss.choices.1.params.margin.high  is missing",
        ),
    ],
)
def test_wrong_parts_to_choose_from_are_reported_once(write, loss, expected):
    with pytest.raises(UsageError) as caught:
        load_experiment(write(f"name = 'toy'\ndata = {{ path = '.' }}\n[loss]\n{loss}\n"))
    assert expected in str(caught.value)
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(("text", "code"), [("name = ", "E_EXPERIMENT_SYNTAX"), (None, "E_EXPERIMENT_MISSING")])
def test_unreadable_files_have_their_own_codes(write, tmp_path, text, code):
    path = tmp_path / "nowhere.toml" if text is None else write(text)
    with pytest.raises(UsageError) as caught:
        load_experiment(path)
    assert caught.value.code == code
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("path", "table", "value"),
    [
        ("data.path", "data", 'path = ""'),
        ("data.path", "data", 'path = "a\\u0000b"'),
        ("data.path", "data", f'path = "{"a" * 2_000}"'),
        ("data.val_share", "data", "val_share = nan"),
        ("data.test_share", "data", "test_share = 1.0"),
        ("data.image_size", "data", "image_size = 1_000_000"),
        ("data.image_size", "data", "image_size = true"),
        ("data.max_pixels", "data", "max_pixels = 10_000_000_000"),
        ("data.max_rejects", "data", "max_rejects = 1e3"),
        ("encoder.embedding_size", "encoder", "embedding_size = 1_000_000"),
        ("encoder.embedding_size", "encoder", 'embedding_size = "128"'),
        ("training.epochs", "training", f"epochs = {10**26}"),
        ("training.epochs", "training", "epochs = true"),
        ("training.steps_per_epoch", "training", f"steps_per_epoch = {10**10}"),
        ("training.augmentation.zoom", "training", "augmentation = { zoom = inf }"),
        ("training.augmentation.zoom", "training", 'augmentation = { zoom = "1" }'),
        ("training.optimizer.learning_rate", "training.optimizer", "learning_rate = inf"),
        ("training.optimizer.learning_rate", "training.optimizer", "learning_rate = nan"),
        ("training.optimizer.learning_rate", "training.optimizer", "learning_rate = true"),
        ("training.optimizer.learning_rate.high", "training.optimizer", "learning_rate = { low = 1e-3, high = inf }"),
        ("training.optimizer.learning_rate.low", "training.optimizer", "learning_rate = { low = true, high = 2.0 }"),
        ("training.optimizer.rate_factors.proxies", "training.optimizer", "rate_factors = { proxies = inf }"),
        ("training.optimizer.frozen_steps.trunk", "training.optimizer", "frozen_steps = { trunk = true }"),
        ("tuning.trials", "tuning", f"trials = {10**26}"),
        ("tuning.epochs", "tuning", f"epochs = {10**26}"),
        ("evaluation.minimum.map@r", "evaluation", 'minimum = { "map@r" = nan }'),
        ("evaluation.minimum.map@r", "evaluation", 'minimum = { "map@r" = true }'),
        ("evaluation.max_drop", "evaluation", 'max_drop = "0.1"'),
        ("evaluation.confidence", "evaluation", "confidence = nan"),
        ("evaluation.resamples", "evaluation", f"resamples = {10**26}"),
        ("evaluation.index_p99_ms", "evaluation", "index_p99_ms = inf"),
        ("index.splits", "index", "splits = []"),
        ("index.neighbors", "index", f"neighbors = {10**9}"),
        ("index.leaves", "index", "leaves = true"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(write, path, table, value):
    key = value.partition(" ")[0]
    text = "\n".join(line for line in _LEAST.splitlines() if not (table == "data" and line.startswith(f"{key} ")))
    text = text.replace(f"[{table}]", f"[{table}]\n{value}") if f"[{table}]" in text else f"{text}\n[{table}]\n{value}"
    with pytest.raises(UsageError) as caught:
        load_experiment(write(text))
    _, line = str(caught.value).splitlines()
    assert caught.value.code == "E_EXPERIMENT"
    assert line.split()[0] == path


@pytest.mark.parametrize("seed", ["true", '"1"', "1.0", "-1", str(2**32)])
def test_a_seed_is_a_whole_number_of_32_bits(write, seed):
    with pytest.raises(UsageError, match=r"\n  seed "):
        load_experiment(write(_LEAST.replace('name = "toy"', f'name = "toy"\nseed = {seed}')))


def test_limits_leave_room_for_what_can_be_meant(write):
    text = _LEAST + (
        "[training]\nepochs = 1_000_000\noptimizer = { learning_rate = 1 }\n"
        "[evaluation]\nminimum = { 'map@r' = 0 }\nmax_drop = 1\n"
    )
    experiment = load_experiment(write(text.replace('path = "images"', 'path = "images"\nimage_size = 2_048')))
    assert experiment.training.optimizer.learning_rate == 1.0
    assert experiment.data.image_size == 2_048


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf" + _LEAST.encode())
    assert load_experiment(tmp_path / "marked.toml").name == "toy"


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 20_000 + "]" * 20_000,
        "a = " + "{ b = " * 20_000 + "1" + " }" * 20_000,
        ".".join("a" * 2_000) + " = 1",  # the time of `tomllib` grows with the square
        "a = " + "[" * 200 + "]" * 200,
        "seed = " + "1" * 5_000,
        "\ud800",
    ],
    ids=["lists", "tables", "dotted", "not so deep", "long number", "surrogate"],
)
def test_documents_that_no_experiment_needs_are_syntax_errors(tmp_path, text):
    (tmp_path / "odd.toml").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UsageError) as caught:
        load_experiment(tmp_path / "odd.toml")
    assert caught.value.code == "E_EXPERIMENT_SYNTAX"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("strategy", ["multi_worker", "tpu"])
def test_only_the_strategy_that_trains_is_taken(write, strategy):
    with pytest.raises(UsageError, match=r"training.strategy +Expected '' or 'mirrored'"):
        load_experiment(write(_LEAST + f"[training]\nstrategy = '{strategy}'\n"))
    assert load_experiment(write(_LEAST + "[training]\nstrategy = 'mirrored'\n")).training.strategy == "mirrored"


def test_every_key_of_evaluation_reaches_the_judge(write):
    names = set(Evaluation.model_fields)
    assert names == {field.name for field in dataclasses.fields(JudgeSettings)} - {"seed"}
    text = f"seed = 6\n{_LEAST}[evaluation]\nmetrics = ['recall@1', 'map@r']\nmax_drop = 0.25\nforce = 'a trial'\n"
    judged = load_experiment(write(text)).judge_settings
    assert (judged.metrics, judged.max_drop, judged.force, judged.seed) == (("recall@1", "map@r"), 0.25, "a trial", 6)


def test_overrides_replace_values_and_are_part_of_the_command_of_the_source(write):
    path = write(_LEAST)
    experiment = load_experiment(path, ["seed=5", "data.path=my photos"])
    assert (experiment.seed, experiment.data.path) == (5, "my photos")
    assert experiment.source.text == path.read_text()
    result = shlex.split(experiment.source.command("run"))
    assert result == ["anchorage", "run", str(path), "--set", "seed=5", "--set", "data.path=my photos"]
    by_file = load_experiment(
        write(_LEAST.replace('name = "toy"', 'name = "toy"\nseed = 5').replace("images", "my photos"))
    )
    assert experiment.model_dump() == by_file.model_dump()  # what the cache keys are made of


def test_a_mistake_in_an_override_names_its_key(write):
    with pytest.raises(UsageError, match=r"\n  data\.val_share  Expected a number below 1\. Received: 2"):
        load_experiment(write(_LEAST), ["data.val_share=2"])


def test_an_encoder_of_kerashub_has_its_preset_folder_and_its_class_token(write):
    encoder = load_experiment(write(f'{_LEAST}[encoder]\nname = "hub:dinov2_small"')).encoder
    assert (encoder.preset, encoder.weights, encoder.pooling) == ("dinov2_small", "encoders/dinov2_small", "token")
    own = 'name = "hub:dinov2_small"\nweights = "/models/dinov2"\npooling = "gem"'
    encoder = load_experiment(write(f"{_LEAST}[encoder]\n{own}")).encoder
    assert (encoder.weights, encoder.pooling) == ("/models/dinov2", "gem")
    assert load_experiment(write(_LEAST)).encoder.preset == ""


def test_without_epochs_the_embeddings_are_the_features_of_the_encoder(write):
    experiment = load_experiment(write(f"{_LEAST}[training]\nepochs = 0"))
    assert experiment.untrained
    assert (experiment.encoder.head.name, experiment.encoder.name) == ("identity", "efficientnet_lite0")
    assert not load_experiment(write(_LEAST)).untrained


@pytest.mark.parametrize("more", ['[encoder]\nhead = { name = "plain" }', '[training.procedure]\nname = "class_folds"'])
def test_without_epochs_there_is_no_head_and_no_procedure_to_train(write, more):
    with pytest.raises(UsageError, match=r"`training\.epochs` = 0 trains nothing"):
        load_experiment(write(f"{_LEAST}[training]\nepochs = 0\n{more}"))


def test_columns_are_kept_for_filters_and_for_the_evaluation(write):
    data = 'path = "images"\nattributes = '
    least = _LEAST.replace('path = "images"', f'{data}["color", "brand"]')
    experiment = load_experiment(write(f'{least}[evaluation]\nslices = ["brand", "size", "label"]'))
    assert experiment.attributes == ["brand", "color", "size"]
    with pytest.raises(UsageError, match=r"`attributes` names other columns than \['role'\]"):
        load_experiment(write(_LEAST.replace('path = "images"', f'{data}["role"]')))
