import subprocess
import sys
from pathlib import Path

from model.modalities import FUSED_DIM, MODALITIES, WIDTHS, blocks_of


def test_the_blocks_of_a_fused_vector_follow_from_the_registry() -> None:
    blocks = blocks_of(WIDTHS)
    assert list(blocks) == [modality.name for modality in MODALITIES]
    assert [block.stop - block.start for block in blocks.values()] == [modality.width for modality in MODALITIES]
    ends = [0, *(block.stop for block in blocks.values())]
    assert [block.start for block in blocks.values()] == ends[:-1]
    assert ends[-1] == FUSED_DIM


def test_the_registry_and_the_run_folder_can_be_asked_without_pytorch_or_numpy() -> None:
    program = (
        "import sys; import model.modalities, model.run_folder, model.splits, model.config; "
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
