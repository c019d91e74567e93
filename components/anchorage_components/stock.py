"""TFX's own nodes, on local folders as the others: see `anchorage_components.nodes`."""

from tfx.components import ExampleValidator as _ExampleValidator
from tfx.components import SchemaGen as _SchemaGen
from tfx.components import StatisticsGen as _StatisticsGen
from tfx.components import Trainer as _Trainer
from tfx.components.example_validator import executor as validating
from tfx.components.schema_gen import executor as inferring
from tfx.components.statistics_gen import executor as counting
from tfx.components.trainer import executor as training
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec, ExecutorClassSpec

from anchorage_components.nodes import on_local_folders


@on_local_folders
class StatisticsExecutor(counting.Executor):
    """Computes statistics of examples."""


@on_local_folders
class SchemaExecutor(inferring.Executor):
    """Infers a schema from statistics."""


@on_local_folders
class ValidationExecutor(validating.Executor):
    """Compares statistics with a schema."""


@on_local_folders
class TrainingExecutor(training.GenericExecutor):
    """Calls the run function."""


class StatisticsGen(_StatisticsGen):
    """TFX's node, with this executor."""

    EXECUTOR_SPEC = BeamExecutorSpec(StatisticsExecutor)


class SchemaGen(_SchemaGen):
    """TFX's node, with this executor."""

    EXECUTOR_SPEC = ExecutorClassSpec(SchemaExecutor)


class ExampleValidator(_ExampleValidator):
    """TFX's node, with this executor."""

    EXECUTOR_SPEC = ExecutorClassSpec(ValidationExecutor)


class Trainer(_Trainer):
    """TFX's node, with this executor."""

    EXECUTOR_SPEC = ExecutorClassSpec(TrainingExecutor)
