import dataclasses
import itertools

import pytest
import torch
from torch import nn

from model.attention import Rotation, attend
from model.config import Config
from model.encoder import Encoder
from model.packing import Packing


def inputs(config: Config, lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Packing]:
    generator = torch.Generator().manual_seed(seed)
    shots = nn.functional.normalize(torch.randn(sum(lengths), 2304, generator=generator), dim=1)
    return shots, torch.randn(len(lengths), config.global_dim, generator=generator), Packing.of(lengths)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_packed_sequences_do_not_see_each_other(small: Config, positions: str) -> None:
    config = dataclasses.replace(small, positions=positions)
    encoder = Encoder(config).eval()
    lengths = [5, 1, 16, 9]
    shots, titles, packing = inputs(config, lengths)
    together = encoder(shots, titles, packing).split(lengths)
    for row, alone in enumerate(shots.split(lengths)):
        states = encoder(alone, titles[row : row + 1], Packing.of([lengths[row]]))
        assert (states - together[row]).abs().max() < 1e-5


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_a_shots_state_depends_on_the_order_of_the_others(small: Config, positions: str) -> None:
    config = dataclasses.replace(small, positions=positions)
    encoder = Encoder(config).eval()
    for block in encoder.blocks:  # far from the near-uniform attention of a fresh encoder
        for layer in (block.query, block.key, block.value, block.out):
            nn.init.normal_(layer.weight, std=0.3)
    shots, titles, packing = inputs(config, [9])
    order = torch.tensor([4, 1, 2, 3, 0, 5, 6, 7, 8])  # shot 8 stays, two far from it change places
    assert (encoder(shots, titles, packing)[8] - encoder(shots[order], titles, packing)[8]).abs().max() > 1e-5


def test_a_block_equals_pytorchs_own_pre_norm_transformer_layer(small: Config) -> None:
    config = dataclasses.replace(small, positions="learned")
    block = Encoder(config).blocks[0]
    nn.init.normal_(block.query.bias)
    nn.init.normal_(block.down.bias)
    layer = nn.TransformerEncoderLayer(
        config.hidden, config.heads, 4 * config.hidden, dropout=0, activation="gelu", batch_first=True, norm_first=True
    )
    layer.self_attn.in_proj_weight.data = torch.cat([block.query.weight, block.key.weight, block.value.weight])
    layer.self_attn.in_proj_bias.data = torch.cat([block.query.bias, block.key.bias, block.value.bias])
    for mine, theirs in (
        (block.out, layer.self_attn.out_proj), (block.up, layer.linear1), (block.down, layer.linear2),
        (block.attention_norm, layer.norm1), (block.mlp_norm, layer.norm2),
    ):  # fmt: skip
        theirs.load_state_dict(mine.state_dict())
    lengths = [3, 11]
    packing = Packing.of(lengths)
    x = torch.randn(sum(packing.lengths), config.hidden)
    for mine, alone in zip(block(x, packing, None).split(packing.lengths), x.split(packing.lengths), strict=True):
        torch.testing.assert_close(mine, layer(alone[None])[0], atol=1e-5, rtol=1e-5)


def test_a_masked_shots_own_vector_reaches_nothing(small: Config) -> None:
    encoder = Encoder(small).eval()
    shots, titles, packing = inputs(small, [12])
    masked = torch.tensor([2, 7])
    other = shots.clone()
    other[masked] = nn.functional.normalize(torch.randn(2, 2304), dim=1)
    torch.testing.assert_close(encoder(shots, titles, packing, masked), encoder(other, titles, packing, masked))
    assert not torch.allclose(encoder(shots, titles, packing), encoder(other, titles, packing))


def test_the_title_reaches_every_shot_of_its_own_sequence_only(small: Config) -> None:
    encoder = Encoder(small).eval()
    shots, titles, packing = inputs(small, [4, 6])
    changed = titles.clone()
    changed[1] = torch.randn(small.global_dim)
    moved = (encoder(shots, titles, packing) - encoder(shots, changed, packing)).abs().amax(dim=1)
    assert (moved[:4] == 0).all()
    assert (moved[4:] > 1e-6).all()


