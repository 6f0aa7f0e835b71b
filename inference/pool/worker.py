"""One worker from its start to its exit: what it says and is given, when it is ended. It decides no replacement.

The states are those of `inference.pool.states`. Everything outside comes through `inference.pool.launcher`.
"""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from inference.items import RESERVED, Batch, Cause, Failed, Outcome, Result
from inference.model import DEFAULT_LOAD_TIMEOUT_S, ModelCard, ModelId, ModelSource
from inference.pool.launcher import Clock, Launched, Launcher, Timer
from inference.pool.states import DEAF, SERVING, TRANSITIONS, IllegalTransition, State, Stimulus, after
from inference.wire import messages
from inference.wire.features import ON
from inference.wire.messages import BadMessage, FromWorker, ItemFailure

log = logging.getLogger(__name__)

START_TIMEOUT = 60.0
"""Seconds to start, or to close the sandbox: this takes a second, a hang takes for ever. Each model has a clock of
its own, see `ModelCard.load_timeout_s`."""

FIRST_PROGRESS = 10.0
"""Seconds that a model has been loading when this is first reported; then after twice as long each time."""

STOP_GRACE = 1.0
"""Seconds a worker has to exit by itself when its transport closes, before it is killed."""

DUMP_GRACE = 0.1
"""Seconds that a hung worker has to write where it hangs, and in which its answer still counts."""

EXIT_GRACE = 0.1
"""Seconds in which a worker that has closed its end is expected to be gone, before it is killed: one that a signal
ends closes it a moment before its exit is known, and that signal must not be taken for ours."""

TIMEOUT = "a batch took too long"

FAULTS = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)
"""Signals that a program's own fault raises. The sandbox turns a SIGKILL that a worker sends itself into SIGSYS."""

CODE = re.compile(r"[a-z][a-z_]{0,63}")
"""An item's error code: it becomes a label of a metric, and programs compare it."""


class Place(Protocol):
    """Who a worker reports to: its slot."""

    @property
    def serving(self) -> bool:
        """Whether the worker gets work; if not, it is a warm spare."""

    def described(self, source: ModelSource, card: ModelCard) -> ModelCard | None:
        """A model is about to load. Return its card with the operator's settings; None if it is not to be used."""

    def still_loading(self, source: ModelSource, seconds: float, limit: int) -> None:
        """A model has been loading for so many seconds, of at most `limit`; reported now and then."""

    def failed(self, source: ModelSource, reason: str, *, permanent: bool) -> None:
        """A model cannot be loaded; permanent: another try would fail as well."""

    def sealed(self, features: dict[str, str]) -> None:
        """The sandbox is closed as far as it could be."""

    def loaded(self, worker: Worker, source: ModelSource, card: ModelCard, infer_ms: float) -> bool:
        """A worker's model can answer; `card` is what `described` returned. Whether it is still wanted."""

    def became_ready(self) -> None:
        """The worker has loaded what it could, and can take batches."""

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """A batch has its outcomes. The worker is not free yet."""

    def idle_again(self, outcomes: Sequence[Outcome]) -> None:
        """The worker is free after these outcomes."""

    def worker_exited(self, status: int) -> None:
        """The worker is gone; `worker.take_batch()` gives the batch that it had."""


