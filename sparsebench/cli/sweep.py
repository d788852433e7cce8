"""``sparsebench sweep``: one run for every combination of comma-separated values, or of an experiment's grids."""

from __future__ import annotations

from collections.abc import Sequence

from sparsebench.cli import theory, train
from sparsebench.cli.hydra_program import SHOWS, in_full, register
from sparsebench.cli.subcommand import Section, Subcommand


def main(arguments: Sequence[str]) -> int:
    """Run ``sparsebench sweep ARGUMENTS``.

    Returns:
        The exit status, 0.

    Raises:
        SettingError: A setting is wrong.
        RunError: Runs are left that failed.
    """
    if any(word.startswith("study=") for word in arguments):
        return theory.main(arguments, sweep=True)
    from sparsebench.config import renamed

    register()
    typed = renamed.words(arguments)
    words = [in_full(word) for word in typed]
    return train.handed_over(typed, words if SHOWS & set(words) else [*words, "--multirun"])


COMMAND = Subcommand(
    name="sweep",
    help="one run for every combination of comma-separated values",
    section=Section.RUN,
    order=1,
    config="train",
    examples=("sparsebench sweep prune=dense,gmp,dpf sparsity=0.9,0.95 seed=0,1,2",),
    run=main,
)
