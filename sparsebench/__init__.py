"""sparsebench: an experiment runner for sparse-training benchmarks, and its methods for other training loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsebench.library import pruner
    from sparsebench.pruning.loop import LoopPruner

__version__ = "0.2.0"
__all__ = ["LoopPruner", "__version__", "pruner"]


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch on first use, so that the command line starts quickly."""
    if name in ("LoopPruner", "pruner"):
        from sparsebench import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
