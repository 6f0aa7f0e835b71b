"""A model of your own that remembers: it counts the words of each stream.

cd examples
stream-server serve --model count=stateful_model:WordCount

Without a server: `load_model("stateful_model:WordCount")`, whose items are those of one stream.
"""

from collections.abc import Sequence

from inference import StatefulItem


class WordCount:
    """Counts the words of a stream so far."""

    input = "text"
    stateful = True  # items come with the state that was returned for their stream's previous one

    def load(self) -> None:
        """Nothing to load."""

    def predict(self, items: Sequence[StatefulItem]) -> list[tuple[object, object]]:
        """Return an answer and the new state for each item; a stream's first item has the state None."""
        counts = [(item.state or 0) + len(item.value.split()) for item in items]
        return [({"words": count}, count) for count in counts]
