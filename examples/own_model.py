"""A model of your own for pictures: how light each one is.

cd examples
stream-server serve --model brightness=own_model:Brightness
stream-server predict brightness=own_model:Brightness photo.jpg
"""

from collections.abc import Sequence

from inference import Image, ItemError


class Brightness:
    """Measures how light a picture is, from 0 to 255."""

    input = "image"
    max_batch = 4  # `predict` gets up to so many pictures that wait
    long_side = 160  # pictures are decoded at this size, which is much cheaper

    def __init__(self, *, darkest: float = 0.0) -> None:
        self.darkest = darkest  # --set models.brightness.options.darkest=10

    def load(self) -> None:
        """Nothing to load; weights would be read here."""

    def predict(self, items: Sequence[Image]) -> list[object]:
        """Answer each picture, or refuse it."""
        answers: list[object] = []
        for item in items:
            mean = float(item.pixels.mean())
            if mean < self.darkest:
                answers.append(ItemError("too_dark", f"the mean is {mean:.1f}; switch the light on"))
            else:
                answers.append({"mean": round(mean, 1), "width": item.width, "height": item.height})
        return answers
