"""One stream's conversation: messages, order, limits. No I/O, no clock, no asyncio. It counts no outcomes.

The loop that drives it, after every call: send all of `take_outgoing()`; when `close_code` is set, close
with it once everything is sent; read on only while `wants_input`, and after `pause()`. What a long text has cost
is told to `spend_parsing`. An item that `receive` returns must be offered to the engine, refused ones too, and its
outcome given to `complete`.
"""

from __future__ import annotations

from dataclasses import dataclass
from sys import getsizeof

from inference.intake import Refusal
from inference.items import Dropped, Failed, Outcome, Result
from inference.model import ModelCard
from inference.streams import Stream
from inference.token_bucket import TokenBucket
from stream_server.errors import (
    ClientFault,
    Flooding,
    Malformed,
    Poison,
    StreamServerError,
    TooLarge,
    WrongKind,
    error_info,
)
from stream_server.protocol import server_side as protocol
from stream_server.protocol.server_side import Meta
from stream_server.server.allowance import FLOOD_S, Allowance
from stream_server.server.config import Limits

MAX_META_BYTES = 4096
"""Largest text message where items are binary: `meta` and `end` need a twentieth of it."""

MAX_UNANSWERED = 1024
"""Most unanswered items of a `latest` stream. Answers leave in order, so each of a flood's superseded frames is
remembered until the one that runs is done; above this the flood has to wait."""

MAX_OUTGOING = 256
"""Most messages that wait for the client to read them, before nothing more is read from it."""

PARSING_SHARE = 0.05
"""Share of the loop's time that one stream's messages may take to parse, before it is read more slowly. Of the
largest messages, a dozen per second of the most costly JSON take that, or a thousand of plain text."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to offer to the engine.

    Attributes:
        max_age_ms: the client's limit for this item; None for the stream's.
        refusal: why it cannot run, if it cannot.
    """

    payload: bytes
    max_age_ms: int | None
    refusal: Refusal | None = None


@dataclass(slots=True)
class _Unanswered:
    id: str | None
    outcome: Outcome | None = None


