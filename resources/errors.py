"""The two kinds of failure that are foreseen: a title's own input, and something the work needs that is not there.

Their messages reach logs, terminals and the UI, and quote names and texts from outside. So each is one printable line.
"""

import re

LONGEST_LINE = 1000
LONGEST_NAME = 140

# Colours and other control sequences of terminals (ECMA-48), as Rust's and Python's error reports use them.
_TERMINAL_CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\^_]")


def one_line(text: object, limit: int = LONGEST_LINE) -> str:
    """`str(text)` as one printable line of at most `limit` characters: without terminal codes, white space and line
    ends as single spaces, what else cannot be printed escaped. For sentences, and for what others' exceptions say."""
    return printable(" ".join(_TERMINAL_CODES.sub("", str(text)[: 8 * limit]).split()), limit)


def printable(name: object, limit: int = LONGEST_NAME) -> str:
    """A name from outside in at most `limit` characters, with all that cannot be printed escaped, so that two names
    that differ (in a line end, a colour code) still look different."""
    shown = str(name)[: limit + 1]
    if not shown.isprintable():
        shown = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
            for character in shown
        )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


class BadInput(Exception):
    """Something from outside this project (a film, a subtitle file, a title.json, a label file) that cannot be used.

    The message is one sentence for the person on call: which file, why, what to do. It leaves the title and the
    stage out, because the graph adds both.
    """

    def __init__(self, sentence: object) -> None:
        super().__init__(one_line(sentence))


class NotYet(BadInput):
    """What is there of a live title is too little; nothing is wrong."""


class Unavailable(Exception):
    """Something that the work needs (a key, a checkpoint, a device, a service) is missing, or not as it is configured.

    No title's fault, and likely to strike the next title too. The message is a sentence that says what to do.
    """

    def __init__(self, sentence: object) -> None:
        super().__init__(one_line(sentence))
