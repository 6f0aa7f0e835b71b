"""One stream's conversation: sequence numbers, order, limits, accounting. No I/O, no clock, no asyncio.

The loop that drives it, after every call: send all of `take_outgoing()`; when `close_code` is set, close
with it once everything is sent; read on only while `wants_input`, and after `pause()`. An item that `receive`
returns must be offered to the engine, and its outcome given to `complete`. When the connection has ended, it
must `release` what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.items import Dropped, Failed, Item, Outcome, Result
from inference.model import ModelCard
from stream_server.errors import (
    ClientFault,
    Malformed,
    Poison,
    StreamServerError,
    TooLarge,
    WrongKind,
    error_info,
)
from stream_server.protocol import server_side as protocol
from stream_server.protocol.server_side import Meta, StreamOptions
from stream_server.server.config import Limits

MAX_META_BYTES = 4096
"""Largest text message where items are binary: `meta` and `end` need a twentieth of it."""

MAX_UNANSWERED = 1024
"""Most unanswered items of a `latest` stream. Answers leave in order, so each of a flood's superseded frames is
remembered until the one that runs is done; above this the flood has to wait."""

MAX_OUTGOING = 256
"""Most messages that wait for the client to read them, before nothing more is read from it."""


@dataclass(slots=True)
class Held:
    """The bytes of unanswered items of all sessions together, which share one of these.

    When they are over `most`, a session takes an item only while it has none unanswered: so every stream goes on,
    and one message of each may be under way in any case.
    """

    most: int
    bytes: int = 0


@dataclass(slots=True)
class _Unanswered:
    id: str | None
    size: int
    outcome: Outcome | None = None


class Session:
    """The server's side of one stream.

    Args:
        card: the model it talks to.
        options: what the client asked for.
        limits: how much it may send.
        held: what all sessions hold; alone in the world without it.

    Attributes:
        model: the name of the model it talks to.
        policy, window, weight: as agreed.
        room: the most items the engine shall run of it (`latest`) or let wait (`queue`). That is one more than
            a queue's window: a client that keeps its window is read all the time, its pongs and its close too.
        max_message_bytes: largest message that it takes.
        close_code: set when the conversation is over.
    """

    def __init__(
        self, card: ModelCard, options: StreamOptions, limits: Limits, held: Held | None = None
    ) -> None:
        self._card = card
        self._held = held or Held(limits.max_unanswered_bytes)
        self.model = card.name
        self.weight = options.weight or min(1.0, limits.max_weight)
        self.policy = options.policy or card.policy
        self.window = options.window or protocol.DEFAULT_WINDOW[self.policy]
        self.room = self.window if self.policy == "latest" else self.window + 1
        self._max_age_ms = options.max_age_ms
        self._binary = card.input in ("image", "bytes")
        self.max_message_bytes = limits.max_item_bytes if self._binary else limits.max_text_bytes
        self.close_code: int | None = None
        self.received = self.results = self.dropped = self.errors = 0
        self._stream = 0
        self._answered = 0  # the last item whose answer has left
        self._unanswered: dict[int, _Unanswered] = {}
        self._unanswered_bytes = 0
        self._meta = Meta()
        self._ended = False
        self._draining = False
        self._outgoing: list[str] = []
        self._most_superseded = limits.max_superseded_per_s
        self._allowance = self._most_superseded  # of items that may be superseded, as of `_allowed_at`
        self._allowed_at = 0.0

    def start(self, stream: int) -> None:
        """Greet the client; `stream` is the engine's number for it."""
        self._stream = stream
        self._outgoing.append(
            protocol.write_ready(f"s{stream}", self._card, self.policy, self.window, self.max_message_bytes)
        )

    @property
    def unanswered(self) -> int:
        """Items received whose answer has not left: ``received == results + dropped + errors + unanswered``."""
        return len(self._unanswered)

    @property
    def wants_input(self) -> bool:
        """Whether another message may be read now; if not, TCP slows the sender and nothing is lost."""
        most = self.room if self.policy == "queue" else MAX_UNANSWERED
        return (
            self.close_code is None
            and len(self._unanswered) < most
            and len(self._outgoing) < MAX_OUTGOING
            # one item may always come; a window of large ones must not fill the memory
            and self._unanswered_bytes <= self.max_message_bytes
            and (self._held.bytes <= self._held.most or not self._unanswered)
        )

    def pause(self, now: float) -> float:
        """Seconds to wait before another message is read, for a stream that sends only to have it superseded."""
        if self._allowance >= 0:
            return 0.0
        return max(0.0, -self._allowance / self._most_superseded - (now - self._allowed_at))

    @property
    def has_outgoing(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._outgoing)

    def take_outgoing(self) -> list[str]:
        """Take the messages to send, in order."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def receive(self, message: str | bytes, now: float) -> Item | Dropped | Failed | None:
        """Take a message of the client's.

        Returns:
            If the message was an item, the item to offer to the engine; or, where it cannot run, the outcome that
            is its answer already, for whoever counts them.
        """
        if self.close_code is not None:
            return None
        try:
            self._check_size(message)
            if isinstance(message, bytes):
                return self._receive_item(message, self._take_meta(), now)
            return self._receive_text(message, now)
        except ClientFault as exc:
            self.fail(exc)
            return None

    def complete(self, outcome: Outcome, now: float) -> None:
        """Take an item's outcome; its answer leaves when those of all items before it have left."""
        self._unanswered[outcome.item.seq].outcome = outcome
        if isinstance(outcome, Dropped) and outcome.reason == "superseded":
            earned = (now - self._allowed_at) * self._most_superseded
            self._allowance = min(self._most_superseded, self._allowance + earned) - 1
            self._allowed_at = now
        while (
            self.close_code is None
            and (first := self._unanswered.get(self._answered + 1)) is not None
            and first.outcome is not None
        ):
            self._answered += 1
            del self._unanswered[self._answered]
            self._unanswered_bytes -= first.size
            self._held.bytes -= first.size
            self._answer(first.outcome, first.id, now)
            if isinstance(first.outcome, Failed) and first.outcome.fatal:
                self.fail(Poison(first.outcome.message))
        self._end_if_done()

    def fail(self, error: StreamServerError) -> None:
        """Say that something is wrong with the conversation, and end it if the error is of that kind."""
        if self.close_code is None:
            self._outgoing.append(protocol.write_error(error))
            self.close_code = error_info(error).close

    def drain(self, grace_ms: int, retry_after_ms: int) -> None:
        """Say that the server is going: what was accepted is answered, what is new dropped, then it ends."""
        if self.close_code is None and not self._draining:
            self._draining = True
            self._outgoing.append(protocol.write_goaway(grace_ms, retry_after_ms))
            self._end_if_done()

    def release(self) -> None:
        """Give back what is held of items that nobody will answer any more: the connection has ended."""
        self._held.bytes -= self._unanswered_bytes
        self._unanswered_bytes = 0
        self._unanswered.clear()

    def _check_size(self, message: str | bytes) -> None:
        size, most = len(message), self.max_message_bytes
        if isinstance(message, str):
            size = len(message.encode())
            most = MAX_META_BYTES if self._binary else most
        if size > most:
            raise TooLarge(f"a message of {size:,} bytes is over this server's limit of {most:,}")

    def _receive_text(self, text: str, now: float) -> Item | Dropped | Failed | None:
        if self._ended:
            raise Malformed("nothing may follow `end`")
        match protocol.read_client_message(text, self._card.input):
            case Meta() as meta:
                self._meta = meta
            case protocol.TextItem(payload, meta):
                return self._receive_item(payload, meta, now)
            case protocol.EndOfItems():
                self._ended = True
                self._end_if_done()
        return None

    def _receive_item(self, payload: bytes, meta: Meta, now: float) -> Item | Dropped | Failed:
        if self._ended:
            raise Malformed("nothing may follow `end`")
        self.received += 1
        max_age_ms = meta.max_age_ms or self._max_age_ms
        deadline = now + max_age_ms / 1e3 if max_age_ms else None
        item = Item(self._stream, self.received, payload, now, deadline)
        self._unanswered[item.seq] = _Unanswered(meta.id, len(payload))
        self._unanswered_bytes += len(payload)
        self._held.bytes += len(payload)
        outcome: Dropped | Failed
        if self._draining:
            outcome = Dropped(item, "draining")
        elif self._binary and not payload:
            outcome = Failed(item, "empty", "the message is empty; send the item's bytes")
        else:
            return item
        self.complete(outcome, now)
        return outcome

    def _take_meta(self) -> Meta:
        if not self._binary:
            raise WrongKind(f'this model takes text messages: {{"type": "item", "{self._card.input}": ...}}')
        meta, self._meta = self._meta, Meta()
        return meta

    def _answer(self, outcome: Outcome, id_: str | None, now: float) -> None:
        match outcome:
            case Result():
                self.results += 1
                age_ms = (now - outcome.item.received) * 1e3
                text = protocol.write_result(outcome, id_, self._card.name, age_ms)
            case Dropped():
                self.dropped += 1
                text = protocol.write_dropped(outcome, id_)
            case Failed():
                self.errors += 1
                text = protocol.write_failed(outcome, id_)
        self._outgoing.append(text)

    def _end_if_done(self) -> None:
        if (self._ended or self._draining) and not self._unanswered and self.close_code is None:
            self._outgoing.append(protocol.write_end(self.received, self.results, self.dropped, self.errors))
            self.close_code = 1000 if self._ended else 1001
