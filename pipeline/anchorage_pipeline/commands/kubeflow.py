"""`anchorage kubeflow`: the pipeline on a Kubeflow Pipelines server."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_console, add_experiment
from anchorage_pipeline.results import shown

if TYPE_CHECKING:
    from anchorage_pipeline.cluster.server import Server
    from anchorage_pipeline.config import Experiment

_ACTIONS = {
    "compile": "write the pipeline spec of an experiment to a file",
    "deploy": "upload the experiment as a version, and create or update its schedule",
    "run": "start one run of the deployed version",
    "pause": "pause the schedule; running runs go on",
    "resume": "resume a paused schedule",
    "roll-back": "let the schedule use an earlier version",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to do, each with its own arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, help="what to do")
    parts = {}
    for name, purpose in _ACTIONS.items():
        parts[name] = part = actions.add_parser(
            name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False
        )
        add_experiment(part)
        add_console(part, default=argparse.SUPPRESS)
    compile_ = parts["compile"]
    compile_.add_argument("--output", required=True, type=Path, metavar="FILE.yaml", help="file to write (required)")
    compile_.add_argument("--image", help="container image of all nodes (default: cluster.image)")
    compile_.add_argument(
        "--volume", metavar="FOLDER", help="shared folder in all containers (default: cluster.volume)"
    )
    parts["run"].add_argument(
        "--span", default="", metavar="NAME", help="span of the data, in place of {SPAN} in data.path (default: newest)"
    )
    parts["run"].add_argument(
        "--if-needed",
        action="store_true",
        help="end after the first node unless a limit of [trigger] is passed, as scheduled runs do (default: run)",
    )
    parts["roll-back"].add_argument(
        "--to", metavar="VERSION", help="name of the version (default: the one before the one in use)"
    )


def run(options: argparse.Namespace) -> None:
    """Compile, deploy, run, pause, resume or roll back.

    Raises:
        UsageError: E_EXTRA_MISSING without kfp; E_OUTPUT_SUFFIX, E_CLUSTER_NODE, E_RUN_PARAMETER, E_SPAN,
            E_TRIGGER_MISSING; what the server refuses: E_KUBEFLOW_DENIED, E_KUBEFLOW_PIPELINE, E_KUBEFLOW_VERSION,
            E_KUBEFLOW_SCHEDULE, E_KUBEFLOW_REFUSED.
        ResourceError: E_KUBEFLOW_SERVER.
    """
    {
        "compile": _compile,
        "deploy": _deploy,
        "run": _run,
        "pause": _pause,
        "resume": _pause,
        "roll-back": _roll_back,
    }[options.action](options)


def _compile(options: argparse.Namespace) -> None:
    from anchorage_pipeline.cluster.spec import write_spec

    given = {"image": options.image, "volume": options.volume}
    options.set += [f"cluster.{key}={value}" for key, value in given.items() if value]
    with progress():
        write_spec(_load(options), options.output)
    answer({"spec": options.output})
    print(f"{shown(options.output)}: `anchorage kubeflow deploy` uploads it, or Kubeflow's own web page")


def _deploy(options: argparse.Namespace) -> None:
    from anchorage_pipeline.cluster.deployment import deploy

    experiment = _load(options)
    with progress():
        deployed = deploy(_connect(experiment), _spec(experiment), experiment.cluster)
    answer(asdict(deployed))
    print(f"version  {deployed.version}, {'uploaded' if deployed.is_new else 'as deployed before'}")
    _print_schedule(deployed.trigger, deployed.is_active)


def _run(options: argparse.Namespace) -> None:
    from anchorage_pipeline.cluster.deployment import run_once
    from anchorage_pipeline.cluster.parameters import run_parameters
    from anchorage_pipeline.cluster.spec import compile_experiment
    from anchorage_pipeline.config import load_experiment
    from anchorage_pipeline.trigger import find_limits, require_limits

    with progress():
        deployed, wanted = load_experiment(options.experiment, is_local=False), _load(options)
        server = _connect(deployed)
        parameters = {}
        if options.set:
            parameters = run_parameters(compile_experiment(deployed)[0], compile_experiment(wanted)[0])
        if options.span:
            parameters["span"] = options.span
        if options.if_needed:
            require_limits(wanted)
        elif find_limits(wanted):
            parameters["trigger"] = "{}"
        id_, version = run_once(server, _spec(deployed), parameters)
    answer({"run": id_, "version": version, "parameters": parameters})
    print(f"run      {id_} of version {version}")
    for name in parameters:
        print(f"         with another {name}")


def _pause(options: argparse.Namespace) -> None:
    from anchorage_pipeline.cluster.deployment import pause

    is_active = options.action == "resume"
    with progress():
        schedule = pause(_connect(_load(options)), is_active=is_active)
    answer({"schedule": schedule.id, "trigger": schedule.trigger, "is_active": is_active})
    _print_schedule(schedule.trigger, is_active)


def _roll_back(options: argparse.Namespace) -> None:
    from anchorage_pipeline.cluster.deployment import roll_back

    with progress():
        deployed = roll_back(_connect(_load(options)), options.to)
    answer(asdict(deployed))
    print(f"version  {deployed.version}")
    _print_schedule(deployed.trigger, deployed.is_active)


def _load(options: argparse.Namespace) -> "Experiment":
    from anchorage_pipeline.config import load_experiment

    return load_experiment(options.experiment, options.set, is_local=False)


def _connect(experiment: "Experiment") -> "Server":
    from anchorage_pipeline.cluster.server import Server

    return Server(experiment.cluster, experiment.name)


def _spec(experiment: "Experiment") -> str:
    from anchorage_pipeline.cluster.spec import compile_experiment, format_spec

    return format_spec(*compile_experiment(experiment))


def _print_schedule(trigger: str | int, is_active: bool) -> None:
    timing = f"every {trigger / 3600:g} hours" if isinstance(trigger, int) else f"cron {trigger}"
    print(f"schedule {timing if trigger else 'none'}{'' if is_active or not trigger else ', paused'}")
