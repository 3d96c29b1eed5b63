"""Every error that shortlist raises on purpose.

    ShortlistError
    ├── BadInput (ValueError)         the values that came in cannot be used
    ├── ModelError
    │   ├── ModelNotFound             no such model here; the message says how to get it
    │   ├── ModelMismatch             an index, a run and a model that do not belong together
    │   └── ChecksumError             a file is not the one that was published
    ├── IndexFormatError              a file of an index is damaged, foreign or of another version
    ├── IndexLocked                   another process is writing
    ├── RemoteError                   a service on the network refuses or does not answer
    └── MissingExtra (ImportError)    an optional package is needed; the message holds the install command

A message says what is wrong with the values, what was expected, and what to do.
"""

from __future__ import annotations


class ShortlistError(Exception):
    """Base of all errors raised on purpose."""


class BadInput(ShortlistError, ValueError):
    """The values that came in cannot be used."""


class ModelError(ShortlistError):
    """Something is wrong with a model."""


class ModelNotFound(ModelError):
    """No model of this name is here, or the folder holds none."""


class ModelMismatch(ModelError):
    """An index, a run and a model do not belong together."""


class ChecksumError(ModelError):
    """A file's content is not the one that was published."""


class IndexFormatError(ShortlistError):
    """A file of an index is damaged, foreign or of another version."""


class IndexLocked(ShortlistError):
    """Another process holds the index open for writing."""


class RemoteError(ShortlistError):
    """A service on the network refuses or does not answer."""


class MissingExtra(ShortlistError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Run: pip install 'shortlist[{extra}]'"
        )
