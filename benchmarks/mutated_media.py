"""Damaged films must end in frames or in one sentence: never in a crash, a hang, or an error without the film's name.

    python benchmarks/mutated_media.py [--count 500] [--seed 0] [--limit 60] [FILM ...]

Every mutation flips bytes, overwrites a stretch, cuts out a stretch or cuts off the end of one of the films (by default
the small ones of ../shared/media/odd, or rendered ones where that folder is absent): a pure function of seed and
number. They go through a process of their own; when it dies over a film or outlasts the limit, the next film gets a
new one. Exit status 1 when anything but frames or a sentence came out.
"""

import argparse
import json
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ODD = ROOT.parent / "shared" / "media" / "odd"
EXTENSIONS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".flv", ".ogv", ".wmv")
LARGEST = 3 << 20


def sources() -> list[Path]:
    """Small films of many kinds."""
    if ODD.is_dir():
        films = sorted(
            path for path in ODD.iterdir() if path.suffix in EXTENSIONS and 100 < path.stat().st_size < LARGEST
        )
        return [path for path in films if path.stat().st_size]
    sys.path.insert(0, str(ROOT))  # the tests are not installed
    from tests.resources.films import render, scenes, tone

    folder = Path(tempfile.mkdtemp(prefix="mediafm-films-"))
    return [
        render(
            folder / name, scenes([20, 30]), codec=codec, sound={"eng": tone(440, 2)}, faststart=name.endswith("mp4")
        )
        for name, codec in (("a.mp4", "libx264"), ("b.mkv", "mpeg4"), ("c.ts", "mpeg2video"), ("d.avi", "mpeg4"))
    ]


def mutated(data: bytes, seed: int, number: int) -> bytes:
    """One to four wounds, the header's first kilobytes more often than the rest."""
    rng = random.Random(f"{seed}:{number}")
    wounded = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        end = min(len(wounded), 4096) if rng.random() < 0.4 else len(wounded)
        if end < 16:
            break
        at = rng.randrange(end)
        kind = rng.random()
        if kind < 0.5:
            for _ in range(rng.randint(1, 32)):
                wounded[rng.randrange(end)] ^= 1 << rng.randrange(8)
        elif kind < 0.7:
            length = rng.randint(1, 2048)
            wounded[at : at + length] = rng.randbytes(len(wounded[at : at + length]))
        elif kind < 0.85:
            del wounded[at : at + rng.randint(1, 4096)]
        else:
            del wounded[max(at, 16) :]
    return bytes(wounded)


def child() -> None:
    """Reads paths from standard input, one a line; answers each with one line of JSON."""
    import logging

    logging.disable(logging.CRITICAL)
    from resources.errors import BadInput
    from resources.media import probe, shot_audio
    from resources.shots import ShotDetector, detect_shots

    for line in sys.stdin:
        path = Path(line.strip())
        try:
            probe(path)
            shots = [(shot, frames) for shot, frames in detect_shots(path, ShotDetector(detector="adaptive"))]
            starts = [shot.start_frame for shot, _ in shots]
            assert starts == [0, *(shot.end_frame for shot, _ in shots[:-1])], "the shots do not tile the film"
            assert all(shot.start_s < shot.end_s and frames for shot, frames in shots), "a shot is empty"
            arrays = list(shot_audio(path, [(shot.start_s, shot.end_s) for shot, _ in shots]))
            assert len(arrays) == len(shots), "there is not one array per shot"
            outcome = ["film", f"{shots[-1][0].end_frame} frames"]
        except BadInput as bad:
            named = path.name in str(bad) and "\n" not in str(bad)
            outcome = ["sentence" if named else "SENTENCE WITHOUT ITS FILM", str(bad)]
        except Exception as error:  # what this script is for
            outcome = ["UNEXPECTED ERROR", f"{type(error).__name__}: {error}"]
        print(json.dumps(outcome), flush=True)


class Worker:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.answers = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self.answers.register(self.process.stdout, selectors.EVENT_READ)

    def ask(self, path: Path, limit_s: float) -> list[str] | None:
        """The outcome; None when the process died over it or outlasted the limit, and is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline() if self.answers.select(limit_s) else b""
        if line:
            return list(json.loads(line))
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds per film")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child()
        return 0
    films = chosen.films or sources()
    outcomes: Counter[str] = Counter()
    slowest, worker, began = (0.0, ""), Worker(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mediafm-mutated-") as folder:
        for number in range(chosen.count):
            film = films[number % len(films)]
            path = Path(folder) / f"{number:04}-{film.name.lstrip('-')}"
            path.write_bytes(mutated(film.read_bytes(), chosen.seed, number))
            start = time.monotonic()
            outcome = worker.ask(path, chosen.limit)
            took = time.monotonic() - start
            slowest = max(slowest, (took, path.name))
            if outcome is None:
                died = worker.process.poll()
                worker.process.kill()
                worker.process.wait()
                outcome = (
                    ["HANG", f"over {chosen.limit:g} s"]
                    if died is None and took >= chosen.limit
                    else ["CRASH", f"exit status {worker.process.returncode}"]
                )
                worker = Worker()
            outcomes[outcome[0]] += 1
            if outcome[0] not in ("film", "sentence"):
                print(f"{path.name} (seed {chosen.seed}): {outcome[0]}: {outcome[1]}", flush=True)
            path.unlink()
            if (number + 1) % 50 == 0:
                print(f"{number + 1} of {chosen.count}: {dict(outcomes)}", flush=True)
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    worker.process.wait()
    bad = sum(count for kind, count in outcomes.items() if kind not in ("film", "sentence"))
    print(f"{chosen.count} mutations of {len(films)} films in {time.monotonic() - began:.0f} s: {dict(outcomes)}")
    print(f"slowest: {slowest[1]}, {slowest[0]:.1f} s; neither film nor sentence: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
