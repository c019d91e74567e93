"""Deployment of `anchorage kubeflow` on a server; each step is idempotent."""

import hashlib
from dataclasses import dataclass
from typing import Any

from anchorage.errors import UsageError
from anchorage_pipeline.cluster.server import Schedule, Server, Version
from anchorage_pipeline.cluster.settings import Cluster


@dataclass(frozen=True)
class Deployed:
    """The state after a deployment or a roll-back.

    Args:
        pipeline: id of the pipeline on the server.
        version: name of the version that the schedule runs.
        is_new: whether the version was uploaded just now.
        schedule: id of the recurring run; "" if there is none.
        trigger: its cron expression, or seconds between two runs; "" without a schedule.
        is_active: False if the recurring run is paused.
    """

    pipeline: str
    version: str
    is_new: bool
    schedule: str = ""
    trigger: str | int = ""
    is_active: bool = False


def version_name(spec: str) -> str:
    """Name of the version of a spec: a digest, so that the same file is never uploaded twice."""
    return hashlib.sha256(spec.encode()).hexdigest()[:12]


def deploy(server: Server, spec: str, cluster: Cluster) -> Deployed:
    """Upload a spec unless the server has it, and make the recurring run what the settings say."""
    pipeline = server.create_pipeline()
    name = version_name(spec)
    version = next((each for each in server.versions(pipeline) if each.name == name), None)
    is_new = version is None
    version = version or server.upload(pipeline, name, spec)
    trigger = cluster.cron or round(3600 * cluster.interval_hours)
    return _schedule(server, pipeline, version, trigger, is_new)


def run_once(server: Server, spec: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """Start a run of the version of this spec; returns the id of the run and the name of the version.

    Raises:
        UsageError: E_KUBEFLOW_PIPELINE, E_KUBEFLOW_VERSION if this version was not deployed.
    """
    pipeline, name = server.require_pipeline(), version_name(spec)
    version = next((each for each in server.versions(pipeline) if each.name == name), None)
    if version is None:
        raise UsageError(
            "E_KUBEFLOW_VERSION",
            f"Expected version {name} of {server.name!r} on {server.address}, which is that of the file and the code. "
            "Found none: `anchorage kubeflow deploy` uploads it",
        )
    return server.start(server.create_experiment(), pipeline, version, parameters), name


def pause(server: Server, *, is_active: bool) -> Schedule:
    """Pause the recurring run, or resume it.

    Raises:
        UsageError: E_KUBEFLOW_PIPELINE, E_KUBEFLOW_SCHEDULE if there is no recurring run.
    """
    server.require_pipeline()
    found = _require_schedules(server)
    for each in found:
        if each.is_active != is_active:
            server.activate(each.id, is_active)
    return found[0]


def roll_back(server: Server, to: str | None) -> Deployed:
    """Let the recurring run use an earlier version; versions remain on the server.

    Args:
        server: the server.
        to: name of the version; None takes the one uploaded before the one in use.

    Raises:
        UsageError: E_KUBEFLOW_PIPELINE, E_KUBEFLOW_SCHEDULE, E_KUBEFLOW_VERSION if there is no such version.
    """
    pipeline = server.require_pipeline()
    current = _require_schedules(server)[0]
    versions = server.versions(pipeline)
    if to:
        candidates = [version for version in versions if version.name == to]
    else:
        used = next((place for place, version in enumerate(versions) if version.id == current.version_id), -1)
        candidates = versions[used + 1 :]
    if not candidates:
        raise UsageError(
            "E_KUBEFLOW_VERSION",
            f"Expected {f'version {to!r}' if to else 'an earlier version'} of {server.name!r}. Received, newest first: "
            f"{', '.join(version.name for version in versions)}",
        )
    return _schedule(server, pipeline, candidates[0], current.trigger, False)


def _require_schedules(server: Server) -> list[Schedule]:
    if found := server.schedules(server.create_experiment()):
        return found
    raise UsageError(
        "E_KUBEFLOW_SCHEDULE",
        f"Expected a recurring run {server.name!r} on {server.address}. Found none: set `cluster.cron` or "
        "`cluster.interval_hours`, and deploy",
    )


def _schedule(server: Server, pipeline: str, version: Version, trigger: str | int, is_new: bool) -> Deployed:
    """Replace the recurring runs by one with this version and trigger, created before others are deleted.

    The API cannot change a recurring run. A paused one stays paused.
    """
    experiment = server.create_experiment()
    found = server.schedules(experiment)
    wanted = (version.id, trigger, True)
    kept = next((each for each in found if (each.version_id, each.trigger, each.keeps_rules) == wanted), None)
    is_active = all(each.is_active for each in found)
    id_ = kept.id if kept else ""
    if trigger and kept is None:
        id_ = server.create_schedule(experiment, pipeline, version, trigger, is_active)
    for each in found:
        if each.id != id_:
            server.delete_schedule(each.id)
    return Deployed(pipeline, version.name, is_new, id_, trigger or "", bool(trigger) and is_active)