def test_cls_and_global_come_first_and_are_no_shots(small: Config) -> None:
    packing = Packing.of([2, 3])
    # In the concatenation of 2 [CLS], 2 [GLOBAL] and 5 shots:
    assert packing.order.tolist() == [0, 2, 4, 5, 1, 3, 6, 7, 8]
    assert packing.shot_tokens.tolist() == [2, 3, 6, 7, 8]
    assert packing.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert packing.cu_seqlens.tolist() == [0, 4, 9]


def test_layers_are_selectable_and_the_last_one_is_the_default(small: Config) -> None:
    encoder = Encoder(small).eval()
    given = inputs(small, [7])
    states = [encoder(*given, layer=layer) for layer in range(small.layers + 1)]
    assert torch.equal(states[-1], encoder(*given))
    assert all(state.shape == (7, small.hidden) for state in states)
    assert not any(torch.allclose(a, b) for a, b in itertools.pairwise(states))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_states_that_are_asked_for_are_those_among_all(small: Config, positions: str, layer: int) -> None:
    encoder = Encoder(dataclasses.replace(small, positions=positions)).eval()
    shots, titles, packing = inputs(small, [5, 1, 16, 9])  # of the second and the last nothing is asked
    asked = torch.tensor([0, 3, 4, 6, 21])
    every = encoder(shots, titles, packing, layer=layer)
    torch.testing.assert_close(encoder(shots, titles, packing, query_indices=asked, layer=layer), every[asked])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_asking_for_some_states_changes_no_derivative(small: Config, dtype: torch.dtype) -> None:
    encoder = Encoder(small)
    shots, titles, packing = inputs(small, [5, 1, 16, 9])
    asked = torch.tensor([0, 3, 4, 5, 6, 21, 30])
    weight = torch.randn(len(asked), small.hidden)

    trained = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}

    def derivatives(states: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((states.float() * weight).sum(), list(trained.values()), allow_unused=True))

    given = shots.to(dtype), titles.to(dtype), packing
    few = derivatives(encoder(*given, query_indices=asked))
    every = derivatives(encoder(*given)[asked])
    largest = max(d.abs().max() for d in every if d is not None)
    for name, a, b in zip(trained, few, every, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            error = (a - b).norm() / b.norm().clamp(min=1e-3 * largest)
            assert error < (1e-4 if dtype == torch.float32 else 0.03), name


def test_sequences_may_share_shots(small: Config) -> None:
    encoder = Encoder(small).eval()
    shots, titles, _ = inputs(small, [16])
    parts = [(0, 10), (6, 16), (6, 16)]
    together = encoder(shots, titles.expand(3, -1), Packing.of([10, 10, 10], firsts=[0, 6, 6])).split(10)
    for states, (start, stop) in zip(together, parts, strict=True):
        torch.testing.assert_close(states, encoder(shots[start:stop], titles, Packing.of([10])), atol=1e-5, rtol=1e-5)


def test_attention_in_bf16_and_its_derivative_agree_with_float32() -> None:
    packing = Packing.of([5, 1, 26])  # of 7, 3 and 28 tokens
    exact = [torch.randn(38, 2, 16, requires_grad=True) for _ in range(3)]
    rough = [x.detach().bfloat16().requires_grad_() for x in exact]
    weight = torch.randn(38, 2, 16)
    for q, k, v in (exact, rough):
        (attend(q, k, v, packing).float() * weight).sum().backward()
    for a, b in zip(exact, rough, strict=True):
        assert (a.grad - b.grad.float()).norm() / a.grad.norm() < 0.02


def test_rotary_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)

    def product(i: int, j: int) -> torch.Tensor:
        turned = [Rotation.of(torch.tensor([place]), 8, torch.float32)(x) for x, place in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(3, 10), product(203, 210), rtol=1e-4, atol=1e-4)
    assert (product(3, 10) - product(3, 11)).abs() > 1e-3
