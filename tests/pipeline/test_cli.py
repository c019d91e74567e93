import json
import os
import re
import subprocess
import sys
from importlib import metadata

import pytest
import tensorflow as tf

from anchorage.errors import ResourceError
from anchorage.release.manifest import seal
from anchorage_pipeline.cli import create_parser, main
from anchorage_pipeline.options import find_release

_EXPERIMENT = """
name = "toy"
[data]
path = "{path}"
[encoder]
name = "small"
embedding_size = 8
params = {{ widths = [4] }}
[loss]
name = "contrastive"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    return tmp_path


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom anchorage_pipeline.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {name for name in sys.modules if name.startswith('anchorage_pipeline.commands.')}\n"
        "heavy |= {'keras', 'tensorflow', 'tfx', 'apache_beam', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "releases" in done.stdout


def test_help_lists_every_command_once(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    listed = re.findall(r"^  ([a-z]+)  +[A-Z]", capsys.readouterr().out, re.MULTILINE)
    assert sorted(listed) == sorted(
        [
            "check",
            "compare",
            "completion",
            "data",
            "drift",
            "embed",
            "encoders",
            "evaluate",
            "export",
            "index",
            "init",
            "gc",
            "kubeflow",
            "losses",
            "releases",
            "report",
            "run",
            "runs",
            "schema",
            "search",
            "serve",
            "spread",
            "train",
            "tune",
        ]
    )


def test_one_command_loads_no_module_of_another():
    verbs = create_parser("search")._subparsers._group_actions[0].choices
    assert "--neighbors" in verbs["search"].format_help()
    assert "--neighbors" not in verbs["evaluate"].format_help()


def test_every_option_has_a_help_text():
    verbs = create_parser()._subparsers._group_actions[0].choices
    silent = [(name, action.dest) for name, verb in verbs.items() for action in verb._actions if not action.help]
    assert silent == []


def test_kernels_are_chosen_before_tensorflow_is_loaded_and_not_after(folder, monkeypatch):
    """Without AVX-512 a child of a process with a loaded TensorFlow would otherwise compute other digits than it."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    show = "print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    code = f"import os\nfrom anchorage_pipeline.cli import main\nmain(['releases'])\n{show}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
    assert tf.__name__ in sys.modules
    main(["releases"])
    assert "TF_ENABLE_ONEDNN_OPTS" not in os.environ


