"""The report's figures, a module each with its ``FIGURE``, found by :func:`sparsebench.report.figure.figures`."""
