"""Films read apart: in a child process whose memory and time are limited.

A small file can declare huge pictures, or make FFmpeg's tables grow without end, and no check of ours comes before
FFmpeg's own. So nothing of a film is opened in a run's process: a child reads it, in bounds that the system keeps, and
hands over what is small. A film that breaks a bound fails alone, in one sentence.

A child serves one film after the other, as its imports take longer than opening a film, and ends with its parent. The
two speak JSON and bytes over a socket, not pickle; the detector's network stays in the parent, which is asked for each
picture's cuts. The child is given no other variables, as those hold secrets.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.errors import BadInput, one_line
from resources.media import clips, sound
from resources.media.container import span_of as span_here
from resources.media.frames import Mark, MarkNotFound, MediaInfo
from resources.media.frames import probe as probe_here
from resources.media.joined import FilmFile, Joined
from resources.media.sampling import Cuts, SampledFrame, Shot, cut_film, sample_film

if TYPE_CHECKING:
    import numpy as np

MEMORY = 6 << 30
"""Bytes of address space. A film of 8192 x 4320 pixels in 10 bits takes half of it; macOS does not keep this bound."""
ANSWER_CPU_S = 600
"""Processor seconds from one picture, or one shot's sound, to the next."""
ANSWER_S = 3600.0
"""The same on the clock, for a disk that has stopped answering."""
_GIVEN = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")

log = logging.getLogger(__name__)
_idle: "list[_Child]" = []


def probe(path: FilmFile) -> MediaInfo:
    """What the film is. Raises BadInput as `frames.probe` does, and for a film that breaks a bound."""
    ((said, _),) = _read(path, "probe")
    return MediaInfo(**{**said, "audio_languages": tuple(said["audio_languages"])})


def shot_audio(
    path: FilmFile, shots: Sequence[tuple[float, float]], language: str | None = None, sample_rate: int = 16000
) -> "Generator[np.ndarray]":
    """One float32 mono array per shot, as `sound.shot_audio` gives them; likewise BadInput."""
    import numpy as np

    for _, parts in _read(path, "sound", shots=list(shots), language=language, sample_rate=sample_rate):
        yield np.frombuffer(parts[0], np.float32).copy()


def cut_clips(
    path: FilmFile, spans: Sequence[clips.Span], folder: Path, language: str | None = None
) -> Generator[tuple[clips.Span, Path]]:
    """Each span's clip as a file in the folder, as `clips.cut_clips` makes them; likewise BadInput."""
    for said, _ in _read(path, "clips", spans=list(spans), folder=os.path.abspath(folder), language=language):
        start_s, end_s = said["span"]
        yield (start_s, end_s), Path(said["file"])


def sound_blocks(path: FilmFile, language: str | None = None, block_s: float = 30.0) -> "Generator[np.ndarray]":
    """All of the sound in float32 mono arrays, as `sound.sound_blocks` gives them; likewise BadInput."""
    import numpy as np

    for _, parts in _read(path, "blocks", language=language, block_s=block_s):
        yield np.frombuffer(parts[0], np.float32)


def span_of(path: FilmFile) -> tuple[float, float] | None:
    """Where the picture begins and ends, as `container.span_of` gives it; likewise BadInput."""
    ((said, _),) = _read(path, "span")
    return tuple(said["span"]) if said["span"] else None


def cut_apart(
    path: FilmFile,
    cuts: Cuts,
    frames_per_shot: int,
    short_side: int,
    growing: bool = False,
    begin: Mark | None = None,
) -> Generator[tuple[Shot, list[SampledFrame]]]:
    """The film's shots and their sampled frames, as `cut_film` gives them; likewise BadInput and MarkNotFound."""
    asked = {"frames_per_shot": frames_per_shot, "short_side": short_side, "growing": growing, "begin": begin}
    names = ("picture_format", "interpolation", "warm_up")
    for said, jpegs in _read(path, "shots", cuts, looks={name: getattr(cuts, name) for name in names}, **asked):
        mark = said["shot"].pop("mark")
        yield Shot(**said["shot"], mark=Mark(*mark) if mark else None), _frames_of(said, jpegs)


def sample_apart(path: FilmFile, frames: int, short_side: int) -> list[SampledFrame]:
    """Frames of the whole film, as `sample_film` gives them; likewise BadInput."""
    ((said, jpegs),) = _read(path, "samples", frames=frames, short_side=short_side)
    return _frames_of(said, jpegs)


