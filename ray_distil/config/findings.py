"""What a check of a configuration has found: an error, which ends the command, or a remark."""

from typing import NamedTuple


class Finding(NamedTuple):
    key: str  # of the configuration, or the name of a model; "" where the text names it
    text: str  # the value and the remedy
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


def remark(key: str, text: str) -> Finding:
    return Finding(key, text, is_error=False)
