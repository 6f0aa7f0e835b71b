"""Models, scheduler and worker processes; usable without the server. It knows nothing of networks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.engine import Engine, ModelStatus
    from inference.image import Image
    from inference.intake import (
        ModelUnavailableError,
        OverloadedError,
        Refusal,
        StreamRequest,
        UnknownModelError,
    )
    from inference.items import Dropped, Failed, Item, Outcome, Result
    from inference.local import LocalModel, load_model
    from inference.model import (
        InputKind,
        ItemError,
        Model,
        ModelCard,
        ModelError,
        ModelId,
        ModelSource,
        Policy,
        ServingSettings,
        StatefulItem,
    )
    from inference.pool.groups import Group
    from inference.pool.pool import WorkerOptions
    from inference.streams import Stream, StreamOwner

__all__ = [
    "Dropped",
    "Engine",
    "Failed",
    "Group",
    "Image",
    "InputKind",
    "Item",
    "ItemError",
    "LocalModel",
    "Model",
    "ModelCard",
    "ModelError",
    "ModelId",
    "ModelSource",
    "ModelStatus",
    "ModelUnavailableError",
    "Outcome",
    "OverloadedError",
    "Policy",
    "Refusal",
    "Result",
    "ServingSettings",
    "StatefulItem",
    "Stream",
    "StreamOwner",
    "StreamRequest",
    "UnknownModelError",
    "WorkerOptions",
    "load_model",
]

_HOMES = {
    "inference.engine": ("Engine", "ModelStatus"),
    "inference.intake": (
        "ModelUnavailableError",
        "OverloadedError",
        "Refusal",
        "StreamRequest",
        "UnknownModelError",
    ),
    "inference.items": ("Dropped", "Failed", "Item", "Outcome", "Result"),
    "inference.local": ("LocalModel", "load_model"),
    "inference.model": (
        "InputKind",
        "ItemError",
        "Model",
        "ModelCard",
        "ModelError",
        "ModelId",
        "ModelSource",
        "Policy",
        "ServingSettings",
        "StatefulItem",
    ),
    "inference.pool.groups": ("Group",),
    "inference.pool.pool": ("WorkerOptions",),
    "inference.streams": ("Stream", "StreamOwner"),
    "inference.image": ("Image",),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a worker does without the engine, and the server without image libraries."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
