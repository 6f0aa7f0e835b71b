"""Reads a PNG's chunks and inflates its rows within bounds, before any decoder sees them (PNG, third edition).

Decoders trust what they read: of 41 bytes whose chunk claims 4 GB, OpenCV allocates 4 GB; and libpng inflates what
follows the last row, to a thousand times its size, and throws it away. So what the decoder gets is written here:
header, palette, and rows that are not compressed, as many as the header claims. All other chunks are left out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from inference.worker.exif import read_orientation
from inference.worker.image_limits import bad, check_cost, too_large

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT")
PALETTE = 3
"""The colour type that needs one."""

MAX_CHUNKS = 10_000
"""Each costs half a microsecond. libpng writes one for 8 KiB of rows: 1,024 in 8 MiB."""

MAX_SIDE = 1_000_000
"""Longest side that libpng takes."""

NS_PIXEL, NS_ROW_BYTE, NS_COMPRESSED_BYTE = 8, 4, 25
"""Nanoseconds. 4K with alpha takes 0.2 s; 16 bits a sample take twice as long as 8."""

PIXEL_BYTES = 6
"""OpenCV decodes into one array, and Python's gets a copy."""

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by colour type: gray, RGB, palette, gray with alpha, RGB with alpha."""

DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits of a sample by colour type."""

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced image: first column, first row, and their steps."""

SLICE = 1 << 14
"""Compressed bytes inflated at once: zlib copies what is left over with every call."""

FILTERS = bytes(range(5))
"""How a row is coded relative to its neighbours: five ways."""

STORED_HEADER = b"\x78\x01"
"""Of a zlib stream (RFC 1950, 2.2)."""

STORED = 0xFFFF
"""Most bytes of a stored block (RFC 1951, 3.2.4)."""


@dataclass(frozen=True, slots=True)
class Png:
    """A PNG's size in pixels, orientation, and what its pixels need.

    Attributes:
        tables: the header and the palette, as chunks.
        passes: first and last offset and length of the rows of each pass; one pass if it is not interlaced.
        rows: the compressed rows, as they are spread over chunks.
    """

    width: int
    height: int
    orientation: int
    tables: bytes
    passes: tuple[tuple[int, int, int], ...]
    rows: tuple[memoryview, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of all rows, uncompressed, each with its filter."""
        return self.passes[-1][1]


def read(data: bytes) -> Png:
    """Read the chunks up to the last one of pixels.

    Raises:
        ItemError: ``bad_image`` (no pixels, a wrong checksum, an invalid header), ``too_large``.
    """
    chunks = _chunks(data)
    kind, header = next(chunks, (b"", memoryview(b"")))
    if kind != b"IHDR" or len(header) != 13:
        raise bad("the PNG does not begin with its header")
    width, height, passes = _measure(header)
    first: dict[bytes, bytes] = {}  # only the first palette and the first EXIF data count
    rows: list[memoryview] = []
    for kind, body in chunks:
        if kind == b"IDAT":
            rows.append(body)
        elif rows:
            break
        elif kind == b"IHDR":
            raise bad("the PNG has two headers")
        elif kind in (b"PLTE", b"eXIf"):
            first.setdefault(kind, bytes(body))
    if not rows:
        raise bad("it is cut short: the PNG has no pixels")
    orientation = read_orientation(first.get(b"eXIf", b""))
    png = Png(width, height, orientation, _tables(header, first.get(b"PLTE", b"")), passes, tuple(rows))
    _check(png)
    return png


def _tables(header: memoryview, palette: bytes) -> bytes:
    """Write the chunks that pixels need; libpng would write an error to the log if a palette was missing."""
    tables = _chunk(b"IHDR", bytes(header))
    if header[9] == PALETTE:
        if not palette or len(palette) % 3 or len(palette) > 3 * 256:
            raise bad("the PNG has no valid palette")
        tables += _chunk(b"PLTE", palette)
    return tables


def _check(png: Png) -> None:
    pixels, compressed = png.width * png.height, sum(map(len, png.rows))
    check_cost(
        png.width,
        png.height,
        NS_PIXEL * pixels + NS_ROW_BYTE * png.row_bytes + NS_COMPRESSED_BYTE * compressed,
        PIXEL_BYTES * pixels + png.row_bytes,
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and body of each chunk that is there in full; a checksum counts where pixels need the chunk."""
    view, at = memoryview(data), len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            return
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[at + 4 : end]) == checksum:
            yield kind, view[at + 8 : end]
        elif kind in PIXEL_CHUNKS:
            raise bad("it is damaged: a checksum is wrong")
        at = end + 4
    raise too_large(f"the PNG has over {MAX_CHUNKS:,} chunks: encode it again")


def _measure(header: memoryview) -> tuple[int, int, tuple[tuple[int, int, int], ...]]:
    """Read width, height and the passes from the body of IHDR."""
    width, height, depth, colour, compression, filters, interlace = struct.unpack(">IIBBBBB", header)
    if max(width, height) > MAX_SIDE:
        raise too_large(f"the image has {width}x{height} pixels: send at most {MAX_SIDE:,} to a side")
    if (
        not width
        or not height
        or depth not in DEPTHS.get(colour, ())
        or compression
        or filters
        or interlace > 1
    ):
        raise bad("the PNG's header is invalid")
    bits, passes, at = CHANNELS[colour] * depth, [], 0
    for column, row, across, down in PASSES if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - column) // across), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            length = 1 + (columns * bits + 7) // 8
            passes.append((at, at + rows * length, length))
            at += rows * length
    return width, height, tuple(passes)


def stored(png: Png) -> bytearray:
    """Write a PNG of the same pixels whose rows are not compressed.

    Raises:
        ItemError: ``bad_image``, the rows are damaged, or some are missing.
    """
    out = bytearray(SIGNATURE + png.tables)
    prefix, checksum, at = STORED_HEADER, 1, 0
    for block in _inflated(png.rows, png.row_bytes):
        _check_filters(png, at, block)
        at += len(block)
        checksum = zlib.adler32(block, checksum)
        last = at == png.row_bytes
        head = prefix + struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF)
        # a chunk for each block: OpenCV copies the first one to look at it
        out += _chunk(b"IDAT", head, block, struct.pack(">I", checksum) if last else b"")
        prefix = b""
    if at < png.row_bytes:
        raise bad("it is cut short: rows are missing")
    out += _chunk(b"IEND")
    return out


def _check_filters(png: Png, at: int, block: bytes) -> None:
    """Check the filter of each row that begins in this block; libpng would write an error to the log."""
    for start, end, length in png.passes:
        first = max(start - at, (start - at) % length)
        if block[first : max(0, end - at) : length].translate(None, FILTERS):
            raise bad("its rows are damaged")


def _inflated(rows: tuple[memoryview, ...], wanted: int) -> Iterator[bytes]:
    """Inflate at most this many bytes, in blocks that are full except for the last; less if there are no more."""
    inflater = zlib.decompressobj()
    block = b""
    try:
        for piece in (part[i : i + SLICE] for part in rows for i in range(0, len(part), SLICE)):
            waiting: bytes | memoryview = piece
            while waiting and wanted and not inflater.eof:
                block += inflater.decompress(waiting, min(STORED, wanted) - len(block))
                waiting = inflater.unconsumed_tail
                if len(block) == min(STORED, wanted):
                    yield block
                    wanted -= len(block)
                    block = b""
    except zlib.error as exc:
        raise bad("its rows are damaged") from exc


def _chunk(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join((kind, *parts))
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
