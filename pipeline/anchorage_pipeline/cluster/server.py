"""A pipeline on a Kubeflow Pipelines server: its versions, its schedule and its runs, through kfp's own client."""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anchorage.errors import ResourceError, UsageError
from anchorage.extras import needs_extra
from anchorage_pipeline.cluster.settings import Cluster

_TOKEN = "KF_PIPELINES_TOKEN"
_PAGE = 100


@dataclass(frozen=True)
class Schedule:
    """The recurring run of a pipeline on the server.

    Args:
        id: its id on the server.
        version_id: id of the version that it runs.
        trigger: six fields of cron, or the interval in seconds.
        is_active: False while it is paused.
        keeps_rules: whether it catches up no missed runs and starts none while another one runs.
    """

    id: str
    version_id: str
    trigger: str | int
    is_active: bool
    keeps_rules: bool


@dataclass(frozen=True)
class Version:
    """An uploaded version of a pipeline; `name` is the digest of its spec."""

    id: str
    name: str
    created: datetime


class Server:
    """One pipeline on a server, by its name, which is that of the experiment.

    Args:
        cluster: settings of the experiment; `$KF_PIPELINES_TOKEN` is sent as bearer token if it is set.
        name: name of the pipeline, of its experiment on the server, and of its recurring run.

    Raises:
        UsageError: E_EXTRA_MISSING; E_KUBEFLOW_DENIED without permission.
        ResourceError: E_KUBEFLOW_SERVER if no server answers, or one that fails.
    """

    def __init__(self, cluster: Cluster, name: str):
        with needs_extra("kubeflow", "Kubeflow"):
            import kfp

        class Client(kfp.Client):
            """Asks once; kfp itself asks five times for half a minute whether there is a server."""

            def get_kfp_healthz(self, sleep_duration: int = 5):
                return self._healthz_api.healthz_service_get_healthz()

        self.cluster, self.name = cluster, name
        self.address = cluster.host or os.environ.get("KF_PIPELINES_ENDPOINT", "") or "the service of this cluster"
        with self._talking():
            self.client = Client(
                host=cluster.host or None,
                namespace=cluster.namespace or "kubeflow",
                existing_token=os.environ.get(_TOKEN) or None,
            )

    def find_pipeline(self) -> str | None:
        """Id of the pipeline; None if it was never deployed."""
        with self._talking():
            return self.client.get_pipeline_id(self.name)

    def require_pipeline(self) -> str:
        """Id of the pipeline.

        Raises:
            UsageError: E_KUBEFLOW_PIPELINE, if it was never deployed.
        """
        if (found := self.find_pipeline()) is None:
            raise UsageError(
                "E_KUBEFLOW_PIPELINE",
                f"Expected a pipeline {self.name!r} on {self.address}. Found none: `anchorage kubeflow deploy` "
                "creates it",
            )
        return found

    def create_pipeline(self) -> str:
        """Id of the pipeline, which is created if it does not exist."""
        if found := self.find_pipeline():
            return found
        with self._talking():
            pipeline = self.client.api_models.V2beta1Pipeline(
                name=self.name, display_name=self.name, namespace=self.cluster.namespace or None
            )
            return self.client.pipelines.pipeline_service_create_pipeline(pipeline=pipeline).pipeline_id

    def versions(self, pipeline: str) -> list[Version]:
        """All versions, the newest first."""
        found, token = [], ""
        while True:
            with self._talking():
                page = self.client.list_pipeline_versions(pipeline, page_token=token, page_size=_PAGE)
            for each in page.pipeline_versions or []:
                found.append(Version(each.pipeline_version_id, each.display_name, each.created_at))
            if not (token := page.next_page_token or ""):
                return sorted(found, key=lambda version: (version.created, version.id), reverse=True)

    def upload(self, pipeline: str, name: str, spec: str) -> Version:
        """Upload a spec as a version."""
        with tempfile.TemporaryDirectory() as folder, self._talking():
            path = Path(folder) / "pipeline.yaml"
            path.write_text(spec, encoding="utf-8")
            made = self.client.upload_pipeline_version(str(path), name, pipeline_id=pipeline)
        return Version(made.pipeline_version_id, name, made.created_at)

    def schedules(self, experiment: str) -> list[Schedule]:
        """The recurring runs of this pipeline, the newest first; more than one if a deployment was interrupted."""
        found, token = [], ""
        while True:
            with self._talking():
                page = self.client.list_recurring_runs(
                    page_token=token, page_size=_PAGE, sort_by="created_at desc", experiment_id=experiment
                )
            found += [_schedule(each) for each in page.recurring_runs or [] if each.display_name == self.name]
            if not (token := page.next_page_token or ""):
                return found

    def create_experiment(self) -> str:
        """Id of the experiment that groups the runs, which is created if it does not exist."""
        with self._talking():
            found = self.client.create_experiment(self.name, namespace=self.cluster.namespace or None)
        return found.experiment_id

    def create_schedule(
        self, experiment: str, pipeline: str, version: Version, trigger: str | int, is_active: bool
    ) -> str:
        """Create a recurring run without catch-up and overlap; returns its id."""
        timing = {"cron_expression": trigger} if isinstance(trigger, str) else {"interval_second": trigger}
        with self._talking():
            made = self.client.create_recurring_run(
                experiment,
                self.name,
                pipeline_id=pipeline,
                version_id=version.id,
                max_concurrency=1,
                no_catchup=True,
                enabled=is_active,
                service_account=self.cluster.service_account or None,
                **timing,
            )
        return made.recurring_run_id

    def delete_schedule(self, id_: str) -> None:
        """Delete a recurring run; its runs remain."""
        with self._talking():
            self.client.delete_recurring_run(id_)

    def activate(self, id_: str, is_active: bool) -> None:
        """Pause or resume a recurring run."""
        with self._talking():
            (self.client.enable_recurring_run if is_active else self.client.disable_recurring_run)(id_)

    def start(self, experiment: str, pipeline: str, version: Version, parameters: dict[str, Any]) -> str:
        """Start one run; returns its id."""
        name = f"{self.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        with self._talking():
            made = self.client.run_pipeline(
                experiment,
                name,
                params=parameters,
                pipeline_id=pipeline,
                version_id=version.id,
                service_account=self.cluster.service_account or None,
            )
        return made.run_id

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn errors of kfp and of the connection into ours, and keep kfp's links out of the output."""
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            with warnings.catch_warnings(), redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore", FutureWarning)
                yield
        except ApiException as error:
            raise self._explain(error.status, str(error.body or error.reason)) from error
        except (HTTPError, OSError) as error:
            raise ResourceError(
                "E_KUBEFLOW_SERVER",
                f"Expected a Kubeflow Pipelines API at {self.address}. Received: {error}. Set `cluster.host` or "
                "$KF_PIPELINES_ENDPOINT",
            ) from error

    def _explain(self, status: int, body: str) -> Exception:
        text = " ".join(body.split())[:300]
        if status in {401, 403}:
            return UsageError(
                "E_KUBEFLOW_DENIED",
                f"Expected permission for {self.name!r} on {self.address}. Received: {status} {text}. Set ${_TOKEN} "
                "or `cluster.namespace`",
            )
        if 400 <= status < 500:
            return UsageError("E_KUBEFLOW_REFUSED", f"{self.address} refuses the request. Received: {status} {text}")
        return ResourceError("E_KUBEFLOW_SERVER", f"{self.address} failed. Received: {status} {text}. Try again later")


def _schedule(found: Any) -> Schedule:
    trigger, version = found.trigger, found.pipeline_version_reference
    timing: str | int = 0
    if trigger and trigger.cron_schedule:
        timing = trigger.cron_schedule.cron
    elif trigger and trigger.periodic_schedule:
        timing = int(trigger.periodic_schedule.interval_second)
    return Schedule(
        id=found.recurring_run_id,
        version_id=version.pipeline_version_id if version else "",
        trigger=timing,
        is_active=found.mode != "DISABLE" and found.status != "DISABLED",
        keeps_rules=bool(found.no_catchup) and int(found.max_concurrency or 0) == 1,
    )
