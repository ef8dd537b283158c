"""The two kinds of failure that are foreseen: a title's own input, and something the work needs that is not there."""


class BadInput(Exception):
    """Something from outside this project (a film, a subtitle file, a title.json, a label file) that cannot be used.

    The message is one sentence for the person on call: which file, why, what to do. It leaves the title and the
    stage out, because the graph adds both.
    """


class Unavailable(Exception):
    """Something that the work needs (a key, a checkpoint, a device, a service) is missing, or not as it is configured.

    No title's fault, and likely to strike the next title too. The message is a sentence that says what to do.
    """
