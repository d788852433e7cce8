"""MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sparsebench.trackers.tracker import TrackedRun, Tracker, need, numbers

TAG = "sparsebench.run_id"


class MLflow(Tracker):
    """An MLflow run, by default in a database next to the run folders: ``mlflow ui --backend-store-uri sqlite:///...``.

    Args:
        uri: URI of the tracking server or database; ``null`` for ``mlflow.db`` in ``results_dir``.
        experiment: Name of the MLflow experiment.

    Raises:
        SettingError: mlflow is not installed.
    """

    def __init__(self, uri: str | None = None, experiment: str = "sparsebench") -> None:
        need("mlflow")
        self.uri, self.experiment = uri, experiment

    def start(self, run: TrackedRun) -> None:
        """Create the run, or reopen the interrupted one."""
        from mlflow import MlflowClient

        results_dir = run.folder.resolve().parent
        self.step = 0
        self.client = MlflowClient(self.uri or f"sqlite:///{results_dir / 'mlflow.db'}")
        found = self.client.get_experiment_by_name(self.experiment)
        artifacts = None if self.uri else (results_dir / ".mlflow").as_uri()
        experiment = (
            found.experiment_id if found else self.client.create_experiment(self.experiment, artifacts)
        )
        before = (
            self.client.search_runs([experiment], f"tags.`{TAG}` = '{run.run_id}'") if run.resumed else []
        )
        if before:
            self.id = before[0].info.run_id
            return
        self.id = self.client.create_run(experiment, run_name=run.name, tags={TAG: run.run_id}).info.run_id
        for name, value in _flat(run.config).items():
            self.client.log_param(self.id, name, str(value)[:500])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one point per column."""
        self._batch(values, step)
        self.step = step

    def finish(self, row: Mapping[str, Any]) -> None:
        """Log the result's numbers as ``summary.*``, its strings as tags."""
        self._batch({f"summary.{name}": value for name, value in numbers(row).items()}, self.step)
        for name, value in row.items():
            if isinstance(value, (str, bool)) and value != "":
                self.client.set_tag(self.id, f"sparsebench.{name}", str(value))
        self.client.set_terminated(self.id)

    def _batch(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, [Metric(name, value, now, step) for name, value in values.items()])


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        )
    return found
