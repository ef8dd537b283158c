"""The objective: masked shot modelling."""

import torch
from torch import Tensor, nn

from model.batches import Batch
from model.encoder import Encoder


class MaskedShotModelling(nn.Module):
    """Predict masked shots, minimise the cosine distance to what they were (Saluja et al. 2026)."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = encoder
        self.dtype = dtype  # of activations

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predictions of the shots predicted whole (q, D) and of those that lack one modality (p, D)."""
        partly = batch.partly_masked, batch.hidden_modality
        predicted = torch.cat([batch.predicted, batch.partly_masked])
        query_indices = predicted.sort().values
        states = self.encoder(
            batch.shots.to(self.dtype),
            batch.global_embeddings.to(self.dtype),
            batch.packing,
            batch.masked,
            partly if self.encoder.config.modality_masking > 0 else None,
            query_indices,
        )
        # Only predicted shots go through the rest of the last block and the output projection.
        predictions = self.encoder.predict(states[torch.searchsorted(query_indices, predicted)])
        whole, part = predictions.split([len(batch.predicted), len(batch.partly_masked)])
        return whole, part

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the batch's predicted shots of the loss and of the cosine, both scalars."""
        whole, part = (x.float() for x in self.predict(batch))
        targets, part_targets = batch.targets.float(), batch.partial_targets.float()
        # Where one modality was hidden only that block is judged: the rest was there to be copied.
        rows, cosines, squares = [], [], []
        for number, block in enumerate(self.encoder.config.blocks.values()):
            rows.append(torch.nonzero(batch.hidden_modality == number)[:, 0])
            guess, truth = part[rows[-1], block], part_targets[rows[-1], block]
            cosines.append(torch.cosine_similarity(guess, truth, dim=1))
            squares.append((guess - truth).square().sum(dim=1))
        in_order = torch.cat(rows).argsort()
        cosine = torch.cosine_similarity(whole, targets, dim=1).sum() + torch.cat(cosines)[in_order].sum()
        if self.encoder.config.loss == "mse":
            return (whole - targets).square().sum() + torch.cat(squares)[in_order].sum(), cosine
        return len(whole) + len(part) - cosine, cosine
