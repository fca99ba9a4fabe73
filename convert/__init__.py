"""Offline work: convert and merge checkpoints, train lookahead files. Only this package imports torch."""
