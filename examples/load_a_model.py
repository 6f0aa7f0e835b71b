"""Run a model in your own process: in a notebook, in a test of the model, in a batch job.

python examples/load_a_model.py photo.jpg ...
"""

import sys
from pathlib import Path

from inference import ItemError, load_model

faces = load_model("faces", long_side=320)
for file in sys.argv[1:]:
    try:
        found = faces(Path(file).read_bytes())["faces"]
        print(f"{file}: faces: {len(found)}")
    except ItemError as exc:
        print(f"{file}: {exc.code}, {exc}")