class Worker:
    """One process' life.

    Args:
        sources: the models that it is to load, by name.
        generation: the pool's, when the worker was started.

    Attributes:
        state: what it is doing.
        models: the versions that it has loaded and may be given batches of.
        loading: the model that it imports or loads now, whose fault an exit would be; else None.
        loading_since: when it began with that model, on the clock.
        load_limit: how many seconds that model may take, its import included.
        timed_out: whether it was ended because something took too long.
        was_ready: when it became ready, on the clock; None if it has not.
        worn: it is to be replaced when that costs nothing, though its generation is the pool's.
        resident_mb: its resident memory in MiB, as last reported.
        resident_mb_before: the same when it became ready.
        batches: how many it has answered.
        exit_reason: why it was ended; empty if it was not, or exited by itself.
        cause: the same as far as items may be the reason. Known once it is gone.
        unread: whether its batch was lost before the worker had read it. Known once it is gone.
    """

    def __init__(
        self, place: Place, clock: Clock, sources: Mapping[str, ModelSource], generation: int
    ) -> None:
        self._place = place
        self._clock = clock
        self._sources = sources
        self.generation = generation
        self._launched: Launched | None = None
        self._timer: Timer | None = None
        self._progress: Timer | None = None
        self._batch: Batch | None = None
        self._announced: set[str] = set()
        self._cards: dict[str, ModelCard | None] = {}  # described, and not yet loaded
        self.state = State.STARTING
        self.models: dict[ModelId, ModelCard] = {}
        self.loading: ModelSource | None = None
        self.loading_since = 0.0
        self.load_limit = DEFAULT_LOAD_TIMEOUT_S
        self.timed_out = False
        self.was_ready: float | None = None
        self.worn = False
        self.resident_mb = self.resident_mb_before = self.batches = 0
        self.exit_reason = ""
        self.cause = Cause.CRASH
        self.unread = False
        self._killed = self._sealed = False

    def start(self, launcher: Launcher, setup: bytes) -> None:
        """Launch it and tell it what to load.

        Raises:
            LaunchError: it cannot be started.
        """
        self._launched = launcher.launch(self)
        self._launched.transport.send(setup)
        self._arm(START_TIMEOUT, f"starting took over {START_TIMEOUT:.0f} s")

    @property
    def name(self) -> str:
        """What logs call it."""
        return self._launched.name if self._launched else "(not started)"

    @property
    def pid(self) -> int | None:
        """Its process number, None if it has none on this machine."""
        return self._launched.pid if self._launched else None

    @property
    def ready(self) -> bool:
        """Whether it has loaded its models, and lives."""
        return self.state in SERVING

    @property
    def busy(self) -> bool:
        """Whether it has a batch."""
        return self._batch is not None

    @property
    def idle(self) -> bool:
        """Whether it is ready and has nothing to do."""
        return self.state is State.IDLE

    @property
    def free(self) -> bool:
        """Whether it can be given a batch now."""
        return self.idle and self._place.serving

    def submit(self, batch: Batch) -> None:
        """Give it a batch of a version that it holds.

        Raises:
            RuntimeError: it is not free.
            KeyError: it does not hold that version.
        """
        state = after(self.state, Stimulus.SUBMIT)
        if not (self._place.serving and self._launched):
            raise RuntimeError(f"worker {self.name} is a spare, and not free")
        timeout = self.models[batch.model].timeout_ms / 1e3
        payloads = [item.payload for item in batch.items]
        header = messages.BatchHeader(
            *batch.model, list(map(len, payloads)), states=list(map(len, batch.states))
        )
        self.state = state
        self._batch = batch
        self._timer = self._clock.call_later(timeout, self._hangs)
        self._launched.transport.send(messages.encode(header), [*batch.states, *payloads])

    def take_batch(self) -> Batch | None:
        """Give up the batch that it had when it exited."""
        batch, self._batch = self._batch, None
        return batch

    def forget(self, name: str) -> None:
        """Give it no more batches of a model."""
        for held in [held for held in self.models if held.name == name]:
            del self.models[held]

    def stop(self) -> None:
        """Close its transport: it exits, or is killed after `STOP_GRACE`. It must not have a batch."""
        self.state = after(self.state, Stimulus.STOP)
        self._disarm()
        if self._launched:
            self._launched.transport.close()
        self._arm(STOP_GRACE, "it did not exit")

    def kill(self) -> None:
        """End it now."""
        self._end(self.exit_reason or "the pool stops")

    def received(self, header: memoryview, body: memoryview) -> None:
        """Take a message; see `Events`."""
        if self.state in DEAF:
            return
        try:
            message = messages.read_from_worker(header)
            stimulus = Stimulus(str(message.__struct_config__.tag))
            if self.state is State.EXITED and stimulus not in TRANSITIONS[State.EXITED]:
                return
            state = after(self.state, stimulus)
            self._check(message)
            answers = self._outcomes(message, body) if isinstance(message, messages.Answers) else []
        except (BadMessage, IllegalTransition) as exc:
            # a worker that says what a worker does not say is not one to give work to
            log.error("worker %s sent nonsense: %.200r", self.name, exc)
            self._end("it sent nonsense")
            return
        # not in the try: what fails here is not the worker's fault
        if isinstance(message, messages.Answers):
            self._answered(message, answers)
        else:
            self.state = state
            self._act(message)

    def lost(self, reason: str) -> None:
        """Kill it, if it has closed its end and lives on; see `Events`."""
        if self.state not in DEAF and self.state is not State.EXITED:
            self._disarm()
            self.state = after(self.state, Stimulus.KILL)
            self.exit_reason = reason
            self._timer = self._clock.call_later(EXIT_GRACE, self._kill)

    def exited(self, status: int) -> None:
        """Read its last words, and tell the slot; see `Events`."""
        self._disarm()
        self.state = after(self.state, Stimulus.EXIT)
        if self._launched:
            self._launched.transport.finish()  # its last answer, and whether it had read its batch
            self._disarm()
            self._launched.transport.close()
            self.unread = self._launched.transport.unread
        self.cause = self._cause(status)
        if self.cause is Cause.OUTSIDE:
            self.exit_reason = "killed from outside"
        elif status < 0 and not self._killed:  # that it closed its end as well says nothing
            self.exit_reason = ""
        if self.state is State.EXITED:
            self.state = after(self.state, Stimulus.CLOSED)
        self._place.worker_exited(status)

    def _check(self, message: FromWorker) -> None:
        """Check what the types cannot: that it speaks of its own models, and of each at its time."""
        match message:
            case messages.Importing(model):
                if model not in self._sources or model in self._announced:
                    raise BadMessage(f"importing {model!r} now")
            case messages.Described(card):
                if self.loading is None or card.name != self.loading.name:
                    raise BadMessage(f"a card of {card.name!r} now")
            case messages.ModelFailed(model):
                if model not in self._announced:
                    raise BadMessage(f"failing {model!r} now")
            case messages.Loaded(model):
                if model not in self._cards:
                    raise BadMessage(f"loaded {model!r} now")

    def _act(self, message: FromWorker) -> None:
        match message:
            case messages.Importing(model):
                source = self.loading = self._sources[model]
                self.loading_since = self._clock.now()
                self._announced.add(model)
                self._limit_loading(source, source.settings.load_timeout_s or DEFAULT_LOAD_TIMEOUT_S)
            case messages.Described(card):
                source = self._sources[card.name]
                used = self._cards[card.name] = self._place.described(source, card)
                self._limit_loading(source, (used or card).load_timeout_s)
            case messages.ModelFailed(model, reason, permanent):
                self.loading = None
                self._arm(START_TIMEOUT, f"going on after {model} had failed took over {START_TIMEOUT:.0f} s")
                if self._cards.pop(model, ...) is not None:  # else that it is not used was said already
                    source = self._sources[model]
                    self._place.failed(source, reason[: messages.MAX_REASON], permanent=permanent)
            case messages.Sealing():
                self.loading = None
                self._arm(START_TIMEOUT, f"closing the sandbox took over {START_TIMEOUT:.0f} s")
            case messages.Sandbox(features):
                self._sealed = features.get("seccomp") == ON
                self._place.sealed(features)
            case messages.Loaded(model, infer_ms):
                self._loaded(self._sources[model], self._cards.pop(model), infer_ms)
            case messages.Ready(resident_mb):
                self._disarm()
                self.was_ready = self._clock.now()
                self.resident_mb = self.resident_mb_before = resident_mb
                self._place.became_ready()

    def _limit_loading(self, source: ModelSource, limit: int) -> None:
        """Set a model's clock, which has run since its import began."""
        left = limit - (self._clock.now() - self.loading_since)
        self.load_limit = limit
        # the import's own timer has not ended, so if nothing is left, the machine stood still or the limit has sunk
        self._arm(
            left if left > 0 else min(limit, START_TIMEOUT), f"loading {source.name} took over {limit} s"
        )
        self._report_at(source, FIRST_PROGRESS)

    def _report_at(self, source: ModelSource, seconds: float) -> None:
        delay = self.loading_since + seconds - self._clock.now()
        if delay > 0:
            self._progress = self._clock.call_later(delay, self._report, source, seconds)

    def _report(self, source: ModelSource, seconds: float) -> None:
        self._report_at(source, 2 * seconds)
        self._place.still_loading(source, seconds, self.load_limit)

    def _loaded(self, source: ModelSource, card: ModelCard | None, infer_ms: float) -> None:
        if card:
            self.models[card.id] = card  # before it is told, for who hears of it looks here
            if not self._place.loaded(self, source, card, infer_ms):
                del self.models[card.id]

    def _outcomes(self, answers: messages.Answers, body: memoryview) -> list[Outcome]:
        """Read the answers to its batch.

        Raises:
            BadMessage: they are not answers to it.
        """
        batch = self._batch
        if batch is None:
            raise BadMessage("answers to no batch")
        # streams are charged with it, so it must be true. The worker measures the duration by a clock of its own,
        # which runs as fast as this one
        if answers.infer_ms > (elapsed := (self._clock.now() - batch.started) * 1e3):
            raise BadMessage(f"a batch that took {answers.infer_ms!r} ms, {elapsed!r} ms after its start")
        size = len(batch.items)
        if len(answers.items) != size or len(answers.states) != len(batch.states):
            raise BadMessage(f"{len(answers.items)} answers, {len(answers.states)} states to {size} items")
        outputs = [answer for answer in answers.items if isinstance(answer, int)]
        parts = messages.cut(body, [*answers.states, *outputs])
        states = [bytes(next(parts)) for _ in answers.states] or [b""] * size
        return list(self._each(batch, answers, parts, states))

    def _each(
        self, batch: Batch, answers: messages.Answers, outputs: Iterator[memoryview], states: list[bytes]
    ) -> Iterator[Outcome]:
        for item, answer, state in zip(batch.items, answers.items, states, strict=True):
            if isinstance(answer, ItemFailure):
                yield Failed(item, item_code(answer.code), answer.message)
                continue
            try:
                output = str(next(outputs), "utf-8")
            except UnicodeDecodeError as exc:
                raise BadMessage("an output that is not UTF-8") from exc
            queue_ms = (batch.started - item.received) * 1e3
            size = len(batch.items)
            yield Result(item, output, batch.model.version, queue_ms, answers.infer_ms, size, state)

    def _answered(self, answers: messages.Answers, outcomes: Sequence[Outcome]) -> None:
        if self._batch is None:
            return
        self._disarm()
        self.resident_mb = answers.resident_mb
        self.batches += 1
        self._place.batch_done(self._batch, outcomes, answers.infer_ms)
        self._batch = None  # not before: if that fails, the batch is lost with this worker, and not for ever
        if self.state in SERVING:  # whoever was told may have stopped the pool
            self.state = after(self.state, Stimulus.ANSWERS)
            self._place.idle_again(outcomes)

    def _hangs(self) -> None:
        """Let the worker write where it hangs, before it is killed."""
        self.state = after(self.state, Stimulus.TIMEOUT)
        if self._launched:
            self._launched.dump()
        self._arm(DUMP_GRACE, TIMEOUT)

    def _arm(self, seconds: float, reason: str) -> None:
        self._disarm()
        self._timer = self._clock.call_later(seconds, self._end, reason, Stimulus.TIMEOUT)

    def _disarm(self) -> None:
        for timer in (self._timer, self._progress):
            if timer:
                timer.cancel()
        self._timer = self._progress = None

    def _end(self, reason: str, stimulus: Stimulus = Stimulus.KILL) -> None:
        self._disarm()
        self.state = after(self.state, stimulus)
        self.exit_reason = reason
        self.timed_out = stimulus is Stimulus.TIMEOUT
        self._kill()

    def _kill(self) -> None:
        self._killed = True
        if self._launched:
            self._launched.kill()

    def _cause(self, status: int) -> Cause:
        """Tell whose doing its exit is."""
        if self._killed:
            return Cause.TIMEOUT if self.exit_reason == TIMEOUT else Cause.CRASH
        if status >= 0 or -status in FAULTS:
            return Cause.CRASH
        # nothing of a sealed worker can send it, and a model that loads has no item
        sent = -status != signal.SIGKILL or not (self._sealed or self.was_ready is None)
        if sent or not (self._launched and self._launched.memory_sufficed()):
            return Cause.UNKNOWN
        return Cause.OUTSIDE


def item_code(code: str) -> str:
    """Give an item's error code, if a model may give it: the engine's own would end streams and mislead clients."""
    return code if CODE.fullmatch(code) and code not in RESERVED else "model_error"
