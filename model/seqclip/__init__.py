"""SeqCLIP: contrastive fine-tuning of both towers of a CLIP-style model on pairs of frame sequences and captions.

    python -m model.seqclip --pairs PAIRS.jsonl --checkpoint FOLDER --out FOLDER
    torchrun --nproc-per-node N -m model.seqclip ...        the same on N processes: the batch is shared out among them

The recipe is CLIP4Clip's with mean pooling (Luo et al. 2021, arXiv 2104.08860, section 3): a clip is the unit-normed
mean of its frames' unit-normed image features, and in a batch each clip and its caption have to find each other
(symmetric InfoNCE with a learnable scale). Negatives are gathered from all processes. Pretrained weights and new ones
have learning rates of their own; new are the two projections, where the checkpoint's are not 768 wide.

Titles are held out, never pairs, and a series as a whole: the recalls before and after are measured on films that were
not trained on. The result is a checkpoint folder like the one it began with, and a report of the run beside the weights
(`seqclip.json`).
"""

from model.seqclip.pairs import evenly, write_pairs
from model.seqclip.settings import FineTuning

__all__ = ["FineTuning", "evenly", "write_pairs"]
