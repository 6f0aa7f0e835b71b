"""Reads a JPEG's segments as libjpeg does (ITU-T T.81, annex B), and writes what its decoder gets.

That is the file without what pixels do not need: other segments, bytes between segments, values that libjpeg warns
of and ignores. libjpeg reports its first warning alone, so that one of those would hide missing pixels behind it.
And what was counted here is what the decoder reads.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from inference.model import ItemError
from inference.worker.exif import UPRIGHT, read_orientation
from inference.worker.image_limits import bad, check_cost, cut_short, too_large

MAX_SEGMENTS = 4096
"""Each costs a microsecond. 8 MiB of full ones are 128, and a progressive JPEG has some 20 between its scans."""

MAX_SCANS = 64
"""Most scans: encoders write about ten."""

NS_PIXEL, NS_PIXEL_CMYK = 3, 15
NS_BYTE, NS_BYTE_SCANS = 10, 20
"""Nanoseconds, of one scan and of several: refining scans touch each coefficient again."""
NS_BLOCK = 43
"""Nanoseconds for a block of 8x8 samples in one of several scans."""

PIXEL_BYTES, PIXEL_BYTES_CMYK = 3, 7

SOI, EOI, SOS, DRI, DNL, COM, JFIF, EXIF, ADOBE = 0xD8, 0xD9, 0xDA, 0xDD, 0xDC, 0xFE, 0xE0, 0xE1, 0xEE
SOF_SEQUENTIAL, SOF_PROGRESSIVE = {0xC0, 0xC1}, 0xC2
SOF_OTHER = {0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
STANDALONE = {0x01, *range(0xD0, 0xD8)}
APPLICATION = range(0xE0, 0xF0)

MARKER = re.compile(rb"\xff[^\x00\xff]")
AFTER_SCAN = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
"""The marker of the segment after a scan, in whose data 0xFF precedes a zero or is one that stands alone."""
RESTART = re.compile(rb"\xff([\xd0-\xd7])")

JFIF_SEGMENT = b"\xff\xe0\x00\x10JFIF\0\x01\x01\x00\x00\x01\x00\x01\x00\x00"
ADOBE_SEGMENT = b"\xff\xee\x00\x0eAdobe\0\x64\x00\x00\x00\x00"
"""All but its last byte, the transform of colours."""

SOI_MARKER, EOI_MARKER = bytes((0xFF, SOI)), bytes((0xFF, EOI))

COEFFICIENTS = 64
COEFFICIENT_BYTES = 2
"""Of a block, and of each."""

MAX_SIDE = 65500
"""Longest side that libjpeg takes."""

MAX_INTERVALS = 1024
"""Most restart intervals that are decoded one by one, 30 microseconds each: cameras write one or two for a row of
blocks, and 4K video has 270 rows."""

MAX_TABLES = 4096
"""Most bytes of tables before the scan that each of these is to repeat: usual ones have 620."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame header: size in pixels, and identifier, horizontal and vertical sampling of each component."""

    width: int
    height: int
    progressive: bool
    components: tuple[tuple[int, int, int], ...]

    def blocks(self, identifier: int) -> int:
        """Blocks of a component, those of its last interleaved ones included."""
        wide = max(across for _, across, _ in self.components)
        high = max(down for _, _, down in self.components)
        columns, rows = -(-self.width // (8 * wide)), -(-self.height // (8 * high))
        return next(columns * rows * a * d for i, a, d in self.components if i == identifier)

    @property
    def unit(self) -> tuple[int, int]:
        """Width and height in pixels of what a scan of all components codes at once (a minimum coded unit)."""
        if len(self.components) == 1:
            return 8, 8
        return 8 * max(a for _, a, _ in self.components), 8 * max(d for _, _, d in self.components)


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A JPEG's frame and orientation, and the file for the decoder.

    Attributes:
        parts: marker and bytes of what comes before the data of the scan, if the JPEG has one scan.
        scan: that data; None if there are several.
    """

    frame: Frame
    orientation: int
    data: bytes
    restart_interval: int
    parts: tuple[tuple[int, bytes], ...]
    scan: bytes | None


def read(data: bytes) -> Jpeg:
    """Read a JPEG's segments up to its end, or up to the end of a scan that holds everything.

    Raises:
        ItemError: ``unsupported_image`` (a kind of JPEG that neither cameras nor browsers write), ``too_large``,
            ``bad_image`` (cut short, no frame or scan, components that no scan holds).
    """
    reader = _Reader()
    segments = _Segments(data)
    ended = False
    for marker, body in segments:
        if marker == EOI:
            ended = True
            break
        reader.take(marker, body)
        if marker == SOS:
            reader.take_scan(segments.skip_scan())
            if reader.has_all:
                ended = True
                break
    reader.check_scans(ended)
    return reader.finish()


class _Segments:
    """Iterates over marker and body of each segment, from the second on."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 2
        self._scanned = False

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        data = self._data
        for _ in range(MAX_SEGMENTS):
            found = MARKER.search(data, self._at)
            if found is None:
                if self._scanned:
                    return
                raise cut_short()
            marker, self._at = data[found.end() - 1], found.end()
            if marker in STANDALONE:
                continue
            if marker == EOI:
                yield marker, b""
                return
            if marker == SOI:
                raise bad("another JPEG begins inside it")
            # libjpeg takes a length below its own two bytes for none
            end = self._at + max(2, int.from_bytes(data[self._at : self._at + 2], "big"))
            if end > len(data):
                raise cut_short()
            body = data[self._at + 2 : end]
            self._at = end
            yield marker, body
        raise too_large(f"the JPEG has over {MAX_SEGMENTS:,} segments: encode it again")

    def skip_scan(self) -> bytes:
        """Skip the data after a scan's header, and return it."""
        found = AFTER_SCAN.search(self._data, self._at)
        start, self._at = self._at, found.start() if found else len(self._data)
        self._scanned = True
        return self._data[start : self._at]


class _Reader:
    """Takes the segments of one JPEG, keeps what its decoder gets, and counts what that costs."""

    def __init__(self) -> None:
        self.has_all = False
        self._frame: Frame | None = None
        self._exif: bytes | None = None
        self._jfif = False
        self._adobe: int | None = None
        self._restart_interval = 0
        self._kept: list[tuple[int, bytes]] = []
        self._scans = 0
        self._visits = 0
        # by component and coefficient, the lowest bit that a scan holds
        self._lowest: dict[int, list[int | None]] = {}

    def take(self, marker: int, body: bytes) -> None:
        if marker in APPLICATION:
            self._take_application(marker, body)
        elif marker in SOF_OTHER:
            raise ItemError(
                "unsupported_image", "lossless and arithmetic JPEGs are not read: send a baseline JPEG"
            )
        elif marker == SOS:
            self._take_scan_header(body)
        elif marker not in (COM, DNL):
            if marker in SOF_SEQUENTIAL or marker == SOF_PROGRESSIVE:
                self._take_frame(marker, body)
            elif marker == DRI and len(body) == 2:
                self._restart_interval = int.from_bytes(body, "big")
            self._kept.append((marker, _segment(marker, body)))

    def _take_application(self, marker: int, body: bytes) -> None:
        """Note how colours are coded (libjpeg's jdmarker.c) and the first EXIF data, unless a scan came before."""
        if self._scans:
            return
        if marker == JFIF and body.startswith(b"JFIF\0") and len(body) >= 14:
            self._jfif = True
        elif marker == ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            self._adobe = body[11]
        elif marker == EXIF and body.startswith(b"Exif\0") and self._exif is None:
            self._exif = body[6:]

    def _take_frame(self, marker: int, body: bytes) -> None:
        if self._frame:
            raise bad("the JPEG has two frame headers")
        if len(body) < 6 or len(body) != 6 + 3 * body[5]:
            raise bad("the JPEG's frame header has a wrong length")
        precision, height, width, count = struct.unpack_from(">BHHB", body)
        if precision != 8:
            raise ItemError("unsupported_image", f"the JPEG has {precision} bits a sample: send 8")
        components = tuple((i, sampling >> 4, sampling & 15) for i, sampling, _ in _triples(body[6:]))
        sampled = all(1 <= across <= 4 and 1 <= down <= 4 for _, across, down in components)
        self._lowest = {identifier: [None] * COEFFICIENTS for identifier, _, _ in components}
        if not width or not height or not sampled or not 1 <= len(self._lowest) == count <= 4:
            raise bad("the JPEG's frame header is invalid")
        self._frame = Frame(width, height, marker == SOF_PROGRESSIVE, components)

    def _take_scan_header(self, body: bytes) -> None:
        frame = self._frame
        if frame is None:
            raise bad("the JPEG has no frame header")
        if not body or len(body) != 4 + 2 * body[0]:
            raise bad("a JPEG scan's header has a wrong length")
        identifiers, (first, last, bits) = body[1:-3:2], body[-3:]
        if not frame.progressive:  # libjpeg warns of other values, and ignores them
            first, last, bits = 0, COEFFICIENTS - 1, 0
        if not set(identifiers) <= set(self._lowest) or not first <= last < COEFFICIENTS:
            raise bad("a JPEG scan's header is invalid")
        self._scans += 1
        if self._scans > MAX_SCANS:
            raise too_large(f"the JPEG has over {MAX_SCANS} scans: send a baseline JPEG")
        self._visits += sum(map(frame.blocks, identifiers))
        for identifier in identifiers:
            lowest = self._lowest[identifier]
            # libjpeg warns of it; and without this, scans could refine the same bits without end
            if frame.progressive and any((bit or 0) != bits >> 4 for bit in lowest[first : last + 1]):
                raise bad("a JPEG scan does not continue those before it")
            lowest[first : last + 1] = [bits & 15] * (last - first + 1)
        self._kept.append((SOS, _segment(SOS, body[:-3] + bytes((first, last, bits)))))
        every = len(identifiers) == len(frame.components)
        self.has_all = self._scans == 1 and not frame.progressive and every

    def take_scan(self, scan: bytes) -> None:
        self._kept.append((0, scan))

    def check_scans(self, ended: bool) -> None:
        """Refuse a JPEG whose scans leave a component out, or which was cut between two scans."""
        if self._frame is None:
            raise bad("the JPEG has no frame header")
        for lowest in self._lowest.values():
            if lowest[0] is None or (not ended and any(bit != 0 for bit in lowest)):
                raise bad("it is cut short: scans are missing")

    def finish(self) -> Jpeg:
        frame = self._frame
        assert frame is not None  # checked above
        self._check_cost(frame)
        head = SOI_MARKER + (JFIF_SEGMENT if self._jfif else b"")
        if self._adobe is not None:
            # of a transform that it does not know, libjpeg warns and assumes the usual one
            usual = 2 if len(frame.components) == 4 else 1
            head += ADOBE_SEGMENT + bytes((usual if self._adobe else 0,))
        parts = ((SOI, head), *self._kept)
        data = b"".join((*(part for _, part in parts), EOI_MARKER))
        orientation = UPRIGHT if self._exif is None else read_orientation(self._exif)
        scan = parts[-1][1] if self.has_all else None
        return Jpeg(frame, orientation, data, self._restart_interval, parts[:-1], scan)

    def _check_cost(self, frame: Frame) -> None:
        pixels, compressed = frame.width * frame.height, sum(len(part) for _, part in self._kept)
        cmyk = len(frame.components) == 4
        nanoseconds = (NS_PIXEL_CMYK if cmyk else NS_PIXEL) * pixels
        memory = (PIXEL_BYTES_CMYK if cmyk else PIXEL_BYTES) * pixels
        if self.has_all:
            nanoseconds += NS_BYTE * compressed
        else:  # several scans complete coefficients that wait in memory
            nanoseconds += NS_BYTE_SCANS * compressed + NS_BLOCK * self._visits
            memory += COEFFICIENT_BYTES * COEFFICIENTS * sum(frame.blocks(i) for i, _, _ in frame.components)
        check_cost(frame.width, frame.height, nanoseconds, memory)


def _triples(data: bytes) -> Iterator[tuple[int, int, int]]:
    return zip(data[::3], data[1::3], data[2::3], strict=True)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def intervals(jpeg: Jpeg) -> list[bytes] | None:
    """Write each restart interval of a JPEG of one scan as an image of its own.

    Within one, missing data always comes before bytes that are too many, so that libjpeg's first warning tells.

    Returns:
        None if the restart markers are not those that the frame needs, or too many.
    """
    interval = jpeg.restart_interval
    if jpeg.scan is None or not interval:
        return None
    wide, high = jpeg.frame.unit
    columns = -(-jpeg.frame.width // wide)
    total = columns * -(-jpeg.frame.height // high)
    full = [interval] * (-(-total // interval) - 1)
    counts = [*full, total - interval * len(full)]
    bodies = RESTART.split(jpeg.scan)
    markers = [bytes((0xD0 | i & 7,)) for i in range(len(full))]
    tables = sum(len(part) for _, part in jpeg.parts)
    if bodies[1::2] != markers or len(counts) > MAX_INTERVALS or tables > MAX_TABLES:
        return None
    images = []
    for count, body in zip(counts, bodies[::2], strict=True):
        across = columns if count % columns == 0 else count
        if across * wide > MAX_SIDE:
            return None
        images.append(_interval(jpeg, across * wide, count // across * high, body))
    return images


def _interval(jpeg: Jpeg, width: int, height: int, body: bytes) -> bytes:
    size = struct.pack(">HH", height, width)
    parts = [
        part[:5] + size + part[9:] if marker in SOF_SEQUENTIAL else part
        for marker, part in jpeg.parts
        if marker != DRI
    ]
    return b"".join((*parts, body, EOI_MARKER))
