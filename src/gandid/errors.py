"""The two errors that a user sees as one line: what went wrong, and what to do."""


class GandidError(Exception):
    """The work failed: exit status 1."""


class UsageError(GandidError):
    """The request cannot be met as it was asked: exit status 2."""
