"""Progress bars: one line that moves on a terminal, a few plain lines in a log file."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress_bar(total: int, what: str) -> Iterator["tqdm[Any]"]:
    """A tqdm on stderr that also names the step that is running.

    Where stderr is no terminal, it is a line at most every SECONDS_BETWEEN_LINES, the last one when all is done.
    """
    from tqdm import tqdm

    class Lines(tqdm):
        shown_at = -SECONDS_BETWEEN_LINES

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            closing, now = self.disable, time.monotonic()
            if closing or now - self.shown_at >= SECONDS_BETWEEN_LINES:
                self.shown_at = now
                self.fp.write(str(self) if closing else f"{self}\n")  # close() ends the last line itself
                self.fp.flush()
            return True

    terminal = sys.stderr.isatty()
    form = None if terminal else "{desc}: {n_fmt} of {total_fmt}, {elapsed} passed, {remaining} left{postfix}"
    with (tqdm if terminal else Lines)(total=total, desc=what, dynamic_ncols=terminal, bar_format=form) as bar:
        ShowStep.bar = bar
        try:
            yield bar
        finally:
            ShowStep.bar = None


class ShowStep(logging.Handler):
    """Takes the place of Dagster's console log in these runs (the UI has it all): names what was made last, and counts
    the titles."""

    bar: "tqdm[Any] | None" = None
    title = ""

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        if self.bar is None or event is None or event.event_type_value != "ASSET_MATERIALIZATION":
            return
        if event.partition and event.partition != self.title:
            if self.title:
                self.bar.update()
            self.title = event.partition
        self.bar.set_postfix_str(f"{event.partition}: {event.asset_key.to_user_string()}")


@dg.logger(None, description="A progress bar instead of log lines.")
def progress_logger(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("mediafm.progress")
    logger.addHandler(ShowStep())
    return logger
