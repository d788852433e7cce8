"""The report's figures: one module each with a ``FIGURE``, found by :func:`sparsebench.report.figure.figures`."""
