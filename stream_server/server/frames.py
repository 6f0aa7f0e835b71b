"""Finds websocket frames in what a client sends, and tells which of them cost the loop more than they carry. Pure.

aiohttp parses frames as they arrive, counts none of them, and takes two kinds that RFC 6455 forbids: frames without
a mask (section 5.1) and lengths with more bytes than they need (section 5.2).
"""

from __future__ import annotations

SMALL_FRAGMENT = 256
"""Payload, in bytes, from which a fragment is worth its header. Libraries that fragment do so by 1 KiB or more."""

FREE_FRAGMENTS = 4
"""Smaller fragments that a message may have at no cost: a header sent apart, and an empty last one."""

LONGEST_HEADER = 10
"""Bytes of a frame's header without its mask."""


class FrameScanner:
    """Walks from header to header. It keeps no bytes: a header that is not whole yet must be given to it again.

    Attributes:
        stopped: whether the last `scan` ended because it had found as many frames as it may.
        violation: why the client's data is not RFC 6455's; None while it is.
    """

    __slots__ = ("_left", "_small", "stopped", "violation")

    def __init__(self) -> None:
        self._left = 0  # bytes of the current frame that are still to come
        self._small = 0  # small fragments of the current message
        self.stopped = False
        self.violation: str | None = None

    def scan(self, data: bytes, most: int) -> tuple[int, int]:
        """Walk over at most so many frames.

        Returns:
            How many bytes of `data` may be passed on, and how many of the frames in them cost more than they carry:
            control frames, and small fragments beyond the first few of a message.
        """
        end, size, cost = self._left, len(data), 0
        while end < size and most:
            header = _header_size(data, end, size)
            if not header:
                break
            first, second = data[end], data[end + 1]
            length = second & 0x7F if header == 2 else int.from_bytes(data[end + 2 : end + header], "big")
            if second < 0x80:
                self.violation = "a frame is not masked"
                break
            if header > 2 and length < (126 if header == 4 else 1 << 16):
                self.violation = "a frame's length has more bytes than it needs"
                break
            if first & 0x0F >= 8:
                cost += 1
            elif first >= 0x80:
                self._small = 0
            elif length < SMALL_FRAGMENT:
                self._small += 1
                cost += self._small > FREE_FRAGMENTS
            end += header + 4 + length
            most -= 1
        self._left = max(0, end - size)
        self.stopped = not most and end < size
        return min(end, size), cost


def _header_size(data: bytes, start: int, size: int) -> int:
    """How many bytes the header at `start` has, without the mask; 0 while it is not whole."""
    if size - start < 2:
        return 0
    flag = data[start + 1] & 0x7F
    header = 2 if flag < 126 else 4 if flag == 126 else LONGEST_HEADER
    return header if size - start >= header else 0
