"""A film whose bytes lie in several files: segments, one after the other, or the beginning of a file that grows."""

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Joined(NamedTuple):
    """Files' first bytes, read as those of one file. name: how people know it. files: (path, bytes), in their order."""

    name: str
    files: Sequence[tuple[str, int]]

    def open(self) -> IO[bytes]:
        """All bytes; only the file that is being read is held open. Raises FileNotFoundError when it is read."""
        return io.BufferedReader(_Bytes(self.files), 1 << 18)


FilmFile = Path | Joined
"""A film to be read: a file, or what is as good as one."""


class _Bytes(io.RawIOBase):
    def __init__(self, files: Sequence[tuple[str, int]]) -> None:
        self._files = files
        self._ends = list(accumulate(size for _, size in files))
        self._at = 0
        self._file: IO[bytes] | None = None
        self._file_at = -1  # where in all bytes the open file stands

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._ends[-1]}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        number = bisect_right(self._ends, self._at)
        if number == len(self._files):
            return 0
        if self._file is None or self._file_at != self._at:
            self._let_go()
            path, size = self._files[number]
            self._file = open(path, "rb")  # noqa: SIM115 - closed at its end, or when another's turn comes
            self._file.seek(self._at - (self._ends[number] - size))
        room = memoryview(buffer).cast("B")
        data = self._file.read(min(len(room), self._ends[number] - self._at))
        room[: len(data)] = data
        self._at += len(data)
        self._file_at = self._at
        if self._at == self._ends[number] or not data:
            self._let_go()
        return len(data)

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def close(self) -> None:
        self._let_go()
        super().close()
