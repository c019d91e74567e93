import pytest

from anchorage.errors import UsageError
from anchorage_pipeline.comparison.settings import load_comparison, merge

_EXPERIMENT = '[data]\npath = "images"\n[loss]\nname = "triplet"\nparams = { margin = 0.2 }\n'


def write(folder, text):
    (folder / "toy.toml").write_text(f'name = "toy"\n{_EXPERIMENT}')
    (folder / "compare.toml").write_text(f'name = "c"\nexperiment = "toy.toml"\n{text}')
    return folder / "compare.toml"


def test_tables_are_laid_over_each_other():
    base = {"loss": {"name": "triplet", "params": {"margin": 0.2}}, "seed": 1, "list": [1, 2]}
    assert merge(base, {"loss": {"params": {"swap": True}}})["loss"] == {
        "name": "triplet",
        "params": {"margin": 0.2, "swap": True},
    }
    assert merge(base, {"loss": {"name": "triplet", "params": {"swap": True}}})["loss"]["params"]["margin"] == 0.2
    assert merge(base, {"loss": {"name": "cbml", "params": {"type": "sqrt"}}})["loss"]["params"] == {"type": "sqrt"}
    assert merge(base, {"list": [3]})["list"] == [3]
    assert base["loss"]["params"] == {"margin": 0.2}


def test_the_experiment_lies_beside_the_file_and_gets_what_all_share(tmp_path):
    path = write(tmp_path, "[set.data]\nimage_size = 16\n[[entries]]\nname = 'a'\n")
    comparison, document = load_comparison(path)
    assert document["data"] == {"path": "images", "image_size": 16}
    assert [entry.name for entry in comparison.entries] == ["a"]


def test_overrides_belong_to_the_comparison_or_to_its_experiment(tmp_path):
    path = write(tmp_path, "seeds = [1, 2]\n[set.data]\nimage_size = 16\n[[entries]]\nname = 'a'\n")
    given = ["seeds=[7]", "entries.0.note=first", "data.image_size=32", "training.epochs=3"]
    comparison, document = load_comparison(path, given)
    assert (comparison.seeds, comparison.entries[0].note) == ([7], "first")
    assert document["data"] == {"path": "images", "image_size": 32}
    assert document["training"] == {"epochs": 3}
    assert comparison.overrides == tuple(given)
    with pytest.raises(UsageError, match="E_OVERRIDE"):
        load_comparison(path, ["training"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "entries"),
        ("folds = 2\n[[entries]]\nname = 'a'\n", "folds"),
        ("seeds = [0]\n[[entries]]\nname = 'a'\n", "Expected a number above 0"),
        ("seeds = [1, 1]\n[[entries]]\nname = 'a'\n", "`seeds` must differ"),
        ("primary = 'ndcg@10'\n[[entries]]\nname = 'a'\n", "`primary` must be one of `metrics`"),
        ("[[entries]]\nname = 'a'\n[[entries]]\nname = 'a'\n", "more than once: a"),
        ("[[entries]]\nname = 'a'\nagainst = 'b'\n", "`against` must name another entry"),
        ("[[entries]]\nname = 'a'\nagainst = 'a'\n", "`against` must name another entry"),
        ("[[entries]]\nname = 'a'\nloss = 'b'\n", "entries.0.loss"),
        ("[[entries]]\nname = 'a'\ntune = { seed = [] }\n", "tune.seed"),
    ],
)
def test_rejects_invalid_comparison_files(tmp_path, text, expected):
    with pytest.raises(UsageError) as caught:
        load_comparison(write(tmp_path, text))
    assert caught.value.code == "E_COMPARISON"
    assert expected in caught.value.message


@pytest.mark.parametrize(("text", "code"), [(None, "E_COMPARISON_MISSING"), ("= 3", "E_COMPARISON_SYNTAX")])
def test_no_such_file(tmp_path, text, code):
    path = tmp_path / "compare.toml"
    if text:
        path.write_text(text)
    with pytest.raises(UsageError, match=code):
        load_comparison(path)
