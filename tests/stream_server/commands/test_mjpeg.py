"""JPEGs that follow each other, whole and damaged."""

from __future__ import annotations

import io
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.commands.mjpeg import AFTER_SCAN, Damaged, split_jpegs
from stream_server.errors import ConfigError

LIMIT = 1 << 20


def jpeg(width: int = 32, *, thumbnail: bytes = b"", progressive: bool = False) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (24, width, 3), np.uint8)
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive), cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    data = cv2.imencode(".jpg", pixels, flags)[1].tobytes()
    if thumbnail:
        app1 = b"Exif\0\0" + thumbnail
        data = data[:2] + b"\xff\xe1" + (len(app1) + 2).to_bytes(2, "big") + app1 + data[2:]
    return data


def split(stream: bytes, chunk: int = 1 << 16, limit: int = LIMIT) -> list[bytes | Damaged]:
    file = io.BytesIO(stream)
    return list(split_jpegs(lambda size: file.read(min(size, chunk)), limit))


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_jpegs_are_split_wherever_the_reads_fall(chunk: int) -> None:
    jpegs = [jpeg(32), jpeg(64, thumbnail=jpeg(8)), jpeg(16, progressive=True), jpeg(48)]
    assert split(b"".join(jpegs), chunk) == jpegs


def test_what_lies_between_jpegs_is_skipped() -> None:
    multipart = b"".join(
        b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(width) + b"\r\n" for width in (16, 24, 32)
    )
    assert split(multipart, 100) == [jpeg(16), jpeg(24), jpeg(32)]
    padded = jpeg(16)[:2] + b"\xff\xff\xff" + jpeg(16)[2:]  # T.81, B.1.1.2: any number before a marker
    assert split(padded) == [padded]


def test_an_end_within_a_segment_between_scans_is_none() -> None:
    whole = jpeg(64, progressive=True)
    second = AFTER_SCAN.search(whole, whole.index(b"\xff\xda") + 12)
    assert second
    comment = b"\xff\xfe\x00\x04\xff\xd9"
    whole = whole[: second.start()] + comment + whole[second.start() :]
    assert split(whole + jpeg(16)) == [whole, jpeg(16)]


def test_input_without_jpeg_is_an_error() -> None:
    for stream in (b"", b"PNG and so on", b"\xff\xd8"):
        with pytest.raises(ConfigError, match="there is no JPEG"):
            split(stream)


def damage(data: bytes, at: int, inserted: bytes = bytes(4), removed: int = 0) -> bytes:
    return data[:at] + inserted + data[at + removed :]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "broken",
    [
        damage(jpeg(32), 20),
        damage(jpeg(32), 3, b"\x00", 1),
        jpeg(32)[:30],
        damage(jpeg(32), 4, b"\xff\xff", 2),  # a segment that reaches over what follows
        b"\xff\xd8\xff\xe0\x00\x04abc" + bytes(10),
    ],
    ids=["zeros", "no marker", "cut", "long segment", "nothing"],
)
def test_a_damaged_jpeg_costs_itself_alone(broken: bytes, chunk: int) -> None:
    first, *between, last = split(jpeg(16) + broken + jpeg(24) + jpeg(48), chunk)
    assert (first, last) == (jpeg(16), jpeg(48))
    assert isinstance(between[0], Damaged)
    assert between[0].code == "bad_image"
    assert between[1:] == [jpeg(24)]


def test_a_jpeg_without_its_end_is_for_a_decoder_to_judge() -> None:
    """Some cameras leave it out, and a frame that lost bytes on its way may still show something."""
    assert split(jpeg(16)[:-2] + jpeg(24)[:-9] + jpeg(48)) == [jpeg(16)[:-2], jpeg(24)[:-9], jpeg(48)]


def test_input_that_ends_within_a_jpeg_says_so() -> None:
    assert split(jpeg() + jpeg()[:-1]) == [
        jpeg(),
        Damaged("bad_image", "the input ends in the middle of the JPEG"),
    ]


def test_a_jpeg_over_the_limit_is_not_kept_and_costs_itself_alone() -> None:
    def endless() -> Iterator[bytes]:
        yield jpeg()[:-2]
        for _ in range(40):
            yield bytes(1 << 16)
        yield b"\xff\xd9" + jpeg(16)
        yield b""

    chunks = endless()
    found = list(split_jpegs(lambda _: next(chunks), LIMIT))
    assert found == [Damaged("too_large", "the JPEG is over 1,048,576 bytes, or damaged"), jpeg(16)]


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_at_all_do_harm(noise: bytes, chunk: int) -> None:
    found = split(jpeg(16) + b"\xff\xd8\xff" + noise, chunk)
    assert found[0] == jpeg(16)
    assert len(found) > 1
    pieces = [piece for piece in found if isinstance(piece, bytes)]
    assert all(piece.startswith(b"\xff\xd8\xff") for piece in pieces)


@given(st.integers(2, 600), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_leaves_the_jpegs_around_it(at: int, inserted: bytes) -> None:
    found = split(jpeg(16) + damage(jpeg(32), at, inserted) + jpeg(24) + jpeg(48))
    assert found[0] == jpeg(16)
    assert found[-1] == jpeg(48)
