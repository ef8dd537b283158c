"""Films cut into segments, as packagers of live streams do."""

from pathlib import Path

import av


def cut(film: Path, folder: Path, kind: str = "ts", seconds: float = 2.0, first: int = 0) -> list[Path]:
    """Segments of the film, of about that length, from key frame to key frame, nothing decoded; kind: `ts`, or `m4s`
    with an init segment before them."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {"hls_time": str(seconds), "hls_list_size": "0", "start_number": str(first)}
    options["hls_segment_filename"] = str(folder / f"seg%05d.{kind}")
    if kind == "m4s":
        options |= {"hls_segment_type": "fmp4", "hls_fmp4_init_filename": "init.mp4"}
    playlist = folder / "list.m3u8"
    with av.open(str(film)) as source, av.open(str(playlist), "w", format="hls", options=options) as target:
        streams = [source.streams.video[0], *source.streams.audio[:1]]
        copies = {stream.index: target.add_stream_from_template(stream) for stream in streams}
        for packet in source.demux(streams):
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    playlist.unlink()
    return [*folder.glob("init.mp4"), *sorted(folder.glob("seg*"))]


def joined(segments: list[Path], target: Path) -> Path:
    """The segments' bytes, one after the other."""
    target.write_bytes(b"".join(segment.read_bytes() for segment in segments))
    return target
