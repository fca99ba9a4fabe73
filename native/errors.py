"""The errors that a user of PaSS Edge can meet.

Errors that llama-cpp-python raises as ValueError are ValueErrors here too, for code that was written for it.
"""


class PassEdgeError(Exception):
    """Base class of all errors. The message says what was wrong, what was expected and what to do."""

    def __str__(self) -> str:
        """Return the message as printable text: names from files may hold control characters."""
        text = super().__str__()
        return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


class LibraryError(PassEdgeError):
    """The llama.cpp library is missing, does not work on this machine, or failed inside a call."""


class ModelError(PassEdgeError, ValueError):
    """A model file is missing, damaged, or of an unsupported kind."""


class ContextError(PassEdgeError, ValueError):
    """A context cannot be created or used: too little memory, or wrong settings."""


class ContextFullError(ContextError):
    """The tokens do not fit into the context. No token was dropped."""


class LookaheadError(PassEdgeError):
    """A lookahead file is damaged or was made for another model."""


class SessionError(PassEdgeError):
    """A saved session cannot be read, is damaged, or belongs to another model."""


class SettingsError(PassEdgeError, ValueError):
    """A setting (a sampling value, a schedule …) is out of range."""


class UnsupportedError(SettingsError, AttributeError):
    """An attribute of llama-cpp-python's that this engine cannot offer; ``hasattr`` returns False for it."""


class OutputError(PassEdgeError):
    """A file cannot be written: it exists, the disk is full, or the folder is missing."""
