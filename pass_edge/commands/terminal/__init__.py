"""Reading from and drawing on a terminal."""
