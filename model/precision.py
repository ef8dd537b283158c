"""The number type of matrix products: the one rule for whatever may multiply in bf16.

The only module of `model` that `resources` imports: the detectors and embedding models there multiply on the same
processors as the encoder here.
"""

import platform

import torch


def matmul_dtype(device: torch.device, asked: torch.dtype = torch.bfloat16) -> torch.dtype:
    """The type to multiply matrices in on `device`: `asked`, but float32 for bfloat16 where that is the slower one.

    bfloat16 is fast on:
    CUDA:   the GPU's own instructions (compute capability 8.0 and later).
    x86-64: AMX or AVX-512 BF16, and oneDNN allowed to use AVX-512 (ONEDNN_MAX_CPU_ISA may forbid it). Without, PyTorch
            multiplies bf16 on one thread, up to dozens of times slower than float32 (docs/benchmarks.md).
    arm64:  the bf16 extension (Graviton 3, Neoverse V1 and later) and a PyTorch with the Arm Compute Library, whose
            kernels use it. Apple's builds have none, and multiply float32 on the AMX units of Accelerate.

    It is taken to be slow on any other device.
    """
    return torch.float32 if asked == torch.bfloat16 and not _multiplies_bf16(device) else asked


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # What oneDNN may use of this processor. Of AVX-512 without BF16 it says yes, too, and converts.
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.backends.mkldnn.is_acl_available()
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))
