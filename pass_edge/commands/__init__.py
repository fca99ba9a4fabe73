"""The commands of `pass-edge`, which cli.py lists. A module has one command, or a few alike."""
