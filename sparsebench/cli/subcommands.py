"""The subcommands, and what each is for."""

COMMANDS = {
    "train": "train and prune one model, or go on with an interrupted run",
    "sweep": "one run for every combination of comma-separated values",
    "theory": "a paper's prediction beside a simulation",
    "status": "what has become of the runs of a folder",
    "logs": "the log of a run",
    "collect": "the rows of many runs as one CSV",
    "merge": "the runs of several folders in one",
    "compare": "tables over runs, and beside papers' numbers: means, intervals, differences",
    "report": "a page and figures on results",
    "audit": "check what finished runs say of themselves against their weights, config and data",
    "evaluate": "calibration, classes, corruptions, ... of finished runs",
    "data": "check a data set on disk, or pack its images to be read faster",
    "list": "models, data sets, methods, schedules, ... with their papers",
    "completion": "print the completion script for bash, zsh or fish",
}
