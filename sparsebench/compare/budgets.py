"""Names of configurations: the budget shared with the dense run, and the method's own settings."""

from __future__ import annotations

import pandas as pd

from sparsebench.compare.configurations import Joined, as_text
from sparsebench.records.settings import is_pruning_setting


def budgets(joined: Joined) -> pd.DataFrame:
    """Texts for every configuration of one table.

    Two configurations of one data set and model have the same ``budget`` exactly where they have the same dense
    baseline: it says all that a dense run has too.

    Returns:
        By number of the configuration: ``budget``, and ``variant``: the settings of its method. A dense run has none;
        of a method without a target sparsity, the ``prune.`` settings that its sparsity follows from are left out, for
        they are points of one line and no line of their own.
    """
    columns = joined.table[["method", "target_sparsity", "epochs", "batch_size", "precision"]]
    rows = []
    for key, method, target, epochs, batch, precision in columns.itertuples():
        given = [f"{name}={value}" for name, value in sorted(joined.settings[int(key)].items())]
        pruning = [setting for setting in given if is_pruning_setting(setting.partition("=")[0])]
        training = [setting for setting in given if setting not in pruning]
        budget = [f"{as_text(epochs)} epochs", f"batch {as_text(batch)}", as_text(precision), *training]
        if method == "dense":
            pruning = []
        elif target != target:
            pruning = [setting for setting in pruning if not setting.startswith("prune.")]
        rows.append((", ".join(budget), " ".join(pruning)))
    return pd.DataFrame(rows, index=joined.table.index, columns=["budget", "variant"])
