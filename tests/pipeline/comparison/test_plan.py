import json
from pathlib import Path

import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage_pipeline.comparison.plan import Block, check_alike, expand, report_blocks
from anchorage_pipeline.comparison.settings import load_comparison
from anchorage_pipeline.preflight import check_parts

TABLES = sorted((Path(__file__).parents[3] / "pipeline/experiments").glob("compare-*.toml"))
LABELS = np.repeat(np.arange(10), 4)
RATE = "training.optimizer.learning_rate"


def test_blocks_combine_seeds_and_folds(make):
    entry = {"name": "a"}
    assert report_blocks(make(entry, seeds=[1, 2], folds=3)) == [
        Block(1, 1),
        Block(1, 2),
        Block(2, 1),
        Block(2, 2),
    ]
    paired = report_blocks(make(entry, seeds=[5, 6, 7], folds=3, design="paired"))
    assert paired == [Block(5, 1), Block(6, 2), Block(7, 1)]
    assert report_blocks(make(entry, seeds=[1, 2], judge="test")) == [Block(1, None), Block(2, None)]
    assert report_blocks(make(entry, seeds=[1, 2], judge="choice")) == [Block(0, 0)]


def test_every_combination_of_a_grid_is_a_candidate(make, document):
    comparison = make(
        {"name": "a", "tune": {RATE: [0.1, 0.2], "loss.params.neg_margin": [0.5, 1.0]}},
        {"name": "b", "set": {"loss": {"name": "cbml"}}},
        tune={RATE: [1e-4, 1e-3, 1e-2, 1e-1]},
    )
    plan = expand(comparison, document)
    assert [tuple(one.values.values()) for one in plan["a"]] == [(0.1, 0.5), (0.1, 1.0), (0.2, 0.5), (0.2, 1.0)]
    assert plan["a"][2].experiment.training.optimizer.learning_rate == 0.2
    assert plan["a"][1].experiment.loss.params == {"neg_margin": 1.0}
    assert [one.experiment.training.optimizer.learning_rate for one in plan["b"]] == [1e-4, 1e-3, 1e-2, 1e-1]
    assert plan["b"][0].experiment.loss.name == "cbml"
    assert plan["b"][0].experiment.name == "b"


def test_unequal_trials_are_refused(make, document):
    entries = {"name": "a", "tune": {RATE: [0.1, 0.2]}}, {"name": "b"}
    with pytest.raises(UsageError, match=r"E_UNEQUAL_TRIALS: .*Received: a 2, b 1"):
        expand(make(*entries), document)
    assert len(expand(make(entries[0], {**entries[1], "unlike": "it has no rate"}), document)["b"]) == 1
    assert len(expand(make(*entries, judge="choice"), document)["b"]) == 1  # nothing is held against another there


