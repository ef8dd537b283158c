"""Work that is shared among cores piece by piece, each piece on one thread.

Films' windows, shots' pictures and sounds are independent of each other, whereas threads within one operation wait for
each other after every one of them: on a busy machine that costs several times the work, and on an idle one much of the
second core.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 16  # each holds its own piece's intermediate results


def single_threaded_workers(n: int, name: str) -> ThreadPoolExecutor:
    """n threads in which a PyTorch operation runs on the thread alone; all are started here.

    PyTorch keeps the number of threads per thread, and one for threads to come, which is put back.
    """
    import torch

    before, started = torch.get_num_threads(), threading.Barrier(n + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        started.wait()

    workers = ThreadPoolExecutor(n, name, initializer=begin)
    for _ in range(n):
        workers.submit(int)  # each starts one more thread, as none is idle yet
    started.wait()
    torch.set_num_threads(before)
    return workers


def in_order(
    workers: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`function` of each item, in order, with at most `ahead` of them being computed or waiting to be taken."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(workers.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
