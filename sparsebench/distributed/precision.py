"""``precision=auto``: the precision of a kind of device, from a fixed table and never from a timing."""

from __future__ import annotations

from pathlib import Path

AUTO = "auto"
"""Value of the setting ``precision`` that stands for the table's."""

CPU_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
"""Features of a CPU, as Linux calls them, that multiply bf16 in hardware."""

CAPABILITY = (8, 0)
"""Least CUDA compute capability with fast bf16 (Ampere)."""


def automatic_precision(name: str, graphs: object = AUTO) -> str:
    """The precision that ``precision=auto`` stands for on this machine.

    | device | precision |
    |---|---|
    | CUDA, compute capability 8.0 or higher, unless ``device.graphs=false`` | bf16 |
    | CPU with AMX-bf16 or AVX512-bf16 | bf16 |
    | any other | fp32 |

    Without CUDA graphs a step waits for its kernel launches, of which autocast makes more: bf16 is slower then.

    Args:
        name: As the argument of :class:`sparsebench.distributed.device.Device`.
        graphs: The setting ``device.graphs``.
    """
    import torch  # imported here: only runs that ask for it pay for the import

    if name != "cpu" and torch.cuda.is_available():
        able = torch.cuda.get_device_capability() >= CAPABILITY and graphs is not False
    else:
        able = bool(CPU_FLAGS & cpu_flags(Path("/proc/cpuinfo")))
    return "bf16" if able else "fp32"


def cpu_flags(cpuinfo: Path) -> set[str]:
    """Features of the first CPU in Linux's ``/proc/cpuinfo``; none where there is no such file."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
