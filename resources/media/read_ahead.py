"""A stream that is read in a thread, some items ahead of whoever takes them."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def read_ahead(stream: Iterable[T], depth: int) -> Generator[T]:
    """Run `stream` in a thread, at most `depth` items ahead of the consumer; a slow consumer stalls it.

    An exception of the stream is raised where its item would have come. Closing the generator stops the thread and
    closes the stream.
    """
    items: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[bool, Any]) -> None:
        while not stopped.is_set():
            try:
                items.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def run() -> None:
        end: BaseException | None = None
        try:
            for item in stream:
                put((False, item))
                if stopped.is_set():
                    break
        except BaseException as error:  # handed over to the consumer, whatever it is
            end = error
        finally:
            if hasattr(stream, "close"):
                stream.close()
        put((True, end))

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            last, item = items.get()
            if last:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        stopped.set()
        thread.join()
