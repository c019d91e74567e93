"""The wheel of `anchorage` where there is nothing but Keras, NumPy and one backend, beside a user's own `models`."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-jax" / "bin" / "python"
PROGRAM = Path(__file__).with_name("user_program.py")
NEEDS = ("keras", "numpy", "jax", "torch")
TOO_MUCH = {"anchorage_components", "anchorage_pipeline", "apache_beam", "pydantic", "tensorflow", "tfx"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel("models", tmp_path_factory.mktemp("source"))


def build_wheel(project, folder):
    """Build from a copy, so that the folder of the source stays as it is."""
    source = folder / project
    shutil.copytree(ROOT / project, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    process = subprocess.run(
        [sys.executable, "-c", build, str(source.parent)], cwd=source, check=True, capture_output=True, text=True
    )
    return source.parent / process.stdout.split()[-1]


def test_wheel_holds_the_code_and_its_types_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    inside = [name for name in names if not name.split("/")[0].endswith(".dist-info")]
    assert "anchorage/py.typed" in inside
    assert {name.split("/")[0] for name in inside} == {"anchorage"}
    assert {Path(name).suffix for name in inside} == {".py", ".typed", ".j2", ".css", ".js"}
    sources = {path.relative_to(ROOT / "models").as_posix() for path in (ROOT / "models/anchorage").rglob("*.py")}
    assert {name for name in inside if name.endswith(".py")} == sources


def test_wheel_of_the_pipeline_holds_the_web_page(tmp_path):
    folder = ROOT / "pipeline" / "anchorage_pipeline" / "serving" / "page"
    with zipfile.ZipFile(build_wheel("pipeline", tmp_path)) as archive:
        names = set(archive.namelist())
    page = {f"anchorage_pipeline/serving/page/{path.name}" for path in folder.iterdir()}
    assert {"index.html", "page.css", "page.js"} <= {name.rpartition("/")[2] for name in page}
    assert page <= names


def test_wheel_holds_the_license(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("project", ["models", "components", "pipeline"])
def test_each_package_ships_the_license_of_the_project(project):
    facts = tomllib.loads((ROOT / project / "pyproject.toml").read_text())
    assert facts["project"]["license-files"] == ["LICENSE"]
    assert (ROOT / project / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_wheel_asks_for_keras_and_numpy_and_for_the_rest_as_extras(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        facts = Parser().parsestr(archive.read(name).decode())
    plain = [need for need in facts.get_all("Requires-Dist") if "extra ==" not in need]
    assert sorted(need.split("<")[0].split(">")[0] for need in plain) == ["keras", "numpy"]
    assert facts["Requires-Python"] == "<3.14,>=3.10"


@pytest.mark.thorough
def test_user_trains_saves_and_loads_beside_a_models_package_of_their_own(wheel, tmp_path, request):
    pythons = [Path(path).absolute() for path in request.config.getoption("--wheel-python")] or [ENVIRONMENT]
    if not pythons[0].exists():
        pytest.skip("no Keras on JAX here: `make .venv-jax/installed`, which `make test` does")
    site, folder = tmp_path / "site", tmp_path / "work"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run([sys.executable, *install], check=True)
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "__init__.py").touch()
    (folder / "models" / "mine.py").write_text('NAME = "the user\'s own"\n')
    shutil.copy(PROGRAM, folder / "program.py")
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    for python in pythons:
        done = subprocess.run(
            [python, "program.py", site],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout.splitlines()[-1])
        print(python, result["python"], result["backend"])
        assert not TOO_MUCH & set(result["modules"])
        assert not _others(python) & set(result["modules"])


def _others(python):
    """Modules that an environment has and neither Keras nor NumPy nor a backend needs."""
    code = f"""
import json
import re
from importlib import metadata
inside = metadata.packages_distributions()
waiting, wanted = list({NEEDS}), set()
while waiting:
    name = waiting.pop().lower().replace("_", "-")
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    if name not in wanted:
        wanted.add(name)
        waiting += [re.match(r"[\\w.-]+", each)[0] for each in found.requires or () if "extra ==" not in each]
named = {{m: {{d.lower().replace("_", "-") for d in of}} for m, of in inside.items()}}
print(json.dumps([module for module, of in named.items() if not of & wanted]))
"""
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))