def test_check_shows_what_the_file_asks_for(folder, capsys, monkeypatch):
    (folder / "toy.toml").write_text(
        _EXPERIMENT.format(path="images")
        + "params = {neg_margin = {low = 0.1, high = 0.5, step = 0.1}}\n[tuning]\noracle = 'grid'\nminutes = 30"
        + "\n[training]\nmethods = [{ choices = ['none', { name = 'moving_average', params = { momentum = "
        + "{low = 0.9, high = 0.99} } }] }]\n[training.sampler]\nname = 'class_batches'\n"
        + "params = { classes = {choices = [8, 16]}, per_class = 4 }"
    )
    monkeypatch.setattr("anchorage_pipeline.inspection.inspect_data", lambda experiment: ["data     of its own test"])
    assert main(["check", "toy.toml"]) == 0
    first, *output = capsys.readouterr().out.splitlines()
    assert first == "toy.toml: valid (loss contrastive, encoder small)"
    assert output == [
        "data     of its own test",
        "search   grid, at most 8 trials and 30 minutes of 5 epochs, for map@r on the validation classes; 60 grid "
        "points",
        "range    loss.params.neg_margin                        0.1 to 0.5, step 0.1",
        "range    training.sampler.params.classes               8 | 16",
        "range    training.methods.0                            none | moving_average",
        "range    training.methods.0.choices.1.params.momentum  0.9 to 0.99, if training.methods.0 = moving_average",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check", "nowhere.toml"], "E_EXPERIMENT_MISSING"),
        (["check", "toy.toml"], "E_DATA_MISSING"),
        (["releases"], "E_RELEASE_MISSING"),
        (["search", "a.png"], "E_RELEASE_MISSING"),
        (["search", "a.png", "--release", "nowhere"], "E_RELEASE_MISSING"),
        (["report"], "E_RELEASE_MISSING"),
    ],
)
def test_wrong_use_is_one_line_and_exit_status_2(folder, capsys, arguments, expected):
    (folder / "toy.toml").write_text(_EXPERIMENT.format(path="elsewhere"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"anchorage: {expected}: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("verb", ["check", "run", "train", "tune"])
def test_a_comparison_is_sent_where_it_belongs(folder, capsys, verb):
    (folder / "methods.toml").write_text('name = "c"\nexperiment = "toy.toml"\n[[entries]]\nname = "one"')
    assert main([verb, "methods.toml"]) == 2
    expected = "E_EXPERIMENT_KIND: methods.toml is a comparison, not an experiment: `anchorage compare methods.toml`\n"
    assert capsys.readouterr().err == f"anchorage: {expected}"


def test_a_search_needs_an_image_or_a_description(folder, capsys):
    assert main(["search"]) == 2
    assert "E_IMAGE_MISSING: Expected images, or descriptions with --text" in capsys.readouterr().err


def test_an_experiment_is_not_compared(folder, capsys):
    (folder / "toy.toml").write_text(_EXPERIMENT.format(path="images"))
    assert main(["compare", "toy.toml"]) == 2
    assert "E_COMPARISON_KIND: toy.toml is an experiment" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["releases", "--foo"],
        ["search", "a", "--neighbors", "0"],
        ["releases", "rollback", "--to", "1" * 300],
    ],
)
def test_unknown_words_exit_with_2(folder, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["chek", "toy.toml"], "Did you mean 'check'?"),
        (["embed", "a.png", "--output", "t.parquet", "--relase", "x"], "--relase x. Did you mean '--release'?"),
        (["evaluate", "t", "--output", "x", "--runner=DirectRunner"], "Put options for Beam after --."),
        (["embed", "a.png", "--output", "t", "--runner=x", "--", "--runner=y"], "--runner=x"),
        (["search", "a.png", "--", "--runner=y", "--neighbours"], "E_RELEASE_MISSING"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(folder, capsys, arguments, expected):
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert expected in capsys.readouterr().err


def test_what_stands_after_two_dashes_goes_to_beam(folder, monkeypatch):
    got = []
    monkeypatch.setattr("anchorage_pipeline.commands.embed.run", got.append)
    assert main(["embed", "a.png", "--output", "t.parquet", "--release", "r", "--", "--runner=x", "--output", "y"]) == 0
    [options] = got
    assert (options.images, options.output) == (["a.png"], "t.parquet")
    assert options.beam_arguments == ["--runner=x", "--output", "y"]


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"anchorage {metadata.version('anchorage')}\n"


def test_a_release_need_not_be_named_if_there_is_one(folder):
    for name in ("icons", "toy"):
        (folder / "releases" / name).mkdir(parents=True)
    (folder / "releases/toy/current").write_text("1")
    assert find_release(None) == "releases/toy"


def test_one_of_several_releases_must_be_named(folder, capsys):
    for name in ("icons", "toy"):
        (folder / "releases" / name).mkdir(parents=True)
        (folder / "releases" / name / "current").write_text("1")
    assert main(["releases"]) == 2
    assert "releases/icons, releases/toy" in capsys.readouterr().err


@pytest.fixture
def releases(folder):
    """A folder of three releases whose manifests read well; the third is current."""
    for version in (1, 2, 3):
        path = folder / f"releases/toy/{version}"
        path.mkdir(parents=True)
        manifest = {
            "format": 1,
            "version": version,
            "created": "2026-01-01",
            "model_fingerprint": "x",
            "index": {},
            "libraries": {},
            "facts": {"previous": version - 1 or None, "metrics": {"map@r": 0.25}},
            "files": {},
        }
        (path / "manifest.json").write_bytes(seal(manifest))
    (folder / "releases/toy/current").write_text("3")
    return folder / "releases/toy"


def test_releases_are_listed_beside_one_whose_manifest_is_a_folder(releases, capsys):
    (releases / "2/manifest.json").unlink()
    (releases / "2/manifest.json").mkdir()
    assert main(["releases"]) == 0
    _, one, two, three = capsys.readouterr().out.splitlines()
    assert one.split() == ["1", "2026-01-01", "map@r", "0.2500"]
    assert "E_RELEASE_DAMAGED" in two
    assert three.split() == ["->", "3", "2026-01-01", "map@r", "0.2500"]
    assert main(["releases", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["releases"]
    assert [(release["version"], release["current"], bool(release["fault"])) for release in listed] == [
        (1, False, False),
        (2, False, True),
        (3, True, False),
    ]


@pytest.mark.parametrize(
    ("damage", "status", "expected"),
    [
        (lambda path: (path / "current").write_text("x"), 3, "--to VERSION"),
        (lambda path: ((path / "current").unlink(), (path / "current").mkdir()), 3, "--to VERSION"),
        (lambda path: (path / "current").write_text("9" * 300), 3, "--to VERSION"),
        (lambda path: (path / "current").write_text("9"), 2, "anchorage releases rollback"),
    ],
)
def test_releases_are_listed_when_the_pointer_is_damaged_and_the_way_out_is_named(
    releases, capsys, damage, status, expected
):
    damage(releases)
    assert main(["releases"]) == status
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 4
    assert expected in shown.err
    assert shown.err.count("\n") == 1


def test_an_interruption_that_a_library_wrapped_is_no_bug(folder, capsys, monkeypatch):
    def stopped(options):
        try:
            raise ResourceError("E_INTERRUPTED", "stopped by SIGTERM")
        except ResourceError as error:
            raise RuntimeError("Unable to translate") from error

    monkeypatch.setattr("anchorage_pipeline.commands.releases.run", stopped)
    assert main(["releases"]) == 4
    assert capsys.readouterr().err == "anchorage: E_INTERRUPTED: stopped by SIGTERM\n"
