"""The subcommands and their one-line descriptions."""

COMMANDS = {
    "train": "train and prune one model, or resume an interrupted run",
    "sweep": "one run per combination of comma-separated values",
    "theory": "compare a paper's prediction with a simulation",
    "status": "the state of the runs in a folder",
    "logs": "print the log of a run",
    "collect": "the results of many runs as one CSV",
    "merge": "merge the runs of several folders",
    "compare": "compare runs with each other or with papers: means, intervals, differences",
    "report": "an HTML page and figures of results",
    "audit": "verify finished runs against their weights, config and data",
    "evaluate": "evaluate calibration, classes, corruptions, ... of finished runs",
    "data": "verify a data set on disk, or pack its images for faster reading",
    "list": "list models, data sets, methods, schedules, ... with their papers",
    "completion": "print the completion script for bash, zsh or fish",
}
