"""What is measured once for each machine, model and build, and kept.

calibration.py        how many rows may share a pass without changing a bit
measurement_cache.py  where measurements are kept
"""
