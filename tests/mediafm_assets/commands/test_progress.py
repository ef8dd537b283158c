"""What the command shows of its progress where no terminal is."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from mediafm_assets.commands.progress import progress_bar
with progress_bar(1000, "titles") as bar:
    for number in range(1000):
        bar.set_postfix_str(f"title-{number}: shots")
        bar.update()
"""


def test_progress_in_a_log_file_is_a_few_plain_lines_that_end_with_all_done() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
    )
    assert "\r" not in done.stderr
    first, *_, last = lines = done.stderr.splitlines()
    assert first.startswith("titles: 0 of 1000")
    assert last.startswith("titles: 1000 of 1000")
    assert last.endswith("title-999: shots")
    assert len(lines) < 10
    assert max(map(len, lines)) < 120
