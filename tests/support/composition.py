"""Hydra with a memory, in the process of the tests: composing is what most of their short trainings cost.

Hydra reads and merges some twenty files for every config, twice for every command. What it makes of the same words, or
of the same choice of options, is the same as long as the files are: it is made once and copied. Settings are applied,
and everything is checked, each time. A process that a test starts knows nothing of this.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.utils import JobRuntime

KEPT = 300
"""Configs, of about 0.3 MB each."""


def remember() -> None:
    """From now on."""
    load, merge = ConfigLoaderImpl.load_configuration, ConfigLoaderImpl._compose_config_from_defaults_list
    choose, known = config_loader_impl.create_defaults_list, dict[Hashable, Any]()

    def once(key: tuple[Hashable, ...], make: Callable[[], Any]) -> Any:
        if key not in known:
            known[key] = make()
            if len(known) > KEPT:
                del known[next(iter(known))]
        return known[key]

    def load_configuration(self: Any, *words: Any, **more: Any) -> Any:
        where = (os.getcwd(), version.getbase(), JobRuntime.instance().get("name"))
        key = (repr((words, more)), where, *files(self.repository))
        return copy.deepcopy(once(key, lambda: load(self, *words, **more)))

    def create_defaults_list(repo: Any, config_name: Any, overrides_list: Any, **more: Any) -> DefaultsList:
        asked = Overrides(repo, overrides_list)
        options = (asked.override_choices, asked.append_group_defaults, asked.deletions)
        key = (repr((config_name, options, more)), *files(repo))
        found = once(key, lambda: choose(repo, config_name, overrides_list, **more))
        asked.known_choices = dict(found.overrides.known_choices)
        own = {"defaults": copy.deepcopy(found.defaults), "config_overrides": asked.config_overrides}
        return replace(found, **own, overrides=asked)

    def merged(self: Any, defaults: Any, repo: Any) -> Any:
        return copy.deepcopy(once((repr(defaults), *files(repo)), lambda: merge(self, defaults, repo)))

    ConfigLoaderImpl.load_configuration = load_configuration
    ConfigLoaderImpl._compose_config_from_defaults_list = merged
    config_loader_impl.create_defaults_list = create_defaults_list


def files(repository: Any) -> list[Hashable]:
    """The places that are searched, and what lies there."""
    found: list[Hashable] = []
    for source in repository.get_sources():
        found.append((source.scheme(), source.path, source.provider))
        if source.scheme() == "file":
            for path in sorted(Path(source.path).glob("**/*.yaml")):
                told = path.stat()
                found.append((str(path), told.st_mtime_ns, told.st_size))
    return found
