"""The two errors that a user sees as one line: what went wrong, and what to do."""


class GandidError(Exception):
    """The work failed: exit status 1."""


class UsageError(GandidError):
    """The request cannot be met as it was asked: exit status 2."""


def told(error: BaseException) -> str:
    """Somebody else's error in one line, for ours to quote."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
