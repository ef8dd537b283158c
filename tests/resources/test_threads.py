"""Pieces of work shared among cores: in order, not far ahead, each on one thread."""

import threading
from collections.abc import Iterator

import pytest
import torch

from resources.threads import in_order, single_threaded_workers


def test_a_workers_operations_stay_on_its_thread_and_the_others_keep_theirs() -> None:
    before = torch.get_num_threads()
    workers = single_threaded_workers(2, "pieces")
    together = threading.Barrier(2)  # so that each takes one

    def seen(_: int) -> tuple[int, int]:
        together.wait()
        return threading.get_ident(), torch.get_num_threads()

    found = list(in_order(workers, seen, range(2), 2))
    assert {threads for _, threads in found} == {1}
    assert len({thread for thread, _ in found}) == 2
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *later] == [before, before]
    workers.shutdown()


def test_results_come_in_order_and_no_piece_is_taken_long_before_its_turn() -> None:
    taken: list[int] = []

    def pieces() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    with single_threaded_workers(2, "pieces") as workers:
        results = in_order(workers, lambda number: number**2, pieces(), 4)
        assert next(results) == 0
        assert taken == [0, 1, 2, 3]
        assert list(results) == [number**2 for number in range(1, 20)]


def test_a_failure_comes_in_its_place() -> None:
    with single_threaded_workers(2, "pieces") as workers:
        results = in_order(workers, lambda number: 6 // number, [3, 2, 0, 1], 4)
        assert [next(results), next(results)] == [2, 3]
        with pytest.raises(ZeroDivisionError):
            next(results)
