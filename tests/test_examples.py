"""The examples in docstrings are right, and every option with a rule of its own has one."""

from __future__ import annotations

import doctest
import importlib

import pytest
import yaml
from hydra.utils import get_class

from sparsebench.paths import options
from tests.support import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "sparsebench").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
TARGETS = {
    yaml.safe_load(path.read_text())["_target_"]
    for group in ("schedule", "allocation", "score")
    for path in options(group).values()
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name):
    flags = doctest.NORMALIZE_WHITESPACE  # long results are broken into lines
    failed, attempted = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert attempted > 0 and failed == 0


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_schedule_allocation_and_score_has_an_example_of_its_own(target):
    cls = get_class(target)
    examples = doctest.DocTestParser().get_examples(vars(cls)["__doc__"])
    assert any(f"{cls.__name__}(" in example.source for example in examples)
