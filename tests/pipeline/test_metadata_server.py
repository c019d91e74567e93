"""ML Metadata on real database servers."""

import logging
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from databases import fresh_database, running_mariadb, running_postgresql
from sqlalchemy import make_url

from anchorage.errors import ResourceError
from anchorage_pipeline.metadata.server import PASSWORD, Address, ServerMetadata, parse_url
from anchorage_pipeline.progress import log_to
from anchorage_pipeline.run import read_run, run_nodes

SECRET = "s3cret-of-the-test"


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request):
    """URL of an empty database; its server runs until the end of the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSWORD, SECRET)
        if request.param == "mariadb":
            with (
                tempfile.TemporaryDirectory(prefix="db-") as short,
                running_mariadb(Path(short), "anchorage", SECRET) as socket,
            ):
                yield f"mysql://anchorage@localhost/metadata?socket={socket}"
            return
        with running_postgresql() as url:
            made = make_url(fresh_database(url, "metadata"))
            yield f"postgresql://{made.username}@localhost/metadata?socket={made.query['host']}"


def test_two_runs_at_once_each_keep_their_own(server, tmp_path):
    # One experiment in two folders: the runs share the names of the pipeline and of its nodes.
    from owned_pipeline import owned_pipeline  # imports TFX

    ready = threading.Barrier(2)

    def run(owner):
        metadata = ServerMetadata(server)
        metadata.prepare(tmp_path / owner)
        pipeline = owned_pipeline(tmp_path / owner, owner, metadata.config)
        ready.wait(60)
        run_nodes(pipeline, f"run of {owner}")
        return read_run(metadata, f"run of {owner}")

    with ThreadPoolExecutor(2) as pool:
        summaries = dict(zip("ab", pool.map(run, "ab"), strict=True))
    for owner, summary in summaries.items():
        assert summary.states == {"write_owner": "COMPLETE", "pass_on": "COMPLETE"}
        assert set(summary.outputs) == {"write_owner.text", "pass_on.copy"}
        for folder in summary.outputs.values():
            assert Path(folder).is_relative_to(tmp_path / owner)
            assert Path(folder, "owner.txt").read_text() == owner
    states = ServerMetadata(server).read_states("run of a")
    assert {node: state.state for node, state in states.items()} == {"write_owner": "COMPLETE", "pass_on": "COMPLETE"}
    assert ServerMetadata(server).read_states("run of nobody") == {}


def test_tables_that_another_run_creates_meanwhile_are_waited_for(monkeypatch):
    from ml_metadata import metadata_store

    attempts = []

    def race(config):
        attempts.append(config)
        if len(attempts) < 3:
            raise RuntimeError("duplicate key value violates unique constraint")
        return "store"

    monkeypatch.setattr(metadata_store, "MetadataStore", race)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert ServerMetadata("postgresql://me@db/runs").open() == "store"
    assert len(attempts) == 3


def test_ids_of_new_executions_are_above_those_of_existing_artifacts(server, tmp_path):
    from ml_metadata.proto import metadata_store_pb2 as pb

    (tmp_path / "Trainer/model/512").mkdir(parents=True)
    metadata = ServerMetadata(server)
    for _ in range(2):
        metadata.prepare(tmp_path)
    store = metadata.open()
    kind = store.put_execution_type(pb.ExecutionType(name="node"))
    assert store.put_executions([pb.Execution(type_id=kind)]) == [513]


def test_a_server_that_cannot_be_reached_is_named_with_what_to_check(tmp_path):
    metadata = ServerMetadata("mysql://anchorage@127.0.0.1:9/metadata")
    with pytest.raises(ResourceError, match=r"E_METADATA_SERVER.*mysql://anchorage@127.0.0.1:9/metadata.*PASSWORD"):
        metadata.prepare(tmp_path)
    assert metadata.read_states("any") is None


def test_urls_are_parsed():
    assert parse_url("postgresql://me@db.example:5433/runs") == Address(
        "postgresql", "db.example", 5433, "", "me", "runs"
    )
    assert parse_url("mysql://a%40b@db/runs?socket=/run/x") == Address("mysql", "db", 3306, "/run/x", "a@b", "runs")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x",
        "runs.sqlite",
        "postgresql://db/runs",
        "mysql://me@db",
        "mysql://me@db/runs?tls=1",
        "mysql://m@d:x/r",
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match=r"expected postgresql|[Pp]ort"):
        parse_url(url)


def test_a_password_in_the_url_is_refused_since_releases_record_the_experiment_file():
    with pytest.raises(ValueError, match=PASSWORD) as caught:
        parse_url(f"postgresql://me:{SECRET}@db/runs")
    assert SECRET not in str(caught.value)


def test_the_log_of_a_run_has_no_password(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSWORD, SECRET)
    config = ServerMetadata("postgresql://me@db/runs").config
    with log_to(tmp_path / "run.log", secret=SECRET):
        logging.getLogger("tfx").info("Using connection config:\n %s", config)
    text = (tmp_path / "run.log").read_text()
    assert SECRET not in text
    assert '"runs"' in text
    assert '"***"' in text
