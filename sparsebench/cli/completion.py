"""Shell completion without Hydra: candidates are the names of config files and the keys in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand, subcommands
from sparsebench.errors import SettingError, one_of
from sparsebench.paths import config_dir, groups, options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

# "=" and ":" break words in bash: the words are taken from the line, and the part before the break is cut off.
BASH = r"""_sparsebench() {
    local line=${COMP_LINE:0:COMP_POINT} word IFS=$'\n'
    word=${line##*[[:space:]]}
    COMPREPLY=($(sparsebench _complete "$line" 2>/dev/null))
    local prefix=${word%"${word##*[=:]}"} i
    if [[ $COMP_WORDBREAKS == *=* ]]; then
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"$prefix"}; done
    fi
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _sparsebench sparsebench
"""
ZSH = r"""#compdef sparsebench
_sparsebench() {
    local -a found
    found=(${(f)"$(sparsebench _complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    if (( ! $#found )); then _files; return; fi
    compadd -Q -S '' -- ${(M)found:#*=}
    compadd -Q -- ${found:#*=}
}
compdef _sparsebench sparsebench
"""
FISH = r"""set -l with_files @FILES@
complete -c sparsebench -f -n "not __fish_seen_subcommand_from $with_files" \
    -a '(sparsebench _complete (commandline -cp) 2>/dev/null)'
complete -c sparsebench -F -n "__fish_seen_subcommand_from $with_files" \
    -a '(sparsebench _complete (commandline -cp) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def run(args: Namespace) -> int:
    """Print the completion script of a shell, for ``eval "$(sparsebench completion bash)"``.

    Raises:
        SettingError: There is none for this shell.
    """
    if args.shell not in SCRIPTS:
        raise SettingError("completion", args.shell or None, one_of(SCRIPTS, args.shell))
    with_files = sorted(command.name for command in subcommands().values() if command.files)
    print(SCRIPTS[args.shell].replace("@FILES@", " ".join(with_files)), end="")
    return 0


def answer(arguments: Sequence[str]) -> int:
    """Print the candidates for the last word of a command line, one per line."""
    line = arguments[0] if arguments else ""
    words = line.split()
    last = "" if not words or line[-1].isspace() else words.pop()
    for candidate in candidates(words[1:], last):
        print(candidate)
    return 0


def candidates(before: Sequence[str], last: str) -> list[str]:
    """Completions of the word ``last`` after the words ``before`` (without the program's name)."""
    commands = subcommands()
    if not before:
        return [name for name in commands if name.startswith(last)]
    command = commands.get(before[0])
    if command is None:
        return []
    if last.startswith("-"):
        offered = list(flags(command.parser(), before[1:])) if command.arguments else []
    elif command.candidates is not None:
        offered = list(command.candidates(before[1:], last))
    else:
        offered = settings(command.config, before[1:], last) if command.config else []
    return [name for name in offered if name.startswith(last)]


def flags(parser: ArgumentParser, before: Sequence[str]) -> Iterator[str]:
    """The long options of a parser, or of its subparser named among the words ``before``."""
    known = parser._option_string_actions
    for action in parser._actions:  # argparse has no public way to list them
        if isinstance(action.choices, dict):
            for name in before:
                if name in action.choices:
                    yield from flags(action.choices[name], ())
                    return
    yield from sorted(name for name in known if name.startswith("--"))


def settings(config: str, before: Sequence[str], last: str) -> list[str]:
    """The settings of a primary config that begin with ``last``, or the options of the group that it sets.

    Args:
        config: Name of the config; ``theory`` for ``train`` with a study among the words.
        before: Previous overrides.
        last: The word to complete.
    """
    key, equals, value = last.partition("=")
    if equals:
        done, comma, current = value.rpartition(",")
        found = options("theory" if key == "study" else key)
        return [f"{key}={done}{comma}{name}" for name in found if name.startswith(current)]
    of_theory = config == "theory" or any(word.startswith("study=") for word in before)
    return [f"{name}=" for name in (_study_keys if of_theory else _keys)(before) if name.startswith(last)]


def _study_keys(before: Sequence[str]) -> list[str]:
    """Settings of theory.yaml and of the chosen study."""
    import yaml

    content = yaml.safe_load((config_dir() / "theory.yaml").read_text(encoding="utf-8"))
    keys = ["study", *(key for key in content if key not in ("defaults", "hydra"))]
    chosen = [word.partition("=")[2] for word in before if word.startswith("study=")]
    path = options("theory").get(chosen[-1]) if chosen else None
    if path is not None:
        keys += _flatten("study.", yaml.safe_load(path.read_text(encoding="utf-8")))
    return keys


def _keys(before: Sequence[str]) -> list[str]:
    """Groups, settings of train.yaml, and settings of the chosen or default option of each group."""
    import yaml

    main_config = yaml.safe_load((config_dir() / "train.yaml").read_text(encoding="utf-8"))
    chosen = {
        g: o for entry in main_config.pop("defaults") if isinstance(entry, dict) for g, o in entry.items()
    }
    chosen |= dict(word.split("=", 1) for word in before if "=" in word)
    main_config.pop("hydra", None)
    of_runs = [group for group in groups() if group != "theory"]
    keys = [*of_runs, *_flatten("", main_config)]
    for group in of_runs:
        path = options(group).get(str(chosen.get(group)))
        try:
            text = path.read_text(encoding="utf-8") if path else ""
            content = yaml.safe_load(text)
        except yaml.YAMLError:
            continue
        if isinstance(content, dict) and "_target_" in content:
            package = re.match(r"# @package ([a-z][\w.]*)", text)  # if it is not the group's own package
            keys += _flatten(f"{package[1] if package else group}.", content)
    return keys


def _flatten(prefix: str, content: dict[str, object]) -> list[str]:
    keys: list[str] = []
    for name, value in content.items():
        if name in ("_target_", "defaults", "recipe"):
            continue
        keys += _flatten(f"{prefix}{name}.", value) if isinstance(value, dict) else [f"{prefix}{name}"]
    return keys


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("shell", nargs="?", default="", metavar="SHELL", help=", ".join(SCRIPTS))


def _shells(before: Sequence[str], last: str) -> Sequence[str]:
    return () if before else tuple(SCRIPTS)


COMMAND = Subcommand(
    name="completion",
    help="print the completion script for bash, zsh or fish",
    section=Section.OTHER,
    order=2,
    examples=('eval "$(sparsebench completion bash)"',),
    candidates=_shells,
    arguments=arguments,
    run=run,
)
