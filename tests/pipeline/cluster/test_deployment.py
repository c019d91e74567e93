"""Versions, schedule and runs on a server, by kfp's own client."""

import pytest
from kubeflow_server import serve_kubeflow

from anchorage.errors import ResourceError, UsageError
from anchorage_pipeline.cluster.deployment import deploy, pause, roll_back, run_once, version_name
from anchorage_pipeline.cluster.server import Server
from anchorage_pipeline.cluster.settings import Cluster

WEEKLY = {"cron": "0 0 3 * * 1"}


@pytest.fixture
def kubeflow(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serve_kubeflow() as (host, store):
        yield lambda **settings: (cluster := Cluster(host=host, **settings), Server(cluster, "icons")), store


def deployed(connect, spec, **settings):
    cluster, server = connect(**settings)
    return deploy(server, spec, cluster)


def only(items):
    [item] = items.values()
    return item


def test_the_first_deployment_makes_a_version_and_a_schedule_without_catch_up_and_overlap(kubeflow):
    connect, store = kubeflow
    first = deployed(connect, "a: 1\n", **WEEKLY)
    assert first.is_new
    assert first.is_active
    assert only(store.versions)["spec"] == "a: 1\n"
    assert only(store.versions)["display_name"] == first.version == version_name("a: 1\n")
    schedule = only(store.recurringruns)
    assert schedule["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert schedule["no_catchup"] is True
    assert int(schedule["max_concurrency"]) == 1
    assert schedule["mode"] == "ENABLE"
    assert schedule["experiment_id"] == only(store.experiments)["experiment_id"]


def test_the_same_deployment_again_changes_nothing(kubeflow):
    connect, store = kubeflow
    first = deployed(connect, "a: 1\n", **WEEKLY)
    before = dict(store.recurringruns)
    store.requests.clear()
    again = deployed(connect, "a: 1\n", **WEEKLY)
    assert not again.is_new
    assert (again.version, again.schedule) == (first.version, first.schedule)
    assert {method for method, _, _ in store.requests} == {"GET"}
    assert store.recurringruns == before


@pytest.mark.parametrize(
    ("change", "trigger"),
    [
        ({"cron": "0 0 4 * * 1"}, {"cron_schedule": {"cron": "0 0 4 * * 1"}}),
        ({"interval_hours": 1.5}, {"periodic_schedule": {"interval_second": 5400}}),
    ],
)
def test_another_time_replaces_the_schedule(kubeflow, change, trigger):
    connect, store = kubeflow
    deployed(connect, "a: 1\n", **WEEKLY)
    second = deployed(connect, "a: 1\n", **change)
    schedule = only(store.recurringruns)
    assert schedule["recurring_run_id"] == second.schedule
    assert schedule["trigger"] == trigger
    assert len(store.versions) == 1


def test_no_time_removes_the_schedule(kubeflow):
    connect, store = kubeflow
    deployed(connect, "a: 1\n", **WEEKLY)
    assert deployed(connect, "a: 1\n").schedule == ""
    assert not store.recurringruns


def test_a_paused_schedule_stays_paused_with_a_new_version_until_it_is_resumed(kubeflow):
    connect, store = kubeflow
    deployed(connect, "a: 1\n", **WEEKLY)
    pause(connect()[1], is_active=False)
    assert only(store.recurringruns)["status"] == "DISABLED"
    assert not deployed(connect, "a: 2\n", **WEEKLY).is_active
    assert only(store.recurringruns)["mode"] == "DISABLE"
    pause(connect()[1], is_active=True)
    assert only(store.recurringruns)["status"] == "ENABLED"


def test_a_roll_back_goes_one_version_back_and_to_any(kubeflow):
    connect, store = kubeflow
    names = [deployed(connect, f"a: {number}\n", **WEEKLY).version for number in range(4)]  # two pages
    server = connect()[1]
    assert roll_back(server, None).version == names[2]
    assert roll_back(server, None).version == names[1]
    assert roll_back(server, names[3]).version == names[3]
    used = only(store.recurringruns)["pipeline_version_reference"]["pipeline_version_id"]
    assert store.versions[used]["display_name"] == names[3]
    roll_back(server, names[0])
    with pytest.raises(UsageError, match="E_KUBEFLOW_VERSION"):
        roll_back(server, None)
    with pytest.raises(UsageError, match=r"E_KUBEFLOW_VERSION.*'gone'"):
        roll_back(server, "gone")


def test_a_run_takes_the_version_of_the_spec_and_its_parameters(kubeflow):
    connect, store = kubeflow
    deployed(connect, "a: 1\n")
    deployed(connect, "a: 2\n")
    _, version = run_once(connect()[1], "a: 1\n", {"span": "7"})
    run = only(store.runs)
    assert run["runtime_config"]["parameters"] == {"span": "7"}
    used = run["pipeline_version_reference"]["pipeline_version_id"]
    assert store.versions[used]["display_name"] == version == version_name("a: 1\n")
    with pytest.raises(UsageError, match="E_KUBEFLOW_VERSION"):
        run_once(connect()[1], "a: 3\n", {})


@pytest.mark.parametrize("requests", [1, 3, 5, 7])  # of eight
def test_a_deployment_that_breaks_off_is_completed_by_the_next_one(kubeflow, requests):
    connect, store = kubeflow
    deployed(connect, "a: 1\n", **WEEKLY)
    store.break_after = requests
    with pytest.raises(ResourceError, match="E_KUBEFLOW_SERVER"):
        deployed(connect, "a: 2\n", cron="0 0 4 * * 1")
    store.break_after = None
    second = deployed(connect, "a: 2\n", cron="0 0 4 * * 1")
    assert [each["display_name"] for each in store.versions.values()] == [version_name(f"a: {n}\n") for n in (1, 2)]
    schedule = only(store.recurringruns)
    assert schedule["recurring_run_id"] == second.schedule
    assert schedule["trigger"] == {"cron_schedule": {"cron": "0 0 4 * * 1"}}


def test_errors_say_what_to_do(kubeflow, monkeypatch):
    connect, store = kubeflow
    server = connect()[1]
    for ask, *rest in ((run_once, "", {}), (roll_back, None)):
        with pytest.raises(UsageError, match=r"E_KUBEFLOW_PIPELINE.*kubeflow deploy"):
            ask(server, *rest)
    deployed(connect, "a: 1\n")
    with pytest.raises(UsageError, match="E_KUBEFLOW_SCHEDULE"):
        pause(server, is_active=False)
    for status, code in ((401, "E_KUBEFLOW_DENIED"), (403, "E_KUBEFLOW_DENIED"), (400, "E_KUBEFLOW_REFUSED")):
        store.refuse = (status, "said so")
        with pytest.raises(UsageError, match=f"{code}.*said so"):
            server.find_pipeline()
    store.refuse = (503, "later")
    with pytest.raises(ResourceError, match=r"E_KUBEFLOW_SERVER.*503"):
        connect()
    store.refuse = None
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "secret")
    connect()[1].find_pipeline()
    assert store.requests[-1][2] == "Bearer secret"


def test_an_unreachable_server_is_a_resource_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ResourceError, match=r"E_KUBEFLOW_SERVER.*127\.0\.0\.1:9.*cluster\.host"):
        Server(Cluster(host="http://127.0.0.1:9"), "icons")
