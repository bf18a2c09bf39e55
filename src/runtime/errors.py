# SPDX-License-Identifier: Apache-2.0
"""Base class of the project's errors, and error texts on one line."""


class M2DetError(Exception):
    """An expected failure. The message is one line: the file or key, and what was expected.

    Every error class of the project is derived from it; programs print it without a traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageError(M2DetError, ValueError):
    """Wrong arguments or settings."""


def printable(text: str) -> str:
    """`text` on one line: control characters and broken Unicode, as in odd file names, escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def printable_name(name: object) -> bool:
    """Whether this may be the name of a class: text, not empty, without control or
    direction characters, which could forge lines of a log.
    """
    return isinstance(name, str) and bool(name.strip()) and name.isprintable()


def one_line(error: BaseException, length: int = 160) -> str:
    """An exception's text without line breaks, cut to `length`."""
    return printable(" ".join(str(error).split()))[:length] or type(error).__name__
