"""The peer: Hugging Face's BertModel on the same task, used as its users use it.

Padded batches with an attention mask, SDPA, bf16 autocast, AdamW in one fused call. To its advantage it has no
dropout, only its masked positions go through the output projection, and a batch is padded to its own longest
sequence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.batches import Batch
from model.config import Config


class BertPeer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        bert = BertConfig(
            hidden_size=config.hidden, num_hidden_layers=config.layers, num_attention_heads=config.heads,
            intermediate_size=config.mlp_ratio * config.hidden, max_position_embeddings=config.max_shots + 2,
            vocab_size=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="sdpa",
        )  # fmt: skip
        self.bert = BertModel(bert, add_pooling_layer=False)
        self.input_projection = nn.Linear(config.fused_dim, config.hidden)
        self.global_projection = nn.Linear(config.global_dim, config.hidden)
        self.output_projection = nn.Linear(config.hidden, config.fused_dim)
        self.cls = nn.Parameter(torch.zeros(config.hidden))
        self.mask = nn.Parameter(torch.zeros(config.hidden))

    def states(self, shots: Tensor, global_embeddings: Tensor, visible: Tensor, masked: Tensor | None = None) -> Tensor:
        """shots: (B, L, 2304) padded, global_embeddings: (B, g), visible: (B, L) bool, masked: (B, L) bool -> (B,
        L, hidden)
        """
        x = self.input_projection(shots)
        if masked is not None:
            x = torch.where(masked[..., None], self.mask.to(x.dtype), x)
        cls = self.cls.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([cls, self.global_projection(global_embeddings)[:, None], x], dim=1)
        attention_mask = F.pad(visible, (2, 0), value=True).long()
        return self.bert(inputs_embeds=x, attention_mask=attention_mask).last_hidden_state[:, 2:]

    def loss(self, padded: dict[str, Tensor]) -> Tensor:
        states = self.states(padded["shots"], padded["global_embeddings"], padded["visible"], padded["masked"])
        predicted = self.output_projection(states[padded["masked"]])
        return (1 - F.cosine_similarity(predicted.float(), padded["shots"][padded["masked"]], dim=1)).mean()


def padded(batch: Batch) -> dict[str, Tensor]:
    """The same sequences and predicted shots, padded: {"shots", "global_embeddings", "visible", "masked"}."""
    lengths = [n - 2 for n in batch.packing.lengths]
    whole = batch.shots.float().index_copy(0, batch.predicted, batch.targets.float())
    masked = torch.zeros(len(whole), dtype=torch.bool).index_fill(0, batch.predicted, True)

    def pad(x: Tensor) -> Tensor:
        return nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True)

    return {
        "shots": pad(whole),
        "global_embeddings": batch.global_embeddings,
        "visible": pad(torch.ones(len(whole), dtype=torch.bool)),
        "masked": pad(masked),
    }
