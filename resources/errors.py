"""The one kind of failure that a title's own input can cause."""


class BadInput(Exception):
    """Something from outside this project (a film, a subtitle file, a title.json, a label file) that cannot be used.

    The message is one sentence for the person on call: which file, why, what to do. It leaves the title and the
    stage out, because the graph adds both.
    """
