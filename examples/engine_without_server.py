"""Run models in worker processes of your own program, without a server or a network.

python examples/engine_without_server.py photo.jpg ...
"""

import asyncio
import json
import sys
from pathlib import Path

from inference import Engine, Failed, ModelSource, Result, ServingSettings

FACES = ModelSource(
    "faces",
    "inference.models.faces:Faces",
    options={"long_side": 320},
    settings=ServingSettings(timeout_ms=2000),
)


async def main(files: list[str]) -> None:
    async with Engine([FACES], workers=2) as engine:
        pictures = [Path(file).read_bytes() for file in files]
        outcomes = await asyncio.gather(*(engine.infer("faces", picture) for picture in pictures))
    for file, outcome in zip(files, outcomes, strict=True):
        match outcome:
            case Result():
                print(f"{file}: faces: {len(json.loads(outcome.outputs)['faces'])}")
            case Failed():  # this item alone: the others have their answers
                print(f"{file}: {outcome.code}, {outcome.message}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
