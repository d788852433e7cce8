"""``sparsebench compare``: tables over runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sparsebench.cli.left_out import LeftOut
from sparsebench.cli.subcommand import Section, Subcommand, number
from sparsebench.errors import RunError, SettingError, one_of, printable
from sparsebench.paths import references

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    import pandas as pd

    from sparsebench.compare.comparison import Comparison

REFERENCE = "reference:"

EPILOG = """\
One PATH is compared with its own dense runs, several PATHs with the first. Rows are joined on the settings of the runs:
settings that vary within a table identify rows; settings that only differ between tables are listed and not joined on.
Intervals are 95 % confidence intervals, paired by seed if both have at least two seeds in common. With a paper's table
(reference:dpf RESULTS), our results are shown next to the published ones, and are called a reproduction only if the
protocol is known to be the same. Exit status: 1 if a requested check fails, 2 for invalid input.
"""


class TableSource(NamedTuple):
    """One table to compare: its name on the command line, and the file or folder."""

    given: str
    path: Path

    @property
    def published(self) -> bool:
        """Whether it holds published numbers."""
        from sparsebench.compare.published import is_published

        return self.path.is_file() and is_published(self.path)


def run(options: Namespace) -> int:
    """Print the comparison of the named results, or write it with ``-o``.

    Raises:
        SettingError: A path holds no results, a column does not exist, or FILE is not writable.
        RunError: A condition of ``--fail-below`` or ``--fail-on-missing`` holds, or runs could not be read; the table
            has been written.
    """
    from sparsebench.files import check_output

    check_output(options.output)
    sources = [_source(argument) for argument in options.paths]
    if options.fail_below is not None and len(sources) < 2:
        raise SettingError("fail-below", options.fail_below, "two tables or more to compare")
    if options.fail_on_missing and len(sources) < 2:
        raise SettingError("fail-on-missing", None, "two tables or more to compare")
    names = _names(options.map)
    papers = [source for source in sources if source.published]
    if options.unfinished:
        options.below = _unfinished(sources, options)
        if waiting := [s.given for s in sources if s.path.is_dir() and not _finished(s.path)]:
            options.left_out.note(f"no finished run yet in {', '.join(waiting)}")
            _write_output("", options)
            options.left_out.check()
            return 0
    failed = _published(sources, papers, names, options) if papers else _compared(sources, names, options)
    if failed := "; ".join(text for text in (failed, str(options.left_out)) if text):
        raise RunError(failed)
    return 0


def _unfinished(sources: Sequence[TableSource], options: Namespace) -> str:
    """The text below the comparison: the unfinished runs of every folder."""
    from sparsebench.compare.table import WITH_NOTES, render
    from sparsebench.compare.unfinished import unfinished_table

    if options.format not in WITH_NOTES:
        allowed = f"{', '.join(WITH_NOTES)}, with --unfinished; collect --unfinished writes such runs as CSV"
        raise SettingError("format", options.format, allowed)
    texts = []
    for source, label in zip(sources, _labels([source.given for source in sources]), strict=True):
        cells, notes = unfinished_table(source.path, options.left_out) if source.path.is_dir() else (None, [])
        if cells is not None and len(cells):
            comment = "% " if options.format == "latex" else ""
            texts.append(f"\n{comment}unfinished in {label}:\n\n{render(cells, options.format, notes)}")
    return "".join(texts) or "\nno unfinished runs\n"


def _finished(folder: Path) -> bool:
    from sparsebench.records.run_folder import finished_runs

    return bool(finished_runs(folder))


def _source(argument: str) -> TableSource:
    if not argument.startswith(REFERENCE):
        return TableSource(argument, Path(argument))
    name, known = argument[len(REFERENCE) :], references()
    if name not in known:
        raise SettingError("reference", name or None, one_of(known, name))
    return TableSource(argument, known[name])


def _names(arguments: Iterable[str]) -> dict[str, str]:
    """Map of foreign column names to ours."""
    pairs = [pair.partition("=")[::2] for argument in arguments for pair in argument.split(",")]
    for theirs, ours in pairs:
        if not theirs or not ours:
            raise SettingError("map", f"{theirs}={ours}", "THEIRS=OURS, for example accuracy=top1")
    return dict(pairs)


def _read(source: TableSource, label: str, names: dict[str, str], options: Namespace) -> pd.DataFrame:
    import pandas as pd

    from sparsebench.compare.configurations import NEEDED
    from sparsebench.records.collect import read
    from sparsebench.records.run_folder import unfinished

    columns = {*NEEDED, options.metric, *(options.on or ())}
    left_out: LeftOut = options.left_out
    frame = read(source.path, columns, names, left_out, left_out.note)
    if options.metric not in frame:  # all columns, so that the error can list them
        frame = read(source.path, names=names, report=left_out)
    if warning := _excluded_runs(frame, len(unfinished(source.path))):
        left_out.note(f"{source.given}: {warning}")
    if options.metric in ("top1", "val_top1") and "schema" not in frame:
        values = pd.to_numeric(frame[options.metric], errors="coerce") if options.metric in frame else None
        if values is not None and values.max() <= 1:
            left_out.note(f"warning: {label}: {options.metric} is at most 1; ours is in percent")
    return frame


def _compared(sources: Sequence[TableSource], names: dict[str, str], options: Namespace) -> str:
    """Compare tables of runs; returns what a --fail option found, or an empty string."""
    from sparsebench.compare.comparison import compare
    from sparsebench.compare.layout import format_for_display
    from sparsebench.compare.table import WITH_NOTES, exact, render

    labels = _labels([source.given for source in sources])
    tables = [(label, _read(s, label, names, options)) for label, s in zip(labels, sources, strict=True)]
    result = compare(tables, options.metric, options.on)
    decimals = 2 if "top" in options.metric else None  # accuracies are in percent; the rest is of any size
    if options.format in WITH_NOTES:
        shown, lines = format_for_display(result, decimals)
        _write_output(render(shown, options.format, lines), options)
    else:
        _write_output(exact(result.frame, options.format), options)
        _print_notes(result.notes)
    failed = [] if options.fail_below is None else [_regressions(result, options.fail_below, decimals)]
    if options.fail_on_missing and len(sources) > 1:
        failed.append(_missing(result))
    return "; ".join(text for text in failed if text)


def _published(
    sources: Sequence[TableSource], papers: Sequence[TableSource], names: dict[str, str], options: Namespace
) -> str:
    """Compare our results with a paper's; returns what a --fail option found, or an empty string."""
    from sparsebench.compare.published import cells, compare_with_paper, listed, read_published
    from sparsebench.compare.table import WITH_NOTES, exact, render

    if len(papers) > 1 or len(sources) > 2:
        raise SettingError("path", papers[-1].given, "one paper, and one table of results to compare with it")
    if options.metric != "top1" or options.on:
        name, value = ("on", ",".join(options.on)) if options.on else ("metric", options.metric)
        allowed = (
            f"top1, and no --on, with {papers[0].given}: its rows are joined on the columns of the paper"
        )
        raise SettingError(name, value, allowed)
    paper = read_published(papers[0].path)
    frame, notes = listed(paper), list[str]()
    for source in sources:
        if not source.published:
            (label,) = _labels([source.given])
            frame, notes = compare_with_paper(paper, label, _read(source, label, names, options))
    if options.format in WITH_NOTES:
        shown, lines = cells(frame)
        _write_output(render(shown, options.format, [*lines, *notes]), options)
    else:
        _write_output(exact(frame, options.format), options)
        _print_notes(notes)
    return _failed_published(frame, options) if "gap" in frame else ""


