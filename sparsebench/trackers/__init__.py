"""Experiment trackers, in addition to the CSVs: one module each, found through conf/tracker."""