def _frames_of(said: dict[str, Any], jpegs: Sequence[bytes]) -> list[SampledFrame]:
    return [SampledFrame(number, time_s, jpeg) for (number, time_s), jpeg in zip(said["frames"], jpegs, strict=True)]


def _read(
    path: FilmFile, task: str, cuts: Cuts | None = None, **asked: Any
) -> Generator[tuple[dict[str, Any], list[bytes]]]:
    """What a child answers, one by one; the detector's answers are given meanwhile. Raises BadInput."""
    child = _Child.idle()
    try:
        child.say({"task": task, **_said_of(path), "asked": asked})
        while (kind := (said := child.heard(path)).pop("kind")) != "end":
            if kind == "item":
                yield said, child.parts
            elif kind == "log":
                log.log(said["level"], "%s", said["text"])
            elif kind == "bad":
                raise BadInput(said["why"])
            elif kind == "lost":
                raise MarkNotFound
            elif kind == "error":
                raise RuntimeError(f"{path.name}: {said['why']}")
            else:
                assert cuts is not None
                child.say(_of_detector(cuts, kind, said, child.parts))
    except BaseException:
        child.end()
        raise
    _idle.append(child)


def _said_of(path: FilmFile) -> dict[str, Any]:
    if isinstance(path, Joined):
        return {"path": path.name, "files": [(os.path.abspath(file), size) for file, size in path.files]}
    return {"path": os.path.abspath(path)}


def _film_of(said: dict[str, Any]) -> FilmFile:
    return Joined(said["path"], said["files"]) if "files" in said else Path(said["path"])


def _of_detector(cuts: Cuts, kind: str, said: dict[str, Any], parts: Sequence[bytes]) -> dict[str, Any]:
    import numpy as np

    if kind == "size":
        return {"size": cuts.picture_size(said["width"], said["height"])}
    if kind == "push":
        found = cuts.push(np.frombuffer(parts[0], np.uint8).reshape(said["shape"]).copy())
    else:
        found = cuts.certain() if kind == "certain" else cuts.finish()
    return {"found": found, "settled": cuts.settled}


class _Child:
    """The parent's side: a process that reads films. parts: the bytes that came with what was heard last."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        root = str(Path(__file__).parents[2])
        given = {name: os.environ[name] for name in _GIVEN if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", self._program(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**given, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self.parts: list[bytes] = []

    @staticmethod
    def _program(socket: int) -> str:
        return f"from {__name__} import serve; serve({socket}, {MEMORY}, {ANSWER_CPU_S})"

    @classmethod
    def idle(cls) -> "_Child":
        while True:
            try:
                child = _idle.pop()  # not asked first whether there is one: another thread may take it between
            except IndexError:
                return cls()
            if child._process.poll() is None:
                return child
            child.end()

    def say(self, what: dict[str, Any]) -> None:
        self._connection.send_bytes(json.dumps(what).encode())

    def heard(self, path: FilmFile) -> dict[str, Any]:
        """The child's next message. BadInput when it died over the film, or says nothing any more."""
        try:
            if not self._connection.poll(ANSWER_S):
                raise BadInput(f"{path.name} gave nothing in {ANSWER_S / 60:.0f} minutes of reading; look at its disk")
            said: dict[str, Any] = json.loads(self._connection.recv_bytes())
            self.parts = [self._connection.recv_bytes() for _ in range(said.pop("parts", 0))]
            return said
        except (EOFError, ConnectionError):
            raise BadInput(f"{path.name} {_cause_of(self._process.wait())}; convert the film, or remove it") from None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()


def _cause_of(status: int) -> str:
    if status == -signal.SIGXCPU:
        return f"takes more than {ANSWER_CPU_S} s of a processor from one picture or sound to the next"
    if status == -signal.SIGKILL:
        return "was being read when the process that read it was killed, most likely for memory"
    return f"ended the process that read it (status {status}); it is damaged, or made to do that"


