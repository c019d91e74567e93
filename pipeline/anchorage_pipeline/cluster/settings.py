"""The section `[cluster]` of an experiment file: what a run on Kubeflow needs beside the experiment itself."""

from typing import Annotated

from pydantic import Field, model_validator

from anchorage_pipeline.values import Count, NonNegative, Section

Quantity = Annotated[
    str, Field(pattern=r"^$|^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$")
]  # of Kubernetes, such as "500m", "16Gi"
SecretKey = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._-]+$")]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^$|^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]


class Node(Section):
    """What one node of the pipeline gets, where it differs from the others; values that are not set are theirs."""

    cpu: Quantity | None = None
    """Number of cores, as for all nodes."""
    memory: Quantity | None = None
    """Memory, as for all nodes."""
    gpu: Count | None = None
    """Number of GPUs."""
    retries: Count | None = None
    """Number of retries."""
    timeout_minutes: NonNegative | None = None
    """Time limit in minutes."""
    node_selector: dict[str, LabelValue] | None = None
    """Labels of the machines."""


class Cluster(Section):
    """Runs on Kubeflow: image, machines, schedule. Nothing else depends on it."""

    host: str = ""
    """Address of the Kubeflow Pipelines API; "" is $KF_PIPELINES_ENDPOINT, or the service of the own cluster."""
    namespace: str = ""
    """Namespace of the runs, which a multi-user installation needs."""
    service_account: str = ""
    """Service account of the runs; "" is that of the installation."""
    image: Annotated[str, Field(pattern=r"^\S+$")] = "anchorage:latest"
    """Container image of all nodes."""
    volume: Annotated[str, Field(pattern=r"^/\S*[^/\s]$")] = "/mnt/anchorage"
    """Folder in all containers that they share: artifacts, releases, checkpoints, cached features."""
    volume_claim: Annotated[str, Field(pattern=r"^$|^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] = ""
    """Persistent volume claim mounted there, of access mode ReadWriteMany; "" mounts none."""
    secrets: dict[str, SecretKey] = {}
    """Variables of the environment of all nodes from Kubernetes secrets, such as
    `{ PGPASSWORD = "anchorage/postgresql-password" }` for the key after the slash."""
    cron: str = ""
    """Schedule in six fields, seconds first, such as "0 0 3 * * 1" for Mondays at 3; "" has none."""
    interval_hours: NonNegative = 0.0
    """Hours between scheduled runs, instead of `cron`; 0 has none."""
    cpu: Quantity = ""
    """Number of cores per node, such as "4" or "500m"; "" sets no limit."""
    memory: Quantity = ""
    """Memory per node, such as "16Gi"; "" sets no limit."""
    gpu: Count = 0
    """Number of GPUs per node; `nodes` can give the Trainer more."""
    gpu_resource: Annotated[str, Field(pattern=r"^[a-z0-9./-]+$")] = "nvidia.com/gpu"
    """Resource name of the GPUs."""
    retries: Count = 2
    """Times that a failed node is tried again, after 1, 2, 4 minutes and so on; a rejected candidate is not."""
    timeout_minutes: NonNegative = 0.0
    """Minutes after which a node is stopped; 0 has no limit."""
    node_selector: dict[str, LabelValue] = {}
    """Labels that the machine of a node must have, such as `{ pool = "gpu" }`."""
    nodes: dict[str, Node] = {}
    """Other cpu, memory, gpu, retries, timeout_minutes, node_selector for a node, as in `[cluster.nodes.Trainer]`."""

    @model_validator(mode="after")
    def _one_schedule(self):
        if self.cron and self.interval_hours:
            raise ValueError("`cron` and `interval_hours` exclude one another")
        if self.cron and len(self.cron.split()) != 6:
            raise ValueError(f"`cron` has six fields, seconds first. Received: {self.cron!r}")
        return self

    def for_node(self, name: str) -> Node:
        """The values of a node, with those of all nodes where it has none of its own."""
        own = self.nodes.get(name, Node())
        values = {field: getattr(own, field) for field in Node.model_fields}
        return Node(**{key: getattr(self, key) if value is None else value for key, value in values.items()})
