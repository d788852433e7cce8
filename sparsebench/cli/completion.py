"""Shell completion without Hydra: candidates are the names of config files and the keys in them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparsebench.cli.subcommands import COMMANDS
from sparsebench.errors import SettingError, one_of
from sparsebench.paths import config_dir, groups, options, references

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
FISH = r"""set -l with_files audit collect compare evaluate logs merge report status
complete -c sparsebench -f -n "not __fish_seen_subcommand_from $with_files" \
    -a '(sparsebench _complete (commandline -cp) 2>/dev/null)'
complete -c sparsebench -F -n "__fish_seen_subcommand_from $with_files" \
    -a '(sparsebench _complete (commandline -cp) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
OPTIONS = {
    "audit": ("--data-root", "--format", "--help", "--no-accuracy", "--output", "--tolerance"),
    "collect": ("--help", "--output"),
    "compare": (
        *("--fail-below", "--fail-on-missing", "--format", "--help", "--map", "--metric", "--on", "--output"),
    ),
    "evaluate": ("--data-root", "--help"),
    "list": ("--format", "--help"),
    "logs": ("--follow", "--help", "--lines"),
    "merge": ("--dry-run", "--help", "--output"),
    "report": ("--help", "--output"),
    "status": ("--all", "--format", "--help", "--watch"),
}
"""Options of the commands that have some; building their parsers would import pandas."""
OPTIONS_OF_DATA = {
    "check": ("--help", "--no-decode", "--output"),
    "pack": ("--help", "--output", "--quality", "--side"),
}


def main(arguments: Sequence[str]) -> int:
    """Print the completion script of a shell, for ``eval "$(sparsebench completion bash)"``."""
    shell = arguments[0] if arguments else ""
    if shell not in SCRIPTS:
        raise SettingError("completion", shell or None, one_of(SCRIPTS, shell))
    print(SCRIPTS[shell], end="")
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
    if not before:
        return [name for name in COMMANDS if name.startswith(last)]
    if before[0] == "data" and (len(before) < 3 or last.startswith("-")):
        offered = list(OPTIONS_OF_DATA if len(before) == 1 else options("dataset"))
        if last.startswith("-"):
            offered = list(OPTIONS_OF_DATA.get(before[1], ()) if len(before) > 1 else ())
        return [name for name in offered if name.startswith(last)]
    if last.startswith("-"):
        return [name for name in OPTIONS.get(before[0], ()) if name.startswith(last)]
    if before[0] == "list":
        from sparsebench.cli.list import GROUPS

        return [name for name in GROUPS if name.startswith(last)]
    if before[0] == "compare":
        start = "reference:"
        if not last or not (start.startswith(last) or last.startswith(start)):
            return []  # file names are the shell's
        return [name for name in (f"{start}{table}" for table in references()) if name.startswith(last)]
    if before[0] == "completion":
        return [name for name in SCRIPTS if name.startswith(last)]
    if before[0] == "evaluate" and not last.startswith("evaluate="):
        return ["evaluate="] if "evaluate=".startswith(last) else []
    if before[0] not in ("train", "sweep", "theory", "evaluate", "data"):
        return []
    key, equals, value = last.partition("=")
    if equals:
        done, comma, current = value.rpartition(",")
        found = options("theory" if key == "study" else key)
        return [f"{key}={done}{comma}{name}" for name in found if name.startswith(current)]
    of_theory = before[0] == "theory" or any(word.startswith("study=") for word in before)
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
