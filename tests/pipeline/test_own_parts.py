"""Errors in a user's own losses, methods, samplers and encoders are reported with file and line before a run."""

from textwrap import dedent, indent

import pytest

from anchorage.errors import UsageError
from anchorage_pipeline.cli import main
from anchorage_pipeline.preflight import check_file

_LOSS = """
import keras
from keras import ops

class OwnLoss(keras.layers.Layer):
    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        {init}

    def call(self, embeddings, labels):
        same = ops.cast(labels[:, None] == labels[None, :], embeddings.dtype)
        value = ops.mean(same * ops.matmul(embeddings, ops.transpose(embeddings)))
        {call}
"""
_REST = "name = 'own'\n[data]\npath = '.'\nimage_size = 16\n"
_SMALL = "[encoder]\nname = 'small'\nembedding_size = 8\nparams = { widths = [4] }\n"


@pytest.fixture
def check(tmp_path, monkeypatch, request):
    """Checks an experiment with a module of the user's own, each test's under a name of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    module = f"own_{abs(hash(request.node.name))}"

    def check(source, experiment, sound=False):
        (tmp_path / f"{module}.py").write_text(dedent(source), encoding="utf-8")
        (tmp_path / "own.toml").write_text(
            _REST + ("" if "[encoder]" in experiment else _SMALL) + experiment.replace("MODULE", module)
        )
        if sound:
            return check_file("own.toml")
        with pytest.raises(UsageError) as caught:
            check_file("own.toml")
        assert caught.value.exit_status == 2
        _, *lines = str(caught.value).splitlines()
        return {path: text.replace(module, "own") for path, text in (line.split(maxsplit=1) for line in lines)}

    return check


def loss(init="pass", call="return value"):
    return _LOSS.format(init=init, call=indent(dedent(call), " " * 8).lstrip())


_OWN_LOSS = "[loss]\nname = 'MODULE:OwnLoss'\n"


def test_a_sound_loss_passes(check):
    assert check(loss(), _OWN_LOSS, sound=True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import sys\n\nsys.exit(0)\n", "it calls sys.exit(0) (SystemExit in own.py, line 3, 'own:OwnLoss')"),
        ("raise RuntimeError('no\\nlicence')\n", "no licence (RuntimeError in own.py, line 1, 'own:OwnLoss')"),
        ("x = 1\nclass OwnLoss(:\n", "invalid syntax (SyntaxError in own.py, line 2, 'own:OwnLoss')"),
        (
            "import no_such_module_here\n",
            "No module named 'no_such_module_here' (ModuleNotFoundError in own.py, line 1",
        ),
        ("def f():\n    f()\n\nf()\n", "(RecursionError in own.py, line 2"),
        ("x = {}['key']\n", "'key' (KeyError in own.py, line 1"),
        ("assert False\n", "no message (AssertionError in own.py, line 1"),
    ],
)
def test_a_module_that_fails_on_import(check, source, expected):
    found = check(source, _OWN_LOSS)
    assert list(found) == ["loss.name"]
    assert expected in found["loss.name"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (loss(init="raise RuntimeError('boom')"), "boom (RuntimeError in own.py, line 8, 'own:OwnLoss')"),
        (loss(init="raise SystemExit(0)"), "it calls sys.exit(0) (SystemExit in own.py, line 8"),
        (loss(init="1 / 0"), "division by zero (ZeroDivisionError in own.py, line 8"),
        (loss(call="raise RuntimeError('boom')"), "boom (RuntimeError in own.py, line 13)"),
        (loss(call="raise ValueError('bad\\n batch')"), "bad batch (ValueError in own.py, line 13)"),
        (loss(call="raise KeyError('key')"), "'key' (KeyError in own.py, line 13)"),
        (loss(call="raise SystemExit(3)"), "it calls sys.exit(3) (SystemExit in own.py, line 13)"),
        (loss(call="return same"), "Expected a scalar floating-point tensor"),
        (loss(call="return ops.cast(value, 'int32')"), "Expected a scalar floating-point tensor"),
        (loss(call="return 'high'"), "received: high"),
        (loss(call="return None"), "Received: None"),
        (loss(call="return {'loss': value}"), "Expected a scalar floating-point tensor"),
        (loss(call="return value * float('nan')"), "Received: nan"),
        (loss(call="return value / 0.0"), "Received: inf"),
        (loss(call="return ops.mean(ops.cast(labels, 'float32'))"), "to depend on the embeddings"),
        (loss(call="return value + ops.sqrt(0.0 * value)"), "a finite gradient"),
    ],
)
def test_a_loss_that_fails_when_it_is_made_or_called(check, source, expected):
    found = check(source, _OWN_LOSS)
    assert list(found) == ["loss"]
    assert expected in found["loss"]
    assert "Exception encountered" not in found["loss"]


def test_a_constructors_message_is_reported_at_its_parameter(check):
    source = loss(init="raise ValueError(f'`weight` must be positive. Received: weight={weight}')")
    found = check(source, _OWN_LOSS + "params = { weight = -1.0 }")
    assert list(found) == ["loss.params.weight"]
    assert found["loss.params.weight"].startswith("`weight` must be positive. Received: weight=-1.0 (ValueError in own")


_SAMPLER = """
import numpy as np

