"""What settings declare in their YAML files: all of them do, wrong values are refused, and the bounds build."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from sparsebench.cli import main
from sparsebench.config.build import format_override
from sparsebench.config.compose import defaults, leaves, own_hydra
from sparsebench.config.declarations import read
from sparsebench.config.declared import check, comments, evaluations
from sparsebench.config.open import validate, validate_study
from sparsebench.errors import SettingError
from sparsebench.paths import config_dir
from tests.support.configs import options, train_config

OVERRIDING = ("recipe", "experiment", "scale")
"""Groups whose options set what others declare."""

GROUPS = ("model", "dataset", "optimizer", "lr_schedule", "schedule", "allocation", "score", "device", "prune",
          "recipe", "evaluate", "tracker", "experiment", "scale")  # fmt: skip
CASES = [(group, option) for group in GROUPS for option in options(group)]
GIVEN = {"allocation.path": "x.csv", "score.path": "x", "dataset.name": "x"}
CONTRADICTING: set[tuple[str, Any]] = {
    ("accumulate", 1000000),  # more than the images of a batch
    ("dataset.train_samples", 1),  # fewer than classes
    ("dataset.train_samples", 2**40),  # more than there are
    ("optimizer.momentum", 0.0),  # nesterov needs some
    ("prune.final_drop_fraction", 1.0),  # more than drop_fraction
}
"""Bounds that other settings' defaults contradict, as the error says."""

FILES = sorted(path for path in config_dir().rglob("*.yaml") if path.parent.name not in OVERRIDING)


def word(group: str, option: str) -> str:
    return f"evaluate=[{option}]" if group == "evaluate" else f"{group}={option}"


def settings(path: Path) -> Iterator[tuple[str, Any]]:
    """(dotted setting, value) of a file, except Hydra's."""

    def walk(prefix: str, node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            comment = read(path).comments.get(f"{prefix}{key}")
            if key.startswith("_") or key in ("defaults", "hydra"):
                continue
            if isinstance(value, dict) and value and not (comment and comment.declaration):
                yield from walk(f"{prefix}{key}.", value)
            else:
                yield f"{prefix}{key}", value

    yield from walk("", yaml.safe_load(path.read_text(encoding="utf-8")) or {})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(config_dir())))
def test_every_setting_declares_what_it_allows_and_allows_its_default(path):
    for name, value in settings(path):
        comment = read(path).comments.get(name)
        if name == "revision":
            assert comment is None or comment.declaration is not None
            continue
        assert comment is not None and comment.declaration is not None, f"{name} of {path} declares nothing"
        if not (isinstance(value, str) and (value.startswith("${") or value == "???")):
            assert comment.declaration.allows(value), f"{name}={value}: {comment.declaration.text}"


