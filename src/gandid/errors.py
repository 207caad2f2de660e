"""The two errors that a user sees as one line: what went wrong, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class GandidError(Exception):
    """The work failed: exit status 1."""


class UsageError(GandidError):
    """The request cannot be met as it was asked: exit status 2."""


def first_line(error: BaseException) -> str:
    """Somebody else's error in one line, for ours to quote."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """What follows an unknown word: `: did you mean 'x'?` for the most similar of some words in any case, or `:` where none is."""
    from difflib import get_close_matches  # seldom needed

    words = {name.lower(): name for name in known}
    match = get_close_matches(str(word).lower(), words, n=1)
    return f": did you mean '{words[match[0]]}'?" if match else ":"