def _failed_published(frame: pd.DataFrame, options: Namespace) -> str:
    """Published rows that our results fall too far below, or that we have no runs for."""
    sparsity = frame["sparsity"].map("{:g}".format)
    named = frame["model_as_published"] + " " + frame["method_as_published"] + " " + sparsity
    failed = []
    if options.fail_below is not None:
        failed.append(_line(f"gap below {options.fail_below:g}", named[frame["gap"] < options.fail_below]))
    if options.fail_on_missing:
        failed.append(_line("no runs of ours", named[frame["n"].isna()]))
    return "; ".join(text for text in failed if text)


def _write_output(text: str, options: Namespace) -> None:
    text = f"{text}{options.below}".lstrip("\n")
    if options.output:
        from sparsebench.files import write_output

        write_output(options.output, text)
    else:
        sys.stdout.write(text)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"sparsebench: {printable(note)}", file=sys.stderr)


def _regressions(result: Comparison, least: float, decimals: int | None) -> str:
    """Configurations that got worse by too much, or have no valid run left."""
    from sparsebench.compare.layout import number
    from sparsebench.records.schema import lower_is_better

    found, first = [], result.labels[0]
    sign = -1 if lower_is_better(result.metric) else 1
    for label in result.labels[1:]:
        difference = result.frame[f"difference [{label}]"]
        none_counts = (result.frame[f"n [{label}]"] == 0) & (result.frame[f"n [{first}]"] > 0)
        for row in result.frame.index[(sign * difference < least) | none_counts.fillna(False)]:
            how = number(difference[row], decimals, "+") or "no valid run"
            found.append(f"{_named(result, row)} ({how})")
    how = "lower" if sign > 0 else "higher"
    return _line(f"{result.metric} {how} by more than allowed ({least:g})", found)