@pytest.mark.parametrize(
    ("changed", "code", "expected"),
    [
        ({"loss": {"name": 3}}, "E_COMPARISON_ENTRY", "loss.name"),
        ({"los": 3}, "E_COMPARISON_ENTRY", "los "),
        ({"loss": {"params": {"neg_margin": {"low": 0.1, "high": 0.2}}}}, "E_RANGES_NOT_SEARCHED", "neg_margin"),
    ],
)
def test_entries_that_are_no_settled_experiment(make, document, changed, code, expected):
    with pytest.raises(UsageError) as caught:
        expand(make({"name": "a"}, {"name": "b", "set": changed}), document)
    assert caught.value.code == code
    assert expected in caught.value.message
    assert "'b'" in caught.value.message


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"encoder": {"name": "efficientnet_lite0"}}, "encoder.name = 'efficientnet_lite0' vs. 'small'"),
        ({"encoder": {"embedding_size": 16}}, "encoder.embedding_size = 16 vs. 8"),
        ({"encoder": {"params": {"widths": [4, 9]}}}, "encoder.params"),
        ({"data": {"image_size": 32}}, "data.image_size"),
        ({"training": {"epochs": 3}}, "steps = 12 vs. 8"),
        ({"training": {"steps_per_epoch": 0}}, "2 rounds of class_batches"),
        ({"training": {"augmentation": {"flip": True}}}, "training.augmentation"),
        ({"training": {"precision": "mixed_bfloat16"}}, "training.precision"),
        ({"training": {"sampler": {"params": {"per_class": 3}}}}, "batch size = 12 vs. 8"),
        ({"training": {"sampler": {"name": "shuffled_batches", "params": {"batch_size": 9}}}}, "batch size = 9 vs. 8"),
    ],
)
def test_unlike_entries_are_refused_unless_they_say_why(make, document, changed, key):
    comparison = make({"name": "a"}, {"name": "b", "set": changed})
    with pytest.raises(UsageError) as caught:
        check_alike(comparison, expand(comparison, document), LABELS)
    assert caught.value.code == "E_UNLIKE"
    assert key in caught.value.message
    comparison = make({"name": "a"}, {"name": "b", "set": changed, "unlike": "to see what it costs"})
    assert list(check_alike(comparison, expand(comparison, document), LABELS)) == ["b"]


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": {"name": "triplet"}},
        {"encoder": {"params": {"normalize": False}}},  # the loss's affair
        {"training": {"optimizer": {"learning_rate": 0.1}}},
        {"training": {"augmentation": {"flip": False}}},
        {"training": {"sampler": {"params": {"classes": 2, "per_class": 4}}}},  # the same batch size
        {"training": {"epochs": 2, "sampler": {"name": "shuffled_batches", "params": {"batch_size": 8}}}},
    ],
)
def test_entries_may_differ_in_settings_outside_the_budget(make, document, changed):
    comparison = make({"name": "a"}, {"name": "b", "set": changed})
    assert check_alike(comparison, expand(comparison, document), LABELS) == {}


def test_a_value_to_choose_must_not_be_a_budget(make, document):
    comparison = make({"name": "a", "tune": {"training.epochs": [2, 4]}})
    with pytest.raises(UsageError, match="E_UNLIKE"):
        check_alike(comparison, expand(comparison, document), LABELS)


def test_a_reason_names_the_rate_factors_that_differ_from_the_entry_compared_with(make, document):
    def rates(**factors):
        return {"training": {"optimizer": {"rate_factors": factors}}}

    head = {"encoder": {"head": {"name": "plain", "params": {"start_scale": 2.0}}}}
    other = {"name": "c", "against": "b", "set": {**head, **rates(proxies=15.0, beta=1.0)}, "unlike": "a head"}
    comparison = make({"name": "a"}, {"name": "b", "set": rates(proxies=100.0, trunk=0.5)}, other)
    assert check_alike(comparison, expand(comparison, document), LABELS) == {
        "c": [
            "encoder.head",
            "training.optimizer.rate_factors.proxies",
            "training.optimizer.rate_factors.trunk",  # a group that is not named learns at the network's own rate
        ]
    }


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_tables_are_fair(path):
    comparison, document = load_comparison(path)
    plan = expand(comparison, document)
    assert check_alike(comparison, plan, np.repeat(np.arange(97), 12)).keys() == {
        entry.name for entry in comparison.entries if entry.unlike
    }
    if path.stem == "compare-methods":
        assert {entry.against for entry in comparison.entries if entry.label[0].isdigit()} <= plan.keys()


@pytest.mark.thorough
def test_the_tables_are_made_of_parts_that_there_are():
    """Each combination of parts once, whatever its learning rates and length."""
    distinct = {}
    for path in TABLES:
        for candidates in expand(*load_comparison(path)).values():
            experiment = candidates[0].experiment
            parts = experiment.model_dump(mode="json", include={"data", "encoder", "loss", "training"})
            del parts["training"]["epochs"], parts["training"]["optimizer"]["learning_rate"]
            distinct[json.dumps(parts, sort_keys=True)] = experiment
    for experiment in distinct.values():
        check_parts(experiment)
