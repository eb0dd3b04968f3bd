"""Spell out the control characters of text from files before a terminal shows it."""

import re
from typing import Any, TextIO

_CONTROL = re.compile(r"[^\x20-\x7e\n\t\r\u00a0-\u2029\u202f-\u2065\u206a-\U0010ffff]")
"""Escape sequences begin with one of these, or text runs from right to left after it."""


def harmless(text: str) -> str:
    """Return text whose control characters are spelled out, but for line ends and tabs."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class HarmlessStream:
    """A text stream to a terminal that spells out what could control it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, spelled out, also where the stream's encoding lacks a character."""
        encoding = self._stream.encoding or "utf-8"
        text = harmless(text).encode(encoding, "backslashreplace").decode(encoding)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        """Return what else the stream has."""
        return getattr(self._stream, name)