class _Parent:
    """The child's side. Its locks are for the thread that decodes ahead: it asks for a picture's size, and logs."""

    def __init__(self, connection: Connection, answer_cpu_s: int) -> None:
        self._connection, self._answer_cpu_s = connection, answer_cpu_s
        self._speaking, self._asking = threading.Lock(), threading.Lock()

    def allow_cpu(self) -> None:
        """Begin anew to count the processor's seconds until the next answer."""
        until = int(time.process_time()) + 1 + self._answer_cpu_s
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))

    def films(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                yield json.loads(self._connection.recv_bytes())
            except EOFError:
                return

    def say(self, kind: str, parts: Sequence[Any] = (), **what: Any) -> None:
        self.allow_cpu()
        with self._speaking:
            self._connection.send_bytes(json.dumps({"kind": kind, "parts": len(parts), **what}).encode())
            for part in parts:
                self._connection.send_bytes(part)

    def ask(self, kind: str, parts: Sequence[Any] = (), **what: Any) -> dict[str, Any]:
        with self._asking:
            self.say(kind, parts, **what)
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
            return answer


class _AskedCuts:
    """The detector, which is in the parent."""

    def __init__(self, parent: _Parent, picture_format: str, interpolation: str, warm_up: int) -> None:
        self.picture_format, self.interpolation, self.warm_up = picture_format, interpolation, warm_up
        self.settled = 0
        self._parent = parent
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        if (width, height) not in self._sizes:
            across, down = self._parent.ask("size", width=width, height=height)["size"]
            self._sizes[width, height] = across, down
        return self._sizes[width, height]

    def push(self, picture: "np.ndarray") -> list[int]:
        return self._found(self._parent.ask("push", [picture.tobytes()], shape=picture.shape))

    def certain(self) -> list[int]:
        return self._found(self._parent.ask("certain"))

    def finish(self) -> list[int]:
        return self._found(self._parent.ask("finish"))

    def _found(self, answer: dict[str, Any]) -> list[int]:
        self.settled = answer["settled"]
        found: list[int] = answer["found"]
        return found


class _LogOfParent(logging.Handler):
    def __init__(self, parent: _Parent) -> None:
        super().__init__(logging.WARNING)
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        self._parent.say("log", level=record.levelno, text=one_line(record.getMessage()))


def _items(
    parent: _Parent, task: str, path: FilmFile, asked: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    if task == "probe":
        yield asdict(probe_here(path)), []
    elif task == "span":
        yield {"span": span_here(path)}, []
    elif task == "sound":
        for samples in sound.shot_audio(path, **asked):
            yield {}, [samples]
    elif task == "clips":
        spans = [(start_s, end_s) for start_s, end_s in asked["spans"]]
        for span, file in clips.cut_clips(path, spans, Path(asked["folder"]), asked["language"]):
            yield {"span": span, "file": str(file)}, []
    elif task == "blocks":
        for samples in sound.sound_blocks(path, **asked):
            yield {}, [samples]
    elif task == "shots":
        cuts, begin = _AskedCuts(parent, **asked.pop("looks")), asked.pop("begin")
        asked["begin"] = Mark(*begin) if begin else None
        for shot, sampled in cut_film(path, cuts, **asked):
            yield {"shot": asdict(shot), "frames": _places(sampled)}, [frame.jpeg for frame in sampled]
    else:
        sampled = sample_film(path, **asked)
        yield {"frames": _places(sampled)}, [frame.jpeg for frame in sampled]


def _places(sampled: Sequence[SampledFrame]) -> list[tuple[int, float]]:
    return [(frame.frame_index, frame.time_s) for frame in sampled]


def serve(socket: int, memory: int, answer_cpu_s: int) -> None:
    """Read films, as the parent at the other end of the socket asks, until it is gone. For a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses Ctrl-C ends the parent, and so this process
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = _Parent(Connection(socket), answer_cpu_s)
    logging.getLogger("resources").addHandler(_LogOfParent(parent))
    for film in parent.films():
        path = _film_of(film)
        parent.allow_cpu()
        try:
            for item, parts in _items(parent, film["task"], path, film["asked"]):
                parent.say("item", parts, **item)
            parent.say("end")
        except BadInput as bad:
            parent.say("bad", why=str(bad))
        except MarkNotFound:
            parent.say("lost")
        except MemoryError:
            parent.say(
                "bad", why=f"{path.name} takes more than {memory >> 30} GiB of memory to decode; convert the film"
            )
        except OSError:  # of the connection
            return
        except Exception as error:
            parent.say("error", why=one_line(f"{type(error).__name__}: {error}"))
