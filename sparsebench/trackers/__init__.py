"""Where a run's numbers are shown besides its CSVs: one module a tracker, found through conf/tracker."""