class OwnSampler:
    batch_size = 8
    steps_per_round = 3

    def __init__(self, labels):
        {init}

    def batch(self, step):
        {batch}
"""


@pytest.mark.parametrize(
    ("init", "batch", "expected"),
    [
        ("pass", "return np.arange(8)", None),
        ("raise OSError('no index')", "return np.arange(8)", "no index (OSError in own.py, line 9"),
        ("pass", "raise RuntimeError('empty')", "empty (RuntimeError in own.py, line 12)"),
        ("pass", "return ['a', 'b']", "Expected `batch` to return row numbers"),
    ],
)
def test_a_sampler_of_ones_own(check, init, batch, expected):
    experiment = "[loss]\nname = 'contrastive'\n[training]\nsampler = { name = 'MODULE:OwnSampler' }\n"
    found = check(_SAMPLER.format(init=init, batch=batch), experiment, sound=expected is None)
    if expected is not None:
        assert list(found) == ["training.sampler"]
        assert expected in found["training.sampler"]


_METHOD = """
from anchorage.methods import Method

class OwnMethod(Method):
    def prepare(self, learner):
        {prepare}

    def loss(self, step, inner):
        {loss}
"""


@pytest.mark.parametrize(
    ("prepare", "body", "expected"),
    [
        ("pass", "return 2.0 * inner(step)", None),
        ("raise RuntimeError('boom')", "return inner(step)", "boom (RuntimeError in own.py, line 6)"),
        ("pass", "return inner(step) + step.outputs['depth']", "'depth' (KeyError in own.py, line 9)"),
        ("pass", "raise SystemExit(0)", "it calls sys.exit(0) (SystemExit in own.py, line 9)"),
    ],
)
def test_a_method_of_ones_own(check, prepare, body, expected):
    experiment = "[loss]\nname = 'contrastive'\n[training]\nmethods = [{ name = 'MODULE:OwnMethod' }]\n"
    found = check(_METHOD.format(prepare=prepare, loss=body), experiment, sound=expected is None)
    if expected is not None:
        assert list(found) == ["training.methods.0"]
        assert expected in found["training.methods.0"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return keras.layers.Conv2D(8, 3)(pixels)", None),
        ("raise RuntimeError('boom')", "boom (RuntimeError in own.py, line 5, 'own:trunk')"),
        ("return None", "(ValueError in 'own:trunk')"),
    ],
)
def test_an_encoder_of_ones_own(check, body, expected):
    source = f"import keras\n\n\ndef trunk(pixels, weights=None):\n    {body}\n"
    found = check(source, "[loss]\nname = 'contrastive'\n[encoder]\nname = 'MODULE:trunk'\n", sound=expected is None)
    if expected is not None:
        assert list(found) == ["encoder"]
        assert expected in found["encoder"]


@pytest.mark.parametrize("verb", ["check", "train", "run", "losses"])
def test_a_module_that_exits_does_not_make_a_command_succeed(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "exits.py").write_text("import sys\n\nprint('hello')\nsys.exit(0)\n")
    (tmp_path / "own.toml").write_text(f"{_REST}{_SMALL}[loss]\nname = 'exits:OwnLoss'\n")
    (tmp_path / "a").mkdir()
    assert main([verb, "exits:OwnLoss" if verb == "losses" else "own.toml"]) == 2
    stderr = capsys.readouterr().err
    assert "it calls sys.exit(0) (SystemExit in exits.py, line 4" in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "runs").exists()
