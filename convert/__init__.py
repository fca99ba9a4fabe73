"""Everything offline: reading checkpoints, writing lookahead files. The only room for torch."""
