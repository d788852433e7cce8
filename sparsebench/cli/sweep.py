"""``sparsebench sweep``: one run per combination of comma-separated values, or of an experiment's grids."""

from __future__ import annotations

from collections.abc import Sequence

from sparsebench.cli import theory, train
from sparsebench.cli.hydra_program import HELP_FLAGS, INFO_FLAGS, expand_shorthand, register
from sparsebench.cli.subcommand import Section, Subcommand


def main(arguments: Sequence[str]) -> int:
    """Run ``sparsebench sweep ARGUMENTS``.

    Returns:
        The exit status, 0.

    Raises:
        SettingError: A setting is wrong.
        RunError: Some runs failed.
    """
    if any(override.startswith("study=") for override in arguments):
        return theory.main(arguments, sweep=True)
    argv = train.present_overrides([word for word in arguments if word not in train.MULTIRUN])
    overrides = [expand_shorthand(override) for override in argv]
    if not HELP_FLAGS & set(overrides):
        register()  # imports PyTorch
    more = [] if (INFO_FLAGS | HELP_FLAGS) & set(overrides) else ["--multirun"]
    return train.run_hydra(argv, [*overrides, *more], "sweep")


COMMAND = Subcommand(
    name="sweep",
    help="one run per combination of comma-separated values",
    section=Section.RUN,
    order=1,
    config="train",
    examples=("sparsebench sweep prune=dense,gmp,dpf sparsity=0.9,0.95 seed=0,1,2",),
    run=main,
)
