"""``python -m sparsebench``."""

from __future__ import annotations

import sys

from sparsebench.cli import main

if __name__ == "__main__":
    sys.exit(main())
