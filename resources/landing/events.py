"""What S3 tells an SQS queue of a landing zone: which of its folders are to be listed again.

An event narrows a listing, and nothing else of it is believed. So it does no harm when events come twice, late, in
another order, or from somebody else; one that never comes is made up for by the next whole listing.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from resources.errors import BadInput, Unavailable, one_line, printable
from resources.landing.places import Bucket, File
from resources.landing.untrusted import strict_json

REQUESTS = 200
"""For messages, ten in each, in one look: some three seconds. Where more are waiting everything is listed."""
MESSAGE_LIMIT = 1 << 16  # characters; S3's own have a thousand
KEY_LIMIT = 1024  # bytes of an object's name, as in S3
WAIT_S = 1
"""Seconds to wait for a first message: with a wait all of SQS's servers are asked, and not some."""
HIDDEN_S = 300
"""Seconds that a message is kept from whoever asks next: longer than two ticks."""


@dataclass
class Heard:
    """folders: that were named. receipts: of the messages, for their deletion. refused: why others cannot be used, a
    sentence each. more: whether others may be waiting."""

    folders: set[str] = field(default_factory=set)
    receipts: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    more: bool = True


class Queue:
    """An SQS queue. Endpoint, region and credentials come from boto3's own environment variables and files. Raises
    Unavailable when it cannot be had."""

    def __init__(self, url: str) -> None:
        import boto3
        from botocore.config import Config

        self.url = url
        # A tick has a minute, in which everything may have to be listed instead.
        patience = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2, "mode": "standard"})
        with self._answers():
            self.sqs = boto3.client("sqs", config=patience)

    def receive(self, bucket: str, root: str) -> Heard:
        """What waits there, as far as it is of the bucket's keys that begin with `root`."""
        heard = Heard()
        for request in range(REQUESTS):
            with self._answers():
                answer = self.sqs.receive_message(
                    QueueUrl=self.url,
                    MaxNumberOfMessages=10,
                    VisibilityTimeout=HIDDEN_S,
                    WaitTimeSeconds=0 if request else WAIT_S,
                )
            messages = answer.get("Messages", [])
            for message in messages:
                try:
                    heard.folders |= folders_named(message["Body"], bucket, root)
                    heard.receipts.append(message["ReceiptHandle"])
                except ValueError as error:
                    heard.refused.append(f"{printable(message['MessageId'])}: {one_line(error, 200)}")
            if not messages:
                heard.more = False
                break
        return heard

    def delete(self, receipts: Sequence[str]) -> None:
        """A message whose deletion fails comes again."""
        for first in range(0, len(receipts), 10):
            entries = [{"Id": str(at), "ReceiptHandle": one} for at, one in enumerate(receipts[first : first + 10])]
            with self._answers():
                self.sqs.delete_message_batch(QueueUrl=self.url, Entries=entries)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"the queue {printable(self.url)} does not answer ({one_line(error, 300)})") from None


def folders_named(body: str, bucket: str, root: str) -> set[str]:
    """The folders right below the key `root` of the bucket in which, as the message says, something was written or
    removed. ValueError for what is no message of S3's."""
    if len(body) > MESSAGE_LIMIT:
        raise ValueError(f"it has more than {MESSAGE_LIMIT:,} characters")
    said = strict_json(body)
    if isinstance(said, dict) and said.get("Event") == "s3:TestEvent":  # S3's first words to a new queue
        return set()
    if not isinstance(said, dict) or not isinstance(said.get("Records"), list):
        raise ValueError("it has no list of Records, as S3's messages have")
    return {folder for record in said["Records"] for folder in _folder_of(record, bucket, root)}


def _folder_of(record: Any, bucket: str, root: str) -> Iterator[str]:
    try:
        of, key = record["s3"]["bucket"]["name"], record["s3"]["object"]["key"]
    except (KeyError, TypeError, IndexError):
        raise ValueError("a record of it names no bucket and key") from None
    if not isinstance(of, str) or not isinstance(key, str):
        raise ValueError("the bucket or key of a record is not a text")
    key = unquote_plus(key, errors="strict")
    if len(key.encode()) > KEY_LIMIT:
        raise ValueError(f"the key of a record is longer than {KEY_LIMIT} bytes")
    folder, inside, _ = key.removeprefix(root).partition("/")
    if of == bucket and key.startswith(root) and inside and folder and not folder.startswith("."):
        yield folder


@dataclass
class _Known:
    """What this process knows of a landing zone.

    folders: as they were last listed. listed: when all of them were (time.monotonic). receipts: of messages that are
    counted in, and not deleted yet. ends_with: how the tick that they were received in ended, as far as it did.
    """

    folders: dict[str, list[File] | BadInput]
    listed: float
    receipts: list[str]
    ends_with: str | None = None


_KNOWN: dict[str, _Known] = {}  # by landing zone; what is in it is replaced, not changed, as several threads look
_FOLLOWING = threading.Lock()  # Dagster gives a tick up after a minute and begins another, while its thread goes on


def follow(zone: str, path: str, queue_url: str, relist_s: float, stored: str | None) -> list[str]:
    """Bring what this process knows of the folders in `path` of the landing zone up to date: by what the queue says, or
    by listing all of them when nothing is known, the last whole listing is `relist_s` seconds old, or too many messages
    wait.

    stored: how the last tick ended that Dagster stored. Messages are deleted when the tick that received them ended so
    (`ended`): then what it told is stored, and this process, which knows the rest, still lives. Else they come again,
    perhaps to another process, which begins by listing everything.
    Returns sentences about what went wrong. When the queue does not answer nothing is known any more, and whoever looks
    lists everything. Raises as `Bucket.folders`.
    """
    with _FOLLOWING:
        place, known = Bucket(zone), _KNOWN.get(zone)
        kept = known.receipts if known else []
        try:
            queue = Queue(queue_url)
            if known and known.ends_with is not None and known.ends_with == stored:
                queue.delete(kept)
                kept = []
            heard = queue.receive(place.bucket, f"{place.prefix}{path}/")
        except Unavailable as down:
            _KNOWN.pop(zone, None)
            return [f"{down}; the whole landing zone is listed instead"]
        now = time.monotonic()
        try:
            if known is None or heard.more or now - known.listed >= relist_s:
                folders, listed = dict(place.folders(path)), now
            else:
                others = {name: files for name, files in known.folders.items() if name not in heard.folders}
                folders, listed = others | dict(place.folders(path, heard.folders)), known.listed
        except (BadInput, Unavailable):
            _KNOWN.pop(zone, None)  # which does not hold what was heard
            raise
        _KNOWN[zone] = _Known(folders, listed, [*kept, *heard.receipts])
        return [_said_of(heard.refused)] if heard.refused else []


def ended(zone: str, cursor: str | None) -> None:
    """Say how the tick ended that `follow` was called in."""
    with _FOLLOWING:
        if known := _KNOWN.get(zone):
            known.ends_with = cursor


def known_folders(zone: str, relist_s: float) -> list[tuple[str, list[File] | BadInput]] | None:
    """The folders by name, as events tell, or None in a process that does not follow them, or whose last whole listing
    is more than `relist_s` seconds old."""
    known = _KNOWN.get(zone)
    if known is None or time.monotonic() - known.listed >= relist_s:
        return None
    return sorted(known.folders.items(), key=lambda one: one[0])


def _said_of(refused: Sequence[str]) -> str:
    return (
        f"{len(refused)} messages of the queue are not S3's and are left to its dead-letter queue: "
        f"{'; '.join(refused[:3])}"
    )