def _missing(result: Comparison) -> str:
    rows = result.frame.index[result.frame["only_in"] != ""]
    return _line(
        "not in every table", [f"{_named(result, r)} (only in {result.frame['only_in'][r]})" for r in rows]
    )


def _named(result: Comparison, row: int) -> str:
    from sparsebench.compare.layout import constant_columns

    values = (result.frame[key][row] for key in result.keys if key not in constant_columns(result))
    return " ".join(str(value) for value in values if value == value and value not in (None, ""))


def _line(what: str, named: Iterable[str]) -> str:
    from sparsebench.compare.comparison import configurations

    found = list(named)
    return f"{what} in {configurations(len(found))}: {', '.join(found)}" if found else ""


def _labels(given: Sequence[str]) -> list[str]:
    """The shortest names that distinguish the paths: the last part, or the full path."""
    names = [Path(argument).name or argument for argument in given]
    if len(set(names)) == len(names):
        return names
    return list(given) if len(set(given)) == len(given) else [f"{n} ({i})" for i, n in enumerate(given, 1)]


def _excluded_runs(frame: pd.DataFrame, running: int) -> str:
    """How many runs are excluded, why, and which (the first three per reason); empty if all are valid."""
    from sparsebench.records.validity import run_states, valid_runs

    bad = frame[~valid_runs(frame)]
    reasons = []
    for reason, ids in bad.groupby(run_states(bad), sort=True)["run_id"]:
        named = [*ids.astype(str)[:3], *(["..."] if len(ids) > 3 else [])]
        reasons.append(f"{len(ids)} {reason} ({', '.join(named)})")
    if running:
        reasons.append(f"{running} unfinished")
    total = len(frame) + running
    return f"{len(bad) + running} of {total} runs left out: {', '.join(reasons)}" if reasons else ""


def candidates(before: Sequence[str], last: str) -> list[str]:
    """Reference tables, if the word begins like one; the shell completes file names."""
    return [f"{REFERENCE}{table}" for table in references()] if last else []


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    from sparsebench.compare.table import FORMATS

    parser.epilog = EPILOG
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="run folder, folder of runs, CSV, or reference:NAME"
    )
    parser.add_argument("--metric", default="top1", help="numeric column to compare (default: top1)")
    parser.add_argument(
        "--on", type=lambda text: text.split(","), metavar="NAME,...", help="columns or settings to join on"
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        help="rename a column of another program's CSV",
    )
    parser.add_argument(
        "--unfinished",
        action="store_true",
        help="also list the runs without a result, as far as they have come, below the comparison",
    )
    parser.set_defaults(below="", left_out=LeftOut())
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE instead of printing")
    parser.add_argument(
        "--fail-below",
        type=number,
        metavar="DELTA",
        help="fail if a difference is below DELTA, for example -0.5 (for costs: if it grew by more than that)",
    )
    parser.add_argument(
        "--fail-on-missing", action="store_true", help="fail if a configuration is missing from a table"
    )


COMMAND = Subcommand(
    name="compare",
    help="compare runs with each other or with papers: means, intervals, differences",
    section=Section.RESULTS,
    order=0,
    description="Means over seeds, sample standard deviations, ranks and differences, joined by configuration.",
    examples=("sparsebench compare results/runs", "sparsebench compare reference:dpf results/runs"),
    files=True,
    candidates=candidates,
    arguments=arguments,
    run=run,
)
