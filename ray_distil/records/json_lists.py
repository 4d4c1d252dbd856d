"""Reads a JSON list in pieces, with one piece of it in memory at a time. The elements are those of `json.loads`."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

PIECE_BYTES = 2**20
BYTE_ORDER_MARK = "\ufeff"
NEAR = 16  # an error in the last 16 characters may mean that the piece ends within a number, a name or \uXXXX
_BLANK = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


class Texts:
    """The pieces of text in a stream of UTF-8 bytes; a byte order mark is left out. `first_bytes`: bytes read before."""

    def __init__(self, stream: BinaryIO, first_bytes: bytes = b"") -> None:
        self._stream, self._first_bytes, self._start = stream, first_bytes, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __iter__(self) -> Iterator[str]:
        """Raises UnicodeDecodeError, whose `start` is counted from the first byte."""
        is_first, is_last = True, False
        while not is_last:
            data = self._first_bytes or self._stream.read(PIECE_BYTES)
            self._first_bytes, is_last = b"", not data
            waiting = len(self._decoder.getstate()[0])
            try:
                text = self._decoder.decode(data, final=is_last)
            except UnicodeDecodeError as error:
                error.start += self._start - waiting
                raise
            self._start += len(data)
            yield text.removeprefix(BYTE_ORDER_MARK) if is_first else text
            is_first = is_first and not text


class Elements:
    """The elements of the list. Raises the errors of `json.loads`; JSONDecodeError has the line in the whole text."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._text, self._at, self._lines = "", 0, 0  # _lines: number of lines before _text

    def __iter__(self) -> Iterator[Any]:
        self._expect("[", "Expecting value")
        if self._sign() != "]":
            yield self._value()
            while self._goes_on():
                yield self._value()
        self._expect("]", "Expecting ',' delimiter")
        if self._sign():
            raise self._error("Extra data", self._at)

    def _goes_on(self) -> bool:
        """Whether a comma is next; then the position moves behind it."""
        comma = _COMMA.match(self._text, self._at)
        if comma is not None and comma.end() < len(self._text):  # nearly always: the fast path
            self._at = comma.end()
            return True
        if self._sign() != ",":
            return False
        self._at += 1
        self._sign()
        return True

    def _expect(self, sign: str, message: str) -> None:
        if self._sign() != sign:
            raise self._error(message, self._at)
        self._at += 1

    def _sign(self) -> str:
        """The next character that is not a blank; "" at the end."""
        while True:
            self._at = _BLANK.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _value(self) -> Any:
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.pos + NEAR > len(self._text) or error.msg.startswith("Unterminated string")
                if is_cut and self._more():
                    continue
                raise self._error(error.msg, error.pos) from None
            if end + NEAR > len(self._text) and self._more():
                continue  # the value may be a number that goes on in the next piece
            self._at = end
            return value

    def _more(self) -> bool:
        """Whether there is another piece; it is appended to the text that is not read yet."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._lines += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + piece, 0
        return True

    def _error(self, message: str, place: int) -> json.JSONDecodeError:
        error = json.JSONDecodeError(message, self._text, place)
        error.lineno += self._lines
        return error
