"""A cache that keeps what was used last."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Recent(Generic[Made]):
    """The last `size` values by key. Safe among threads; two that miss at once both make the value."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, Made] = OrderedDict()
        self._turn = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        with self._turn:
            return key in self._kept

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The value of the key, made if it is not kept. What `make` raises is raised and not kept."""
        with self._turn:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._turn:
            self._kept[key] = made
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return made
