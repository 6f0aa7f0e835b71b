"""The states of one worker and the transitions between them. A pure table: no I/O, no clock, no timer.

Rules: a worker has exactly one state; the table below is the only place that says what may follow what; a stimulus
that has no entry is an error that names the state and the stimulus. Stimuli are what the worker said (the types of
its messages), what happened to it, or what we do to it; the table treats them alike.

``docs/internals.md`` shows the table as a diagram, and a test compares the two.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    """The process starts, or imports and describes a model."""
    LOADING = "loading"
    """A model that has been described is loading."""
    SEALING = "sealing"
    """All models are loaded or have failed; the sandbox closes and the models are reported."""
    IDLE = "idle"
    """It can take a batch."""
    BUSY = "busy"
    """It has a batch."""
    HUNG = "hung"
    """Its batch took too long: it has a moment to dump its stacks, and an answer still counts."""
    STOPPING = "stopping"
    """It was told to exit, by closing its transport."""
    KILLED = "killed"
    """It is being killed; nothing that it says counts."""
    EXITED = "exited"
    """It has exited; what it sent before is still read."""
    GONE = "gone"
    """Nothing of it is left."""


class Stimulus(StrEnum):
    """What can happen to a worker."""

    IMPORTING = "importing"
    DESCRIBED = "described"
    FAILED = "failed"
    SEALING = "sealing"
    SANDBOX = "sandbox"
    LOADED = "loaded"
    READY = "ready"
    SUBMIT = "submit"
    ANSWERS = "answers"
    TIMEOUT = "timeout"
    STOP = "stop"
    KILL = "kill"
    EXIT = "exit"
    CLOSED = "closed"


TRANSITIONS: dict[State, dict[Stimulus, State]] = {
    State.STARTING: {
        Stimulus.IMPORTING: State.STARTING,
        Stimulus.DESCRIBED: State.LOADING,
        Stimulus.FAILED: State.STARTING,
        Stimulus.SEALING: State.SEALING,
        Stimulus.TIMEOUT: State.KILLED,
        Stimulus.STOP: State.STOPPING,
        Stimulus.KILL: State.KILLED,
        Stimulus.EXIT: State.EXITED,
    },
    State.LOADING: {
        Stimulus.IMPORTING: State.STARTING,
        Stimulus.FAILED: State.STARTING,
        Stimulus.SEALING: State.SEALING,
        Stimulus.TIMEOUT: State.KILLED,
        Stimulus.STOP: State.STOPPING,
        Stimulus.KILL: State.KILLED,
        Stimulus.EXIT: State.EXITED,
    },
    State.SEALING: {
        Stimulus.SANDBOX: State.SEALING,
        Stimulus.FAILED: State.SEALING,
        Stimulus.LOADED: State.SEALING,
        Stimulus.READY: State.IDLE,
        Stimulus.TIMEOUT: State.KILLED,
        Stimulus.STOP: State.STOPPING,
        Stimulus.KILL: State.KILLED,
        Stimulus.EXIT: State.EXITED,
    },
    State.IDLE: {
        Stimulus.SUBMIT: State.BUSY,
        Stimulus.STOP: State.STOPPING,
        Stimulus.KILL: State.KILLED,
        Stimulus.EXIT: State.EXITED,
    },
    State.BUSY: {
        Stimulus.ANSWERS: State.IDLE,
        Stimulus.TIMEOUT: State.HUNG,
        Stimulus.KILL: State.KILLED,
        Stimulus.EXIT: State.EXITED,
    },
    State.HUNG: {
        Stimulus.ANSWERS: State.IDLE,
        Stimulus.TIMEOUT: State.KILLED,
        Stimulus.KILL: State.KILLED,
        Stimulus.EXIT: State.EXITED,
    },
    State.STOPPING: {
        Stimulus.TIMEOUT: State.KILLED,
        Stimulus.KILL: State.KILLED,
        Stimulus.EXIT: State.EXITED,
    },
    State.KILLED: {
        Stimulus.KILL: State.KILLED,
        Stimulus.EXIT: State.GONE,
    },
    State.EXITED: {
        # its last words: whose fault the exit is, and the answer to its batch
        Stimulus.IMPORTING: State.EXITED,
        Stimulus.DESCRIBED: State.EXITED,
        Stimulus.FAILED: State.EXITED,
        Stimulus.ANSWERS: State.EXITED,
        Stimulus.KILL: State.EXITED,
        Stimulus.CLOSED: State.GONE,
    },
    State.GONE: {},
}

SERVING = frozenset({State.IDLE, State.BUSY, State.HUNG})
"""It has loaded what it could, and lives."""

LOADS = frozenset({State.STARTING, State.LOADING})
"""It imports or loads a model, or will."""

DEAF = frozenset({State.STOPPING, State.KILLED, State.GONE})
"""What a worker still says in these states comes too late, and is dropped unread."""


class IllegalTransition(RuntimeError):
    """A stimulus that the worker's state does not allow."""

    def __init__(self, state: State, stimulus: Stimulus) -> None:
        super().__init__(f"a worker that is {state} has no transition for {stimulus!s}")
        self.state = state
        self.stimulus = stimulus


def after(state: State, stimulus: Stimulus) -> State:
    """Return the state that follows.

    Raises:
        IllegalTransition: the table has no entry.
    """
    try:
        return TRANSITIONS[state][stimulus]
    except KeyError:
        raise IllegalTransition(state, stimulus) from None
