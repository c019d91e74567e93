import json
import signal
import sys
from dataclasses import dataclass

import pytest
from PIL import Image

import anchorage_pipeline.spread as command
from anchorage.errors import DataError, ResourceError, UsageError
from anchorage_pipeline.cli import main
from anchorage_pipeline.config import load_experiment
from anchorage_pipeline.source import fingerprint_data
from anchorage_pipeline.spread import measure_spread
from anchorage_pipeline.spread.conditions import describe_machine, measured_spread
from anchorage_pipeline.spread.record import Conditions, Machine, Row, read_spread, write_spread

_EXPERIMENT = """
name = "toy"
seed = 1
[data]
path = "images"
image_size = 16
[encoder]
name = "small"
embedding_size = 8
params = { widths = [4] }
[loss]
name = "contrastive"
"""
_VALUES = {1: 0.2, 2: 0.4, 3: 0.6}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with an experiment and three classes of two images."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        path = tmp_path / f"images/class-{number // 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (40 * number, 0, 0)).save(path)
    (tmp_path / "toy.toml").write_text(_EXPERIMENT)
    return tmp_path


@dataclass
class Trainer:
    """Stands in for the child process: a row a call, until the seed at which it is interrupted."""

    trained: list
    stops_at: int | None = None

    def __call__(self, job, folder, file, conditions, here):
        if job["seed"] == self.stops_at:
            raise KeyboardInterrupt
        self.trained.append(job["seed"])
        row = Row(
            machine=Machine.model_validate(job["machine"]),
            seed=job["seed"],
            conditions=Conditions.model_validate(job["conditions"]),
            values={"map@r": _VALUES[job["seed"]], "recall@1": 0.5},
            best_epoch=1,
            seconds=2.0,
            measured="2026-01-02T03:04:05Z",
        )
        write_spread(file, read_spread(file).add(row))
        return row


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer([])
    monkeypatch.setattr(command, "_train", trainer)
    return trainer


def spread(*words):
    return main(["spread", "toy.toml", *words])


def test_each_seed_is_trained_once_and_listed(folder, trainer, capsys):
    assert spread("--seeds", "1", "2", "3", "--machine", "here") == 0
    output = capsys.readouterr().out.splitlines()
    assert trainer.trained == [1, 2, 3]
    assert output[0].startswith("training 3 of 3 seeds; logs: ")
    assert output[1:4] == [
        f"seed {seed}    map@r {100 * _VALUES[seed]:.1f}  recall@1 50.0  (epoch 1, 2 s)" for seed in (1, 2, 3)
    ]
    assert output[5].startswith("here: ")
    assert output[7] == "map@r     40.0       20.0    20.0     60.0    20.0    40.0    60.0"
    assert output[-1] == "spread   runs/toy/spread.json: `anchorage run` includes it in the report"


def test_what_was_measured_is_not_trained_again(folder, trainer, capsys):
    trainer.stops_at = 3
    assert spread("--seeds", "1", "2", "3") == 4
    assert "E_INTERRUPTED" in capsys.readouterr().err
    assert [row.seed for row in read_spread(folder / "runs/toy/spread.json").rows] == [1, 2]
    trainer.stops_at = None
    assert spread("--seeds", "1", "2", "3") == 0
    assert trainer.trained == [1, 2, 3]
    output = capsys.readouterr().out.splitlines()
    assert output[0].startswith("training 1 of 3 seeds")
    assert [line.endswith(", measured 2026-01-02") for line in output[1:4]] == [True, True, False]
    assert spread("--seeds", "3", "2") == 0
    assert trainer.trained == [1, 2, 3]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "toy.toml").write_text(_EXPERIMENT + "params = {neg_margin = 0.3}\n"),
        lambda folder: (folder / "toy.toml").write_text(_EXPERIMENT + '[evaluation]\nmetrics = ["map@r"]\n'),
        lambda folder: Image.new("RGB", (4, 4), "white").save(folder / "images/class-0/0.png"),
        lambda folder: (folder / "images/class-0/1.png").rename(folder / "images/class-1/1.png"),
    ],
)
def test_other_settings_and_other_data_are_trained_anew(folder, trainer, change):
    assert spread("--seeds", "1", "2") == 0
    change(folder)
    assert spread("--seeds", "1", "2") == 0
    assert trainer.trained == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "images/class-0/0.png").touch(),
        lambda folder: (folder / "toy.toml").write_text(_EXPERIMENT + "[index]\nneighbors = 5\n"),
        lambda folder: (folder / "toy.toml").write_text(_EXPERIMENT + "[evaluation]\nmax_drop = 0.5\n"),
    ],
)
def test_what_changes_no_result_trains_nothing(folder, trainer, change):
    assert spread("--seeds", "1", "2") == 0
    change(folder)
    assert spread("--seeds", "1", "2") == 0
    assert trainer.trained == [1, 2]


def test_other_code_is_trained_anew(folder, trainer, monkeypatch):
    assert spread("--seeds", "1", "2") == 0
    monkeypatch.setattr(command, "code_digest", lambda experiment: "other")
    assert spread("--seeds", "1", "2") == 0
    assert trainer.trained == [1, 2, 1, 2]


def test_the_results_of_another_machine_are_kept_apart(folder, trainer, capsys):
    assert spread("--seeds", "1", "2", "--machine", "one") == 0
    capsys.readouterr()
    assert spread("--seeds", "1", "3", "--machine", "two") == 0
    assert trainer.trained == [1, 2, 1, 3]
    tables = capsys.readouterr().out.split("\n\n")
    assert [table.splitlines()[0].partition(":")[0] for table in tables[1:4]] == [
        "one",
        "two",
        "all 2 machines, 4 trainings",
    ]
    found = measured(folder)
    assert (found.seeds, found.machines, found.trainings) == ([1, 2, 3], 2, 4)
    assert found.metrics["map@r"].mean == pytest.approx((0.2 + 0.4 + 0.2 + 0.6) / 4)


