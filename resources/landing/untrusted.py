"""Names and JSON from outside, looked at before they are used."""

import json
import math
import re
from typing import Any

from resources.errors import BadInput, printable
from resources.landing.places import File

TITLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
JSON_DEPTH = 100  # of lists and objects in each other
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]")  # the last: bytes of a name that is not UTF-8
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # of byte order, which some editors put before UTF-8


def require_title_id(title_id: str) -> None:
    if not TITLE_ID.fullmatch(title_id):
        raise BadInput(
            f'"{printable(title_id)}" is not a title id; use 1 to 128 ASCII letters, digits, dots, '
            "hyphens and underscores, beginning with a letter or digit"
        )


def require_inside(name: str, file: File | None, folder: str = "the title's folder") -> None:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise BadInput(f'"{printable(name)}" is not a plain file name; files must lie in {folder} itself')
    if file is None:
        raise BadInput(f"{printable(name)} is not in {folder}")
    if file.link_out:
        raise BadInput(f"{printable(name)} is a link that leads out of {folder}; copy the file instead")
    if _CONTROL.search(name):
        raise BadInput(f'the file name "{printable(name)}" has control characters or is not UTF-8; rename it')


def strict_json(text: str) -> Any:
    """What the JSON text says. ValueError for what another reader of JSON, or of text, could not read: NaN and
    infinities in any spelling, lone surrogates, and more than `JSON_DEPTH` levels."""

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number[:40]} is not a finite number")
        return value

    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + max(map(depth, inner), default=0)

    try:
        said = json.loads(text, parse_float=finite, parse_constant=finite)
        levels = depth(said)
    except RecursionError:
        levels = JSON_DEPTH + 1
    if levels > JSON_DEPTH:
        raise ValueError(f"it is nested more than {JSON_DEPTH} levels deep")
    json.dumps(said, ensure_ascii=False).encode()
    return said
