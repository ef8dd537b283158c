import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from model.config import Config
from model.encoder import Encoder
from model.optim import Muon, learning_rate_factor, muon_lr, optimizers, parameter_groups, set_learning_rates
from model.precision import matmul_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("modality_masking", [0.0, 0.5])
def test_every_parameter_is_in_exactly_one_group(
    small: Config, positions: str, optimizer: str, modality_masking: float
) -> None:
    config = dataclasses.replace(small, positions=positions, optimizer=optimizer, modality_masking=modality_masking)
    encoder = Encoder(config)
    grouped = [
        parameter
        for made in optimizers(encoder, config).values()
        for g in made.param_groups
        for parameter in g["params"]
    ]
    assert len(grouped) == len(set(map(id, grouped)))
    assert set(map(id, grouped)) == {id(p) for p in encoder.parameters() if p.requires_grad}
    assert all(p.requires_grad for name, p in encoder.named_parameters() if not name.startswith(("smoother.", "blend")))


def test_muon_has_the_hidden_matrices_each_on_its_own_and_nothing_else(small: Config) -> None:
    encoder = Encoder(small)
    muon = optimizers(encoder, small)["muon"]
    shapes = [tuple(parameter.shape) for group in muon.param_groups for parameter in group["params"]]
    assert sorted(shapes) == sorted(small.layers * (4 * [(32, 32)] + [(128, 32), (32, 128)]))
    names = [name for name, _ in parameter_groups(encoder)["hidden"]]
    assert names[:6] == [f"blocks.0.{n}.weight" for n in ("query", "key", "value", "out", "up", "down")]


def test_only_matrices_are_decayed(small: Config) -> None:
    encoder = Encoder(dataclasses.replace(small, positions="learned"))
    plain = {id(p) for _, p in parameter_groups(encoder)["vectors"]}
    for made in optimizers(encoder, small).values():
        for group in made.param_groups:
            for parameter in group["params"]:
                assert (group["weight_decay"] == 0) == (id(parameter) in plain)


def test_a_parameter_of_no_known_kind_is_refused(small: Config) -> None:
    encoder = Encoder(small)
    encoder.extra = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"extra.weight of shape \(4, 4\) belongs to no optimiser group"):
        parameter_groups(encoder)


@pytest.mark.parametrize("shape", [(64, 64), (48, 128), (128, 48)])
def test_muons_update_is_the_newton_schulz_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    """An independent orthogonalisation: in float64, on the singular values alone, with the published coefficients."""
    gradient = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = gradient.float()
    Muon([("matrix", parameter)], lr=1.0, weight_decay=0.0, momentum=0.0).step()

    u, s, vt = torch.linalg.svd(gradient, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = -0.2 * math.sqrt(max(shape)) * (u * s) @ vt
    error = (parameter.detach().double() - expected).norm() / expected.norm()
    exact = matmul_dtype(CPU) == torch.float32
    assert error < (1e-4 if exact else 0.02), "bf16 arithmetic is good for about a percent"
    # "Orthogonal" is meant loosely: from a spread of more than a hundredfold, all come near one.
    assert (s > 0.5).all()
    assert (s < 1.3).all()


def test_muon_does_what_pytorchs_does_from_state_that_pytorchs_saved() -> None:
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (128, 32), (32, 128), (64, 64)]
    start = [torch.from_numpy(rng.standard_normal(shape)).float() for shape in shapes]
    gradients = [[torch.from_numpy(rng.standard_normal(shape)).float() for shape in shapes] for _ in range(6)]

    Steps = list[list[torch.Tensor]]

    def advance(optimizer: torch.optim.Optimizer, matrices: list[nn.Parameter], steps: Steps) -> None:
        for step in steps:
            for matrix, gradient in zip(matrices, step, strict=True):
                matrix.grad = gradient.clone()
            optimizer.step()

    theirs = [nn.Parameter(matrix.clone()) for matrix in start]
    named = [(str(i), matrix) for i, matrix in enumerate(theirs)]
    pytorchs = torch.optim.Muon(named, 0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    advance(pytorchs, theirs, gradients[:3])
    mine = [nn.Parameter(matrix.detach().clone()) for matrix in theirs]
    muon = Muon([(str(i), matrix) for i, matrix in enumerate(mine)], lr=0.02, weight_decay=0.1, momentum=0.9)
    for matrix, other in zip(mine, theirs, strict=True):
        muon.state[matrix] = {name: value.clone() for name, value in pytorchs.state[other].items()}
    middle = [matrix.detach().clone() for matrix in mine]
    advance(muon, mine, gradients[3:])
    advance(pytorchs, theirs, gradients[3:])
    for matrix, other, before in zip(mine, theirs, middle, strict=True):
        assert (matrix - other).norm() < 0.02 * (other - before).norm()  # PyTorch's is bf16 on every processor
        torch.testing.assert_close(muon.state[matrix]["momentum_buffer"], pytorchs.state[other]["momentum_buffer"])


@pytest.mark.parametrize("schedule", ["cosine", "trapezoid"])
def test_learning_rates_warm_up_and_end_near_zero(small: Config, schedule: str) -> None:
    config = dataclasses.replace(small, schedule=schedule, warmup_steps=10)
    factors = [learning_rate_factor(config, step, 100) for step in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[0] == pytest.approx(0.1, abs=0.01)
    assert max(factors) > 0.95
    assert 0 < factors[-1] < 0.05
    assert factors[30:] == sorted(factors[30:], reverse=True)


def test_a_trapezoid_is_flat_until_its_decay(small: Config) -> None:
    config = dataclasses.replace(small, schedule="trapezoid", warmup_steps=10, decay_share=0.3)
    assert {learning_rate_factor(config, step, 100) for step in range(10, 70)} == {1.0}
    assert learning_rate_factor(config, 85, 100) == pytest.approx(0.5)


def test_both_rates_follow_the_factor(small: Config) -> None:
    made = optimizers(Encoder(small), small)
    assert set_learning_rates(made, small, 0.5) == {"lr_muon": small.muon_lr / 2, "lr_adamw": small.adamw_lr / 2}
    assert {g["lr"] for g in made["muon"].param_groups} == {small.muon_lr / 2}
    assert {g["lr"] for g in made["adamw"].param_groups} == {small.adamw_lr / 2}


def test_the_rate_falls_with_the_square_root_of_the_width() -> None:
    config = dataclasses.replace(Config.embedded(), muon_lr=0.02, base_width=256)
    assert muon_lr(config) == pytest.approx(0.02)
    assert muon_lr(dataclasses.replace(config, hidden=1024)) == pytest.approx(0.01)
    assert muon_lr(dataclasses.replace(config, hidden=1024, base_width=None)) == 0.02
