"""Signatures that are read from source files say what the imported objects say."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap

import pytest
import yaml
from hydra.utils import get_object

from sparsebench.config.renamed import target as present_target
from sparsebench.config.signatures import accepted_arguments
from sparsebench.paths import config_dir


def targets(node):
    if isinstance(node, dict):
        own = [node["_target_"]] if isinstance(node.get("_target_"), str) else []
        return [*own, *(name for value in node.values() for name in targets(value))]
    return [name for item in node for name in targets(item)] if isinstance(node, list) else []


SHIPPED = sorted(
    {name for path in config_dir().glob("*/*.yaml") for name in targets(yaml.safe_load(path.read_text()))}
)


def by_import(name):
    parameters = inspect.signature(get_object(present_target(name))).parameters.values()
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_source_of_every_option_says_what_importing_it_says(name):
    assert accepted_arguments(name) == by_import(name)


KINDS = """
from collections.abc import Iterable
import enum
import functools
from dataclasses import dataclass, field
from typing import ClassVar
from base_classes import Base, Renamed as Other, made
import base_classes as others

class Plain(Base): pass
class Own(Base):
    def __init__(self, x, *more, y=1): pass
class Qualified(others.Base): pass
class Reexported(Other): pass
@dataclass
class Data:
    a: int
    kind: ClassVar[int] = 1
    b: list = field(default_factory=list)
@dataclass
class More(Data):
    c: int = 0
class Any_:
    def __init__(self, x, **rest): pass
class New:
    def __new__(cls, q): return object.__new__(cls)
class Meta(type):
    def __call__(cls, only): return 1
class WithMeta(metaclass=Meta):
    def __init__(self, hidden): pass
def decorate(f):
    @functools.wraps(f)
    def inner(*a, **k): return f(*a, **k)
    return inner
def function(a, /, b, *, c): pass
class Empty: pass
if True:
    def conditional(z): pass
assigned = function
partial = functools.partial(function, 1)
"""

OTHERS = """
class Base:
    def __init__(self, base, also=None): pass
class Renamed(Base): pass
def make():
    def made(inside): pass
    return made
made = make()
"""


@pytest.mark.parametrize(
    "name",
    ["Plain", "Own", "Qualified", "Reexported", "Data", "More", "Any_", "New", "WithMeta", "function", "Empty",
     "conditional", "assigned", "partial", "Base", "Other", "made"],
)  # fmt: skip
def test_every_way_to_define_one(name, tmp_path, monkeypatch):
    (tmp_path / "kinds_of_targets.py").write_text(KINDS)
    (tmp_path / "base_classes.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("kinds_of_targets", "base_classes"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert accepted_arguments(f"kinds_of_targets.{name}") == by_import(f"kinds_of_targets.{name}")


def test_the_id_of_a_run_needs_no_import_of_torch_or_of_the_options_code(tmp_path):
    (tmp_path / "conf" / "prune").mkdir(parents=True)
    (tmp_path / "conf" / "prune" / "mine.yaml").write_text("_target_: my_method.Mine\nalpha: 0.5\n")
    (tmp_path / "my_method.py").write_text(
        "raise ImportError('imported')\nclass Mine:\n    def __init__(self, weights, schedule, alpha): pass\n"
    )
    program = """
    import sys
    sys.modules["torch"] = None  # importing it is an error
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from sparsebench.config.identity import run_id
    from sparsebench.paths import config_dir
    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
    def task(cfg):
        print(run_id(cfg, dict(HydraConfig.get().runtime.choices)))
    for words in (["prune=dpf"], ["prune=mine", "model=torchvision"]):
        sys.argv = ["sparsebench", "--config-dir=conf", *words]
        task()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 2
