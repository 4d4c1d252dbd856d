"""The errors of this package by their classes, below one base class. What is none of them is a fault of the package or of
a library.

A new error is a class here, below UserError if a user can mend its cause, else below StageError or DistilError. Its
message names the value and the remedy. The command line prints a UserError alone, with exit code 2; every other error is
a failure with exit code 1 and a log.
"""


class DistilError(Exception):
    """An error that this package raises."""


class UserError(DistilError):
    """A mistake in the configuration or the input: the message (one or two lines) says what is wrong and what to do.

    Entry points print the message alone and exit with code 2.
    """


class ConfigError(UserError):
    """The configuration is wrong; one line a mistake, with the key, the value and the remedy."""


class HubAway(ConfigError):
    """The hub could not be asked about a model, so nobody knows whether it has it; the message has the remedy."""


class PlaceAway(UserError):
    """An object store could not be reached, so nobody knows what is there; the message has the remedy."""


class NoSuchFile(UserError):
    """Neither a file nor a folder exists under a source's path; the message says what may stand there."""


class DamagedFile(UserError):
    """A file that is not what was written; the message names it and the remedy."""


class StageError(DistilError, RuntimeError):
    """A stage could not finish; the message says what happened and what to do."""


class StoppedError(StageError):
    """A stage was stopped while it worked. Its Ray tasks may still be running when this is raised."""


class NoAccess(UserError, StoppedError):
    """An endpoint refuses all requests of a stage at work, e.g. since the account is empty. Finished rows stay."""


class NoRowsLeft(StageError):
    """A stage has nothing to work on. The same command would end in the same way; the message names what to change."""


class BadRecord(DistilError, ValueError):
    """A record that cannot be used; `reason` is a short code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return self.detail


class BadReply(DistilError, ValueError):
    """A reply that gives no text for its row. `tries`: how often the request may be sent in all; None: no own limit."""

    def __init__(self, message: str, tries: int | None = 3, code: str = "bad_reply") -> None:
        super().__init__(message, tries, code)
        self.message, self.tries, self.code = message, tries, code

    def __str__(self) -> str:
        return self.message


class KillsEngine(DistilError):
    """The engine died each time this row was in it."""
