"""The landing sensor on a bucket whose changes S3 tells an SQS queue: moto's real server sends the messages."""

import json
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pytest

from mediafm_assets.graph.sensors import landing_sensor
from resources.errors import BadInput
from resources.landing import LandingZone
from tests.conftest import free_port
from tests.mediafm_assets.conftest import Places


@dataclass
class Zone:
    """A landing zone at s3://films/in, its queue, and a Dagster instance that its sensor ticks for."""

    s3: Any
    sqs: Any
    queue: str
    monkeypatch: pytest.MonkeyPatch
    instance: dg.DagsterInstance
    relist_s: float = 3600.0
    cursor: str | None = None

    @property
    def landing(self) -> LandingZone:
        return LandingZone(uri="s3://films/in", queue=self.queue, relist_s=self.relist_s)

    def put(self, title_id: str, **files: bytes) -> None:
        """Drop a title, with `files` by their names without extension."""
        for name, data in {"film.mp4": b"film", "title.json": b'{"title": "A Film"}', **files}.items():
            self.s3.put_object(Bucket="films", Key=f"in/titles/{title_id}/{name}", Body=data)

    def evaluate(self) -> dg.SensorResult | dg.SkipReason:
        context = dg.build_sensor_context(self.instance, cursor=self.cursor)
        result = landing_sensor(context, landing=self.landing)
        assert isinstance(result, dg.SensorResult | dg.SkipReason)
        return result

    def store(self, result: dg.SensorResult | dg.SkipReason) -> list[str]:
        """What the daemon does with a tick. The titles that it told of."""
        if isinstance(result, dg.SkipReason):
            return []
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        self.cursor = result.cursor
        told = [event for event in result.asset_events if isinstance(event, dg.AssetMaterialization)]
        return [str(event.partition) for event in told]

    def tick(self) -> list[str]:
        return self.store(self.evaluate())

    def start_anew(self) -> None:
        """As another process, which knows nothing."""
        self.monkeypatch.setattr("resources.landing.events._KNOWN", {})
        self.monkeypatch.setattr("resources.landing.events._FOLLOWING", threading.Lock())

    def lose_events(self) -> None:
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])

    def send(self, body: str) -> None:
        self.sqs.send_message(QueueUrl=self.queue, MessageBody=body)

    def messages(self) -> int:
        """In the queue, received ones counted."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        said = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return sum(int(said[name]) for name in names)


@pytest.fixture
def zone(bucket: Any, empty_places: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    """An empty one, followed from now on."""
    import boto3

    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName="landing")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
    bucket.put_bucket_notification_configuration(
        Bucket="films", NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": events}]}
    )
    monkeypatch.setattr("resources.landing.events.WAIT_S", 0)
    with dg.DagsterInstance.ephemeral() as instance:
        zone = Zone(bucket, sqs, url, monkeypatch, instance)
        zone.start_anew()
        zone.tick()
        zone.tick()  # which deletes S3's first words to a new queue
        assert zone.messages() == 0
        yield zone


def event(key: str, bucket: str = "films", name: str = "ObjectCreated:Put") -> str:
    """A message as S3 writes it. key: as it does, with its own escapes."""
    return json.dumps({"Records": [{"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}]})


def test_a_tick_lists_only_the_folders_that_events_name(zone: Zone) -> None:
    zone.put("unheard-of")
    zone.lose_events()
    zone.put("a")
    zone.put("b", **{"film.en.srt": b"text"})
    assert zone.tick() == ["a", "b"]
    assert zone.tick() == []
    zone.put("a", **{"title.json": b'{"title": "Another"}'})
    assert zone.tick() == ["a"]


def test_the_first_tick_of_a_process_lists_everything(zone: Zone) -> None:
    zone.put("unheard-of")
    zone.lose_events()
    assert zone.tick() == []
    zone.start_anew()
    assert zone.tick() == ["unheard-of"]


def test_a_lost_event_is_made_up_for_by_the_next_whole_listing(zone: Zone) -> None:
    zone.put("unheard-of")
    zone.lose_events()
    assert zone.tick() == []
    zone.relist_s = 1e-9
    assert zone.tick() == ["unheard-of"]


def test_others_in_the_process_see_what_events_told_and_list_nothing(zone: Zone) -> None:
    zone.put("unheard-of")
    zone.lose_events()
    zone.put("a")
    zone.tick()
    assert [drop.title_id for drop in zone.landing.look().drops] == ["a"]
    zone.start_anew()
    assert [drop.title_id for drop in zone.landing.look().drops] == ["a", "unheard-of"]


def test_what_is_removed_is_gone_at_the_next_tick(zone: Zone) -> None:
    zone.put("a")
    zone.put("b")
    zone.tick()
    for name in ("film.mp4", "title.json"):
        zone.s3.delete_object(Bucket="films", Key=f"in/titles/a/{name}")
    zone.tick()
    landing = zone.landing.look()
    assert [drop.title_id for drop in landing.drops] == ["b"]
    assert landing.problems == landing.waiting == []


def test_events_that_are_doubled_late_or_out_of_order_tell_of_nothing_twice(zone: Zone) -> None:
    zone.put("a")
    removed = event("in/titles/a/title.json", name="ObjectRemoved:Delete")
    for body in (
        removed,
        event("in/titles/a/film.mp4"),
        event("in/titles/a/film.mp4"),
        event("in/titles/gone/film.mp4"),
    ):
        zone.send(body)
    assert zone.tick() == ["a"]
    zone.send(event("in/titles/a/film.mp4"))
    assert zone.tick() == []
    zone.tick()
    assert zone.messages() == 0


def test_folders_that_cannot_be_used_are_told_of_as_by_a_whole_listing(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.landing.places.MOST_FILES", 3)
    zone.put("bad id+é")
    zone.put("crowd", **{"a": b"", "deep/er/1": b""})
    zone.put(".hidden")
    zone.s3.put_object(Bucket="films", Key="in/titles/loose.txt", Body=b"")
    zone.s3.put_object(Bucket="films", Key="in/titles/below/extras/1", Body=b"")
    zone.tick()
    heard = zone.landing.look()
    assert [problem.title_id for problem in heard.problems] == ["bad id+é", "crowd"]
    zone.start_anew()
    assert heard == zone.landing.look()


def test_messages_of_others_buckets_and_folders_are_deleted_and_change_nothing(zone: Zone) -> None:
    zone.put("unheard-of")
    zone.lose_events()
    for body in (
        event("in/titles/unheard-of/film.mp4", bucket="other"),
        event("out/titles/unheard-of/film.mp4"),
        event("titles/unheard-of/film.mp4"),
        event("in/labels/clip_tone.jsonl"),
        '{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "films"}',
        '{"Records": []}',
    ):
        zone.send(body)
    assert zone.tick() == zone.tick() == []
    assert zone.messages() == 0


NO_MESSAGES_OF_S3 = (
    "no JSON",
    "[]",
    '{"Records": 1}',
    '{"Records": [1]}',
    '{"Records": [{"s3": {"bucket": "films", "object": {"key": "in/titles/a/b"}}}]}',
    '{"Records": [{"s3": {"bucket": {"name": "films"}, "object": {"key": 1}}}]}',
    '{"Message": "{}", "Type": "Notification"}',
    "[" * 5000,
    '{"Records": [{"s3": {"bucket": {"name": "films"}, "object": {"key": "in/titles/\\ud800/b"}}}]}',
    event("in/titles/%ff/film.mp4"),
    event("in/titles/" + "a" * 1025 + "/film.mp4"),
    event("in/titles/a/" + "b" * 70_000),
)


def test_messages_that_cannot_be_read_are_named_and_left_to_the_dead_letter_queue(zone: Zone) -> None:
    for body in NO_MESSAGES_OF_S3:
        zone.send(body)
    zone.put("a")
    assert zone.tick() == ["a"]
    assert zone.tick() == []
    assert zone.messages() == len(NO_MESSAGES_OF_S3)
    zone.send("no JSON")
    skipped = zone.evaluate()
    assert isinstance(skipped, dg.SkipReason)
    assert "1 messages of the queue are not S3's" in str(skipped.skip_message)


def test_no_name_in_a_message_leads_out_of_the_landing_zone(zone: Zone) -> None:
    zone.s3.put_object(Bucket="films", Key="secret/title.json", Body=b'{"title": "A Secret"}')
    zone.lose_events()
    for key in (
        "in/titles/../../secret/title.json",
        "in/titles/..%2F..%2Fsecret/title.json",
        "in/titles//x",
        "in/titles/%00/x",
    ):
        zone.send(event(key))
    assert zone.tick() == []
    assert zone.landing.look().problems == []


def test_a_message_is_deleted_only_when_dagster_has_stored_what_it_told(zone: Zone) -> None:
    zone.put("a")
    sent = zone.messages()
    result = zone.evaluate()  # which the daemon does not live to store
    assert isinstance(result, dg.SensorResult)
    again = zone.evaluate()
    assert zone.messages() == sent == 2
    assert zone.store(again) == ["a"]
    assert zone.messages() == sent
    assert zone.tick() == []
    assert zone.messages() == 0


def test_a_process_that_dies_while_it_follows_events_loses_nothing_and_tells_of_nothing_twice(zone: Zone) -> None:
    class Killed(BaseException):
        pass

    line, survived = 0, False
    while not survived:
        line += 3  # every third takes a third of the time, and is in each part of it, too
        left = line

        def trace(frame: types.FrameType, what: str, _: Any) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.endswith("landing/events.py"):
                return None
            if what == "line":
                left -= 1
                if not left:
                    raise Killed
            return trace

        zone.put("a", **{"title.json": b'{"title": "Version %d"}' % line})
        sys.settrace(trace)
        try:
            result, survived = zone.evaluate(), True
        except Killed:
            zone.start_anew()
            result = zone.evaluate()
        finally:
            sys.settrace(None)
        assert zone.store(result) == ["a"]
        assert zone.tick() == []
    assert line > 30


def test_a_queue_that_is_down_is_said_in_a_sentence_and_everything_is_listed(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
    zone.put("a")
    assert zone.tick() == ["a"]
    skipped = zone.evaluate()
    assert isinstance(skipped, dg.SkipReason)
    assert "does not answer" in str(skipped.skip_message)
    assert str(skipped.skip_message).endswith("the whole landing zone is listed instead")
    zone.put("b")
    monkeypatch.delenv("AWS_ENDPOINT_URL_SQS")
    assert zone.tick() == ["b"]
    zone.put("c")
    assert zone.tick() == ["c"]
    zone.tick()
    assert zone.messages() == 0


def test_a_queue_that_does_not_exist_is_said_in_a_sentence(zone: Zone) -> None:
    zone.queue += "-of-another"
    zone.put("a")
    assert zone.tick() == ["a"]
    skipped = zone.evaluate()
    assert isinstance(skipped, dg.SkipReason)
    assert "landing-of-another does not answer" in str(skipped.skip_message)


def test_more_messages_than_a_tick_takes_make_it_list_everything(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.landing.events.REQUESTS", 2)
    for number in range(15):
        zone.put(f"t{number:02}")
    assert len(zone.tick()) == 15
    assert zone.tick() == zone.tick() == []
    assert zone.messages() == 0


def test_a_bucket_that_does_not_answer_makes_the_next_tick_list_everything(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone.put("a")
    with monkeypatch.context() as bad_day:
        bad_day.setattr("resources.landing.places.Bucket._list_folders", fail)
        with pytest.raises(BadInput):
            zone.tick()
    assert zone.tick() == ["a"]


def fail(*_: object) -> None:
    raise BadInput("S3 says AccessDenied")