class Session:
    """The server's side of one stream; its first message is `ready`.

    Args:
        stream: what the engine has opened.
        limits: how much the client may send.
        now: the time, in seconds.
        allowance: what the client may send besides items; its frames are paid from it too.

    Attributes:
        max_message_bytes: the largest message that it takes.
        close_code: set when the conversation is over.
        held: bytes of answers that have not been taken: those that wait to be sent, and for the answer to an
            earlier item.
    """

    def __init__(
        self, stream: Stream, limits: Limits, now: float, allowance: Allowance | None = None
    ) -> None:
        card = stream.card
        self._card = card
        self._tally = stream.tally
        self._most = stream.capacity if stream.policy == "queue" else MAX_UNANSWERED
        self._binary = is_binary(card)
        self.max_message_bytes = max_message_bytes(card, limits)
        self.close_code: int | None = None
        self.held = 0
        self._received = 0
        self._answered = 0  # the last item whose answer has left
        self._unanswered: dict[int, _Unanswered] = {}
        self._meta: Meta | None = None
        self._ended = False
        self._draining = False
        rate = limits.max_superseded_per_s
        self._superseded = TokenBucket(rate, rate, now)
        self._parsing = TokenBucket(PARSING_SHARE, PARSING_SHARE, now)
        self._allowance = allowance or Allowance(limits.max_overhead_per_s, now)
        self._overhead_per_s = limits.max_overhead_per_s
        self._read_at = now  # before that, nothing more is read
        self._outgoing: list[str] = []
        self._say(
            protocol.write_ready(
                f"s{stream.number}", card, stream.policy, stream.window, self.max_message_bytes
            )
        )

    @property
    def unanswered(self) -> int:
        """Items received whose answer has not left: ``received == results + dropped + errors + unanswered``."""
        return len(self._unanswered)

    @property
    def wants_input(self) -> bool:
        """Whether another message may be read now; if not, TCP slows the sender and nothing is lost."""
        return (
            self.close_code is None
            and len(self._unanswered) < self._most
            and len(self._outgoing) < MAX_OUTGOING
        )

    def pause(self, now: float) -> float:
        """Seconds to wait before another message is read, for a stream that has taken more than its due."""
        return max(0.0, self._read_at - now)

    def spend_parsing(self, seconds: float, now: float) -> None:
        """Say how much of the loop's time a message took to `receive`."""
        self._parsing.spend(seconds, now)
        self._read_at = max(self._read_at, now + self._parsing.delay(now))

    @property
    def has_outgoing(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._outgoing)

    def take_outgoing(self) -> list[str]:
        """Take the messages to send, in order."""
        outgoing, self._outgoing = self._outgoing, []
        self.held -= sum(map(getsizeof, outgoing))
        return outgoing

    def receive(self, message: str | bytes, now: float) -> NewItem | None:
        """Take a message of the client's; if it is an item, return what must be offered to the engine."""
        if self.close_code is not None:
            return None
        try:
            self._check_size(message)
            if isinstance(message, bytes):
                return self._receive_item(message, self._take_meta(), now)
            return self._receive_text(message, now)
        except ClientFault as exc:
            self.fail(exc)
            self._spend(now)
            return None

    def complete(self, outcome: Outcome, now: float) -> None:
        """Take an item's outcome; its answer leaves when those of all items before it have left."""
        self._unanswered[outcome.item.seq].outcome = outcome
        if isinstance(outcome, Result):
            self.held += getsizeof(outcome.outputs)
        if isinstance(outcome, Dropped) and outcome.reason == "superseded":
            self._superseded.spend(1.0, now)
            self._read_at = max(self._read_at, now + self._superseded.delay(now))
        while (
            self.close_code is None
            and (first := self._unanswered.get(self._answered + 1)) is not None
            and first.outcome is not None
        ):
            self._answered += 1
            del self._unanswered[self._answered]
            self._answer(first.outcome, first.id, now)
            if isinstance(first.outcome, Failed) and first.outcome.fatal:
                self.fail(Poison(first.outcome.message))
        self._end_if_done()

    def fail_flooding(self) -> None:
        """End a conversation whose client has sent too much besides items for too long."""
        most = self._overhead_per_s
        self.fail(
            Flooding(
                f"for {FLOOD_S:.0f} s more than {most:g} per second of pings, pongs, small fragments, and messages "
                "that bring no item"
            )
        )

    def fail(self, error: StreamServerError) -> None:
        """Say that something is wrong with the conversation, and end it if the error is of that kind."""
        if self.close_code is None:
            self._say(protocol.write_error(error))
            self.close_code = error_info(error).close

    def drain(self, grace_ms: int, retry_after_ms: int) -> None:
        """Say that the server is going: what was accepted is answered, what is new dropped, then it ends."""
        if self.close_code is None and not self._draining:
            self._draining = True
            self._say(protocol.write_goaway(grace_ms, retry_after_ms))
            self._end_if_done()

    def _check_size(self, message: str | bytes) -> None:
        size, most = len(message.encode() if isinstance(message, str) else message), self.max_message_bytes
        if self._binary and isinstance(message, str):
            if size > MAX_META_BYTES or message.startswith("data:"):  # an item, and not what describes one
                raise WrongKind(protocol.SEND_BINARY)
        elif size > most:
            raise TooLarge(f"a message of {size:,} bytes is over this server's limit of {most:,}")

    def _spend(self, now: float) -> None:
        """Pay for a message that was received in vain."""
        self._allowance.spend(1, now)
        self._read_at = max(self._read_at, now + self._allowance.delay(now))
        if self._allowance.flooding:
            self.fail_flooding()

    def _receive_text(self, text: str, now: float) -> NewItem | None:
        if self._ended:
            raise Malformed("nothing may follow `end`")
        match protocol.read_client_message(text, self._card.input):
            case Meta() as meta:
                if self._meta is not None:
                    self._spend(now)
                self._meta = meta
            case protocol.TextItem(payload, meta):
                return self._receive_item(payload, meta, now)
            case protocol.EndOfItems():
                self._ended = True
                self._end_if_done()
        return None

    def _receive_item(self, payload: bytes, meta: Meta | None, now: float) -> NewItem:
        if self._ended:
            raise Malformed("nothing may follow `end`")
        self._received += 1
        self._unanswered[self._received] = _Unanswered(meta.id if meta else None)
        refusal = None
        if self._draining:
            refusal = Refusal("draining")
        elif self._binary and not payload:
            refusal = Refusal("empty", "the message is empty; send the item's bytes")
        if refusal is not None:
            self._spend(now)
        return NewItem(payload, meta.max_age_ms if meta else None, refusal)

    def _take_meta(self) -> Meta | None:
        if not self._binary:
            raise WrongKind(f'this model takes text messages: {{"type": "item", "{self._card.input}": ...}}')
        meta, self._meta = self._meta, None
        return meta

    def _answer(self, outcome: Outcome, id_: str | None, now: float) -> None:
        match outcome:
            case Result():
                self.held -= getsizeof(outcome.outputs)
                age_ms = (now - outcome.item.received) * 1e3
                text = protocol.write_result(outcome, id_, self._card.name, age_ms)
            case Dropped():
                text = protocol.write_dropped(outcome, id_)
            case Failed():
                text = protocol.write_failed(outcome, id_)
        self._say(text)

    def _say(self, text: str) -> None:
        self._outgoing.append(text)
        self.held += getsizeof(text)

    def _end_if_done(self) -> None:
        if (self._ended or self._draining) and not self._unanswered and self.close_code is None:
            tally = self._tally()
            self._say(protocol.write_end(tally.received, tally.results, tally.dropped, tally.errors))
            self.close_code = 1000 if self._ended else 1001


def is_binary(card: ModelCard) -> bool:
    """Whether a model's items are binary messages."""
    return card.input in ("image", "bytes")


def max_message_bytes(card: ModelCard, limits: Limits) -> int:
    """The largest message to a model."""
    return limits.max_item_bytes if is_binary(card) else limits.max_text_bytes
