"""Decoded frames made into small pictures: upright, with square pixels, 8 bits, SDR."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av
    import numpy as np
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

    from resources.media.frames import Frame

_PQ, _HLG, _UNTAGGED = 16, 18, 2  # AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67, AVCOL_SPC_UNSPECIFIED


def is_hdr(image: "VideoFrame") -> bool:
    """Whether the picture is coded with PQ or HLG, and must be tone-mapped before 8 bits show it rightly."""
    return image.color_trc in (_PQ, _HLG)


def scaled(
    image: "VideoFrame",
    width: int,
    height: int,
    pixel_format: str,
    scaler: "VideoReformatter",
    interpolation: str = "AREA",
) -> "VideoFrame":
    """The picture at another size and format. `scaler` is one stream's own; interpolation: libswscale's name."""
    from av.video.reformatter import Colorspace

    # Untagged video of HD size is BT.709 by convention; FFmpeg would take it for BT.601.
    untagged_hd = image.colorspace == _UNTAGGED and image.height >= 720 and "rgb" not in image.format.name
    return scaler.reformat(
        image,
        width,
        height,
        format=pixel_format,
        src_colorspace=Colorspace.ITU709 if untagged_hd else None,
        interpolation=interpolation,
        threads=1,
    )


class SmallFrames:
    """Scales decoded frames down to 8-bit YUV 4:2:0, square pixels, SDR, never larger than the film itself.

    `short_side`: pixels of the displayed frame's shorter side (fewer where the film is smaller); the longer side is at
    most eight times that. The first frame fixes the size; a film that changes its size half way is fitted into it.

    Area averaging throughout. It blends the two fields of interlaced video wherever it halves the height. HDR (PQ, HLG)
    is scaled first and then mapped to BT.709 by libswscale's perceptual intent.
    """

    def __init__(self, short_side: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._short_side = short_side
        self._scaler = VideoReformatter()
        self._size: tuple[int, int] | None = None  # as stored, that is before the picture is turned upright
        self._tone_maps: dict[tuple[int, int, int], av.filter.Graph] = {}

    def __call__(self, frame: "Frame") -> "VideoFrame":
        """The small frame, as stored: `upright` turns what is made of it."""
        image = frame.image
        if self._size is None:
            width, height = image.width * frame.pixel_aspect, float(image.height)
            shrink = min(1.0, self._short_side / min(width, height), 8 * self._short_side / max(width, height))
            self._size = max(1, round(width * shrink)), max(1, round(height * shrink))
        if not is_hdr(image):
            return scaled(image, *self._size, "yuv420p", self._scaler)
        return self._sdr(scaled(image, *self._size, "yuv420p10le", self._scaler), image.color_trc)

    def _sdr(self, small: "VideoFrame", transfer: int) -> "VideoFrame":
        import av

        key = (transfer, small.colorspace, small.color_range)
        graph = self._tone_maps.get(key)
        if graph is None:
            graph = self._tone_maps[key] = av.filter.Graph()
            source = graph.add(
                "buffer",
                f"video_size={small.width}x{small.height}:pix_fmt=yuv420p10le:time_base=1/1000"
                f":colorspace={small.colorspace}:range={small.color_range}",
            )
            scale = graph.add(
                "scale", "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:out_range=tv:intent=perceptual"
            )
            to_8_bit, sink = graph.add("format", "yuv420p"), graph.add("buffersink")
            source.link_to(scale)
            scale.link_to(to_8_bit)
            to_8_bit.link_to(sink)
            graph.configure()
        small.color_trc = transfer
        graph.vpush(small)
        return graph.vpull()


def upright(picture: "np.ndarray", orientation: tuple[bool, bool, bool]) -> "np.ndarray":
    """Turn an (height, width, channels) picture as `Frame.orientation` says; a view, not a copy."""
    transpose, flip_rows, flip_columns = orientation
    if transpose:
        picture = picture.swapaxes(0, 1)
    return picture[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