@cache
def composed(group: str, option: str) -> tuple[DictConfig, dict[str, str | None]]:
    from hydra import compose

    with own_hydra():
        cfg = compose("train", overrides=[word(group, option)], return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        del cfg.hydra
    OmegaConf.set_struct(cfg, False)
    for key, value in GIVEN.items():
        if OmegaConf.select(cfg, key.split(".")[0]) is not None and key in _missing(cfg):
            OmegaConf.update(cfg, key, value)
    return cfg, choices


def _missing(cfg: DictConfig) -> set[str]:
    return set(OmegaConf.missing_keys(cfg))


NAN, INF = math.nan, math.inf
WRONG: dict[str, list[Any]] = {
    "int": [NAN, INF, -INF, "abc", "", "é\u2028", [1], {"a": 1}, True, 0.5, 2**80, -(2**80), 10**400],
    "number": [NAN, INF, -INF, "abc", "", "é\u2028", [0.5], {"a": 1}, True, 1e300, 10**400],
    "time": [NAN, INF, -1, "-1ep", "abc", "", "1 ep", [0.5], {"a": 1}, True, "9" * 400 + "ep", 1e300],
    "true": [NAN, "yes", "", 2, [], {"a": 1}, [True], None],
    "one": [NAN, "no such", "", [], {"a": 1}, True, ["auto"], -1],
    "list": [NAN, 1, "abc", "", {"a": 1}, [[]], [None], [{"a": 1}], [""], True],
    "pair": [NAN, 1, "abc", "", {"a": 1}, [0.5], [0.5, 0.5, 0.5], ["a", "b"], True],
    "text": ["", " ", [], {"a": 1}, True, "\ud800", "a\0b"],
    "path": ["", " ", [], {"a": 1}, True, "\ud800", "a\0b"],
    "mapping": [NAN, 1, "abc", "", [1], True],
}
"""Kind of a declaration -> values that no declaration of it allows, whatever its range."""


def wrong(text: str) -> list[Any]:
    """Values that a declaration does not allow, by reading it in another way than the checker."""
    kinds = [part.partition(" ")[0] for part in text.split(" or ")]
    found = [*WRONG[kinds[0]], *([] if "null" in kinds else [None])]
    if "auto" in kinds or "auto" in text.split(", "):
        found = [value for value in found if value != "auto"]
    if {"null"} & set(kinds):
        found = [value for value in found if value is not None]
    if "list of mapping" in text:
        found.remove([{"a": 1}])
    if "[]" in kinds:
        found = [value for value in found if value != []]
    for low, step in ((">= 1", 0), (">= 0", -1), ("> 0", 0), ("in (0", 0), ("in [1", 0), ("in [0", -0.001)):
        if kinds[0] in ("int", "number") and low in text:
            found.append(math.floor(step) if kinds[0] == "int" else float(step))
    return found


def own_settings(group: str, option: str, declared: dict[str, Any]) -> list[str]:
    """The settings of a group's option; with the first of them all, those of the main config."""
    top = (group, option) == CASES[0]
    found = [
        key
        for key in declared
        if key.startswith(f"{group}.") or (top and key.split(".")[0] not in (*GROUPS, "hydra"))
    ]
    return [key for key in found if declared[key].declaration is not None]


@pytest.mark.parametrize(("group", "option"), [case for case in CASES if case[0] not in OVERRIDING])
def test_a_wrong_value_of_any_setting_is_refused_by_name(group, option):
    cfg, choices = composed(group, option)
    with own_hydra():
        declared, known = comments(choices, "train", evaluations(cfg)), dict(defaults(choices))
    values = leaves(cfg)
    check(cfg, declared, {**known, **values}, values)
    for key in own_settings(group, option, declared):
        for value in wrong(declared[key].declaration.text):
            with pytest.raises(SettingError) as caught:
                check(cfg, declared, {**known, **values}, {**values, key: value})
            reference = OmegaConf.to_container(cfg, resolve=False)
            for part in key.split("."):
                reference = reference[part]
            assert caught.value.setting in (key, str(reference).strip("${}"), *_sources(reference)), (
                key,
                value,
            )
            assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def _sources(reference: object) -> list[str]:
    """The setting that ``${oc.select:setting,default}`` names."""
    return [str(reference).partition(":")[2].partition(",")[0]]


@pytest.mark.parametrize(("group", "option"), [case for case in CASES if case[0] not in OVERRIDING])
def test_a_wrong_value_on_the_command_line_is_one_line_and_writes_nothing(
    group, option, tmp_path, capsys, monkeypatch
):
    """One setting of every option, and one value of it, drawn; all of them are in the test above."""
    monkeypatch.chdir(tmp_path)
    cfg, choices = composed(group, option)
    with own_hydra():
        declared = comments(choices, "train", evaluations(cfg))
    keys = [key for key in own_settings(group, option, declared) if key not in OPTIONAL]
    if not keys:
        pytest.skip("it has no settings")
    draw = Random(f"{group}={option}")
    key = draw.choice(keys)
    value = draw.choice([v for v in wrong(declared[key].declaration.text) if is_writable(v)])
    needed = [
        f"{name}={given}"
        for name, given in GIVEN.items()
        if name != key and name in cfg_missing(group, option)
    ]
    argv = [
        "train",
        word(group, option),
        *needed,
        format_override(key, value),
        f"results_dir={tmp_path}/runs",
    ]
    assert main(argv) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"sparsebench: error: {key}") and captured.out == ""
    assert list(tmp_path.iterdir()) == []


