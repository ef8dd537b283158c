"""The command line of SeqCLIP."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from model import seqclip
from model.distributed import Place
from model.reports import reporting
from model.seqclip.fine_tune import fine_tune
from model.seqclip.pairs import read_pairs
from model.seqclip.settings import FineTuning


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.seqclip",
        description=seqclip.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for field in fields(FineTuning):
        name = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)
    given = parser.parse_args(arguments)
    place = Place.of_process()
    with reporting() as (say, _):
        try:
            settings = FineTuning(**{field.name: getattr(given, field.name) for field in fields(FineTuning)})
            fine_tune(read_pairs(given.pairs), given.checkpoint, given.out, settings, place.device, say)
        except (ValueError, OSError) as error:
            say(f"error: {error}")
            return 1
        finally:
            place.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
