"""Measurements: ratios taken side by side in one run, on real servers. Not part of the package."""
