"""What can go wrong, sorted by what the user should do about it."""

from __future__ import annotations

__all__ = ["AtlasError", "BadInput", "BadOption", "Interrupted", "StoreBusy"]


class AtlasError(Exception):
    """A problem the user can mend: one line saying what, where, and the mend (exit code 2).

    Examples
    --------
    >>> import atlasnmf as an
    >>> try:
    ...     an.open_atlas("nowhere.zarr")
    ... except AtlasError as error:
    ...     str(error)
    "no store 'nowhere.zarr' in .; there are none"
    """


class BadInput(AtlasError):
    """The data cannot be used as they are."""


class BadOption(AtlasError):
    """An option or parameter has no usable value."""


class StoreBusy(AtlasError):
    """Another process holds the lock of this store."""


class Interrupted(Exception):
    """Work stopped before its end and can be resumed (exit code 3).

    Parameters
    ----------
    message
        What was interrupted, and how far it had come.
    resume_command
        The command that goes on from the last checkpoint.
    """

    def __init__(self, message: str, resume_command: str) -> None:
        super().__init__(message)
        self.resume_command = resume_command