OPTIONAL = (
    "device.precision",
    "device.channels_last",
    "device.compile",
    "device.deterministic",
    "device.sync_bn",
)
"""Settings of the device that are another way to write those of the main config, by whose name errors call them."""


def is_writable(value: object) -> bool:
    """Whether Hydra's grammar can write a value in one word of an override."""
    return not isinstance(value, (dict, list)) and not (isinstance(value, str) and not value.isascii())


def cfg_missing(group: str, option: str) -> set[str]:
    from hydra import compose

    with own_hydra():
        return set(OmegaConf.missing_keys(compose("train", overrides=[word(group, option)])))


@pytest.mark.parametrize("study", options("theory"))
def test_a_wrong_value_of_any_setting_of_a_study_is_refused_by_name(study):
    from hydra import compose

    with own_hydra():
        cfg = compose("theory", overrides=[f"theory@study={study}"], return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        del cfg.hydra
        validate_study(cfg, choices)
        declared = comments(choices, "theory")
    values = leaves(cfg)
    for key, comment in declared.items():
        for value in wrong(comment.declaration.text) if comment.declaration else ():
            with pytest.raises(SettingError) as caught:
                check(cfg, declared, values, {**values, key: value}, "theory")
            assert caught.value.setting == key, (key, value)


@pytest.mark.parametrize("part", ["launcher", "sweeper"])
def test_a_wrong_value_of_any_setting_of_a_sweep_is_refused_by_name(part):
    for option in options(f"hydra/{part}"):
        with own_hydra():
            declared = comments({f"hydra/{part}": option}, "")
        assert declared
        for key, comment in declared.items():
            for value in wrong(comment.declaration.text):
                with pytest.raises(SettingError) as caught:
                    check(OmegaConf.create(), declared, {}, {key: value}, complete=False)
                assert caught.value.setting == key


def bounds(text: str) -> list[Any]:
    """The smallest and largest value that a declaration allows, where it says so."""
    found: list[Any] = [None] if "null" in text.split(" or ") else []
    match = re.match(r"(int|number) (?:(>=) ([\d.e-]+)|in ([\[(])([\d.*-]+), ([\d.*]+)([\])]))", text)
    if match is None:
        return found
    number, at_least, least, left, low, high, right = match.groups()
    value: dict[str, Any] = {"int": lambda word: eval(word), "number": float}  # of this file's own pattern
    low, high = (at_least and least) or low, high or "1"
    if at_least or left == "[":
        found.append(value[number](low))
    if not at_least:
        found += (
            [value[number](high)] if right == "]" else [value[number](high) - 1] if number == "int" else []
        )
    return found


@pytest.mark.parametrize(
    "group", ["main", "prune", "schedule", "allocation", "lr_schedule", "optimizer", "dataset"]
)
def test_the_bounds_of_what_is_declared_are_built(group):
    """On the digits and a small network; a setting that contradicts another one says so, and is none of the two."""
    from sparsebench.runs.build import build_run

    names = {"main": ["digits"], "dataset": ["digits"]}.get(group) or options(group)
    built = 0
    for option in names:
        chosen = word("dataset" if group == "main" else group, option)
        prefix = "" if group == "main" else f"{group}."
        with own_hydra():
            model = "model=resnet" if option == "sbp_sr" else "model=mlp"  # it sets model.stable
            cfg, choices = train_config(chosen, model, "device=cpu", "sparsity=0.5")
        if OmegaConf.missing_keys(cfg):
            continue
        with own_hydra():
            declared = comments(choices, "train", evaluations(cfg))
        for key, comment in declared.items():
            if (
                comment.declaration is None
                or key.endswith("revision")
                or not (key.startswith(prefix) if prefix else "." not in key)
            ):
                continue
            for value in bounds(comment.declaration.text):
                changed = cfg.copy()
                OmegaConf.update(changed, key, value)
                with own_hydra():
                    validate(changed, choices)
                    if (key, value) not in CONTRADICTING:
                        build_run(changed)
                        built += 1
                        continue
                    with pytest.raises(SettingError, match=f"^{key.partition('.')[0]}"):
                        build_run(changed)
    assert built
