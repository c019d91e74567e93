"""Publishing killed before every single file operation: what was published stays whole, and the next run succeeds."""

import subprocess
import sys

from anchorage.release import current_version, list_releases, open_release, publish_release, roll_back

# Forks once per operation: the child counts what it asks of the system and kills itself before the n-th.
_SCRIPT = """
import os, shutil, signal, sys
from anchorage.release import publish_release

releases, cases, model, index = sys.argv[1:]
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock", "shutil.rmtree"}
count, armed = [0], [0]

def step(event, *args):
    if armed[0] and event in EVENTS:
        count[0] += 1
        if count[0] == armed[0]:
            os.kill(os.getpid(), signal.SIGKILL)

def counted(name):
    honest = getattr(os, name)
    def call(*args):
        step("open")
        return honest(*args)
    return call

sys.addaudithook(step)
os.fsync = counted("fsync")
for n in range(1, 1000):
    folder = f"{cases}/{n}"
    shutil.copytree(releases, folder)
    child = os.fork()
    if not child:
        armed[0] = n
        publish_release(folder, model_folder=model, index_folder=index,
                        files={"gallery.parquet": b"ids", "report/a.html": b"x" * 100_000}, facts={"run_key": "two"})
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_before_every_operation(sources, make_sources, releases, tmp_path):
    sources.publish(releases)
    (tmp_path / "cases").mkdir()
    two = make_sources("two")
    command = [sys.executable, "-c", _SCRIPT, str(releases), str(tmp_path / "cases"), str(two.model), str(two.index)]
    subprocess.run(command, check=True)
    cases = sorted((tmp_path / "cases").iterdir(), key=lambda path: int(path.name))
    assert len(cases) > 60  # every open, flush, rename and remove of the publication
    ends = []
    for case in cases:
        shown = [summary.version for summary in list_releases(case)]
        for version in shown:
            assert open_release(case, version)  # whatever bears a number is whole
        assert current_version(case) in shown  # the pointer never names what is not there yet
        ends.append((current_version(case), len(shown)))
        files = {"gallery.parquet": b"ids", "report/a.html": b"x" * 100_000}
        again = publish_release(
            case, model_folder=two.model, index_folder=two.index, files=files, facts={"run_key": "two"}
        )
        # Published once, whether it was killed before the rename, between rename and pointer, or after.
        assert again == shown[-1] if len(shown) == 2 else again > shown[-1]
        assert [summary.version for summary in list_releases(case)] == [1, again]
        assert open_release(case).version == again
        assert not list(case.glob(".tmp-*"))
        assert roll_back(case) == 1
    assert ends[0] == (1, 1)
    assert ends[-1] == (2, 2)
    assert ends == sorted(ends)  # first nothing, then the folder, then the pointer