def measured(folder):
    experiment = load_experiment(folder / "toy.toml")
    return measured_spread(experiment, fingerprint_data(experiment))


def test_a_run_finds_the_spread_of_its_own_settings_and_data_only(folder, trainer):
    assert measured(folder) is None
    assert spread("--seeds", "1", "2") == 0
    assert measured(folder).metrics["map@r"].model_dump() == pytest.approx(
        {"mean": 0.3, "deviation": 0.02**0.5, "lowest": 0.2, "highest": 0.4}
    )
    for other in ('path = "images"', 'path = "images"\nval_share = 0.3'), ("contrastive", "margin"):
        (folder / "toy.toml").write_text(_EXPERIMENT.replace(*other))
        assert measured(folder) is None
    (folder / "toy.toml").write_text(_EXPERIMENT)
    assert measured(folder) is not None
    Image.new("RGB", (5, 5)).save(folder / "images/class-0/0.png")
    assert measured(folder) is None


def test_the_spread_is_a_parameter_of_the_node_that_judges(folder, trainer):
    from anchorage_pipeline.graph import create_pipeline
    from anchorage_pipeline.identity import fingerprint_run
    from anchorage_pipeline.places import local_places

    assert spread("--seeds", "1", "2") == 0
    experiment = load_experiment("toy.toml")
    for found in (measured(folder), None):
        made = create_pipeline(experiment, local_places(experiment), fingerprint_run(experiment), found)
        [node] = [node for node in made.components if node.id == "EvaluateRetrieval"]
        result = json.loads(node.exec_properties["spread_json"])
        assert result == (found.model_dump() if found else {})


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (["1"], "at least 2 seeds"),
        (["1", "2", "1"], "Received repeatedly: 1"),
        (["1", "4294967295"], "from 0 to 4294967294. Received: 4294967295"),
    ],
)
def test_seeds_that_give_no_spread_are_refused(folder, trainer, capsys, seeds, expected):
    assert spread("--seeds", *seeds) == 2
    error = capsys.readouterr().err
    assert error.startswith("anchorage: E_SEEDS: ")
    assert expected in error
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("seed", ["-1", "a", "1.5", "", "1" * 300])
def test_rejects_a_seed_that_is_not_a_whole_number(folder, seed):
    with pytest.raises(SystemExit, match="2"):
        spread("--seeds", "1", seed)


@pytest.mark.parametrize(
    ("old", "new", "status", "expected"),
    [
        ('path = "images"', 'path = "nowhere"', 2, "E_DATA_MISSING"),
        (
            'name = "contrastive"',
            'name = "contrastive"\nparams = {neg_margin = {low = 0.1, high = 0.5}}',
            2,
            "E_RANGES",
        ),
        ("seed = 1", "sead = 1", 2, "E_EXPERIMENT"),
        ("[loss]", "[evaluation]\nleave_out = 'family'\n[loss]", 3, "E_TABLE_COLUMNS"),
    ],
)
def test_a_wrong_experiment_is_refused_before_any_training(folder, trainer, capsys, old, new, status, expected):
    (folder / "toy.toml").write_text(_EXPERIMENT.replace(old, new))
    assert spread() == status
    assert capsys.readouterr().err.startswith(f"anchorage: {expected}")
    assert trainer.trained == []


def test_a_damaged_file_is_refused_and_left_as_it_is(folder, trainer, capsys):
    assert spread("--seeds", "1", "2") == 0
    (folder / "runs/toy/spread.json").write_text("{")
    assert spread() == 3
    assert "E_SPREAD_DAMAGED" in capsys.readouterr().err
    assert (folder / "runs/toy/spread.json").read_text() == "{"
    with pytest.raises(DataError, match="E_SPREAD_DAMAGED"):
        measured(folder)


def test_a_machine_needs_a_name(folder):
    assert describe_machine("here").name == "here"
    assert describe_machine(None).cores > 0
    for name in ("", "x" * 101):
        with pytest.raises(UsageError, match="E_MACHINE"):
            describe_machine(name)


@pytest.mark.parametrize(
    ("child", "kind", "expected"),
    [
        ("raise SystemExit(7)", ResourceError, "E_RUN_DIED: seed 5: the training ended with exit status 7; "),
        (f"os.kill(os.getpid(), {signal.SIGKILL:d})", ResourceError, "E_RUN_DIED: seed 5: .* signal 9; .*seed-5.log"),
        ("fail(2, 'E_EXPERIMENT')", UsageError, "E_EXPERIMENT: why"),
        ("fail(3, 'E_SPLIT_EMPTY')", DataError, "E_SPLIT_EMPTY: seed 5: why"),
        ("fail(4, 'E_DISK_FULL')", ResourceError, "E_DISK_FULL: seed 5: why"),
    ],
)
def test_what_a_training_met_is_the_error_of_the_command(folder, monkeypatch, child, kind, expected):
    """The child is another program than the worker, which ends with the same statuses."""
    program = folder / "child"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\njob = json.load(sys.stdin)\n"
        "def fail(status, code):\n"
        "    os.makedirs(job['work'])\n"
        "    with open(job['work'] + '/error.json', 'w') as file:\n"
        "        json.dump({'status': status, 'code': code, 'message': 'why'}, file)\n"
        f"    sys.exit(status)\n{child}\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(command.sys, "executable", str(program))
    with pytest.raises(kind, match=expected):
        measure_spread(load_experiment("toy.toml"), [5, 6])
    assert read_spread(folder / "runs/toy/spread.json").rows == []
