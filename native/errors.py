"""The errors a user of PaSS Edge can meet: one small family, worded for the person who must act."""


class PassEdgeError(Exception):
    """Base of every error raised on purpose; its text says what was wrong and what to do."""

    def __str__(self) -> str:
        """One line that a terminal can show, whatever stands in the names that a file has given."""
        text = super().__str__()
        return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


class LibraryError(PassEdgeError):
    """The llama.cpp library is missing, broken on this machine, or failed inside a call."""


class ModelError(PassEdgeError):
    """A model file is missing, damaged, or of a kind that cannot be decoded."""


class ContextError(PassEdgeError):
    """A context cannot be made or used: too little memory, or wrong settings."""


class ContextFullError(ContextError, ValueError):
    """The tokens do not fit in the context; nothing was dropped."""


class LookaheadError(PassEdgeError):
    """A lookahead file is damaged or was made for another model."""


class SessionError(PassEdgeError):
    """A saved session cannot be read, is damaged, or belongs to another model."""


class SettingsError(PassEdgeError, ValueError):
    """A setting (sampling value, schedule …) is out of its range."""


class OutputError(PassEdgeError):
    """A file cannot be written: it exists, the disk is full, the folder is not there."""
