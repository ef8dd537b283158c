"""Clips put to clip encoders: several at once, each answer given as it comes, and what one cannot do harms no other."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resources.encoders.clips.encoder import ClipEncoder
from resources.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import numpy as np

REFUSALS = 3
"""So many clips refused, and none embedded yet: the service is not as it is configured, and is not asked further."""


class Clip(NamedTuple):
    """A labelled clip. media_sha256 and language are its title's; the first is empty for a title that is not
    registered."""

    title_id: str
    start_s: float
    end_s: float
    media_sha256: str
    language: str | None

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def key(self, space: str) -> str:
        """The name of its vector in `clip_embeddings`."""
        from resources.lake.clip_cache import key
        from resources.media.clips import RECIPE

        return key(f"{space} {RECIPE}", self.media_sha256, self.language, self.start_s, self.end_s)


Cuts = Iterator[tuple[Clip, Path | str]]
"""Clips with their files, or why there is none."""


@dataclass
class Asked:
    """What came of asking one encoder, in this run.

    answered: whether it has embedded a clip. held: clips that it refused before, which may be for the configuration and
    not for the clips. stopped: why it is not asked further, in a sentence. dollars: what its answers cost.
    """

    encoder: ClipEncoder
    answered: bool = False
    held: list[tuple[Clip, str]] = field(default_factory=list)
    stopped: str = ""
    dollars: float = 0.0

    def embed(self, clip: Clip, file: "Path | str") -> "np.ndarray | str | None":
        """The clip's vector, or why it never has one; None when the encoder is not asked any more. file: the clip, or
        why it cannot be cut. Raises as `ClipEncoder.embed`."""
        if self.stopped:
            return None
        if isinstance(file, str):
            return file
        size, most = file.stat().st_size, self.encoder.limits.most_bytes
        if size > most:
            return f"its file has {size / 1e6:.1f} MB, more than the {most / 1e6:g} MB that the service takes"
        return self.encoder.embed(file, clip.seconds, clip.key(self.encoder.space()))

    def settled(
        self, clip: Clip, came: "np.ndarray | str | BaseException | None"
    ) -> "Iterator[tuple[Clip, np.ndarray | str]]":
        """What is to be kept: the clip's vector, or why it never has one, and those that were held before it."""
        match came:
            case None:
                return
            case str():
                yield clip, came
            case Unavailable():
                self.stopped = str(came)
            case BadInput() if self.answered:
                yield clip, str(came)
            case BadInput():
                self.held.append((clip, str(came)))
                if len(self.held) == REFUSALS:
                    self.stopped = "it refuses every clip"
            case BaseException():
                raise came
            case _:
                self.answered = True
                self.dollars += self.encoder.dollars(clip.seconds)
                yield clip, self._usable(came)
                yield from self.held
                self.held = []

    def _usable(self, vector: "np.ndarray") -> "np.ndarray | str":
        """The vector, or what is wrong with it. It was paid for: the clip is not asked for again."""
        import numpy as np

        expected = self.encoder.dimensions
        if vector.ndim != 1 or (expected and len(vector) != expected):
            self.stopped = f"its answer has the shape {vector.shape}, where {expected} numbers are documented"
            return self.stopped
        if not (np.isfinite(vector).all() and vector.any()):
            return "its vector is zero, or holds NaN or infinity"
        return vector


def put_to(
    asked: Mapping[str, Asked], todo: Mapping[str, Sequence[Clip]], cuts: Callable[[Path], Cuts]
) -> "Iterator[tuple[str, Clip, np.ndarray | str]]":
    """(encoder, clip, its vector or why it never has one) as the answers come."""
    wanted = {name: set(clips) for name, clips in todo.items() if clips}
    under_way: dict[Future[np.ndarray | str | None], tuple[str, Clip]] = {}

    def settled(some: "Iterable[Future[Any]]") -> "Iterator[tuple[str, Clip, np.ndarray | str]]":
        for future in some:
            name, clip = under_way.pop(future)
            error = future.exception()
            for which, made in asked[name].settled(clip, future.result() if error is None else error):
                yield name, which, made

    with tempfile.TemporaryDirectory(prefix="mediafm-clips-") as folder, ExitStack() as pools:
        pool = {name: pools.enter_context(ThreadPoolExecutor(asked[name].encoder.at_once)) for name in wanted}
        try:
            for clip, file in cuts(Path(folder)):
                for name in (name for name, clips in wanted.items() if clip in clips):
                    under_way[pool[name].submit(asked[name].embed, clip, file)] = name, clip
                yield from settled([future for future in under_way if future.done()])
            yield from settled(as_completed(list(under_way)))
        finally:
            for future in under_way:
                future.cancel()
