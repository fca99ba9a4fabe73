"""Measurements taken once for each machine, model and llama.cpp build, and stored.

calibration.py        how many rows may share a pass without changing each other's bits
measurement_cache.py  where measurements are stored
"""
