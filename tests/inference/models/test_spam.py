"""The spam model as a worker uses it: answers, refusals, hostile texts, and what it may import."""

import json
import subprocess
import sys
import time

import pytest

from inference.model import ItemError, ModelError, describe
from inference.models import spam
from inference.models.spam import MAX_CHARS, Spam, Weights, normalise
from inference.training import spam as training

OFFER = (
    "Lowest mortgage rates, guaranteed!\n\nDear friend, click here to get your FREE quote today. "
    "No credit check, no obligation!!! To be removed from our mailing list click below."
)
LETTER = (
    "serial port failure\n\nI tried the patch that you posted but the kernel still hangs when I load the "
    "module. Has anyone seen this problem on the new Dell machines? I think it's a bug in the driver."
)

HOSTILE = {
    "one token of a megabyte": "a" * 2**20,
    "a megabyte of apostrophes": "a'" * 2**19,
    "a megabyte of marks": "!" * 2**20,
    "a megabyte of words": "money " * 180_000,
    "blanks, then a text": " " * 2**20 + "free money",
    "zero width between letters": "\u200b".join("free money") * 1000,
    "right to left": "\u202e\u05e9\u05dc\u05d5\u05dd free \u202c" * 1000,
    "control characters": "".join(map(chr, range(32))) * 1000 + "x",
    "lone surrogates": "\ud800 free \udfff" * 1000,
    "piled up accents": "e" + "\u0301\u0316" * 2**18,
    "letters that grow in lower case": "\u0130" * 2**18,
    "not a word that it knows": "\uc548\ub155\ud558\uc138\uc694",
}


@pytest.fixture(scope="module")
def model():
    model = Spam()
    model.load()
    return model


def label(model, text):
    (answer,) = model.predict([text])
    return answer["label"]


def test_it_tells_an_offer_from_a_letter(model):
    assert label(model, OFFER) == "spam"
    assert label(model, LETTER) == "ham"


def test_scores_are_json_numbers_that_add_up_to_one(model):
    (answer,) = json.loads(json.dumps(model.predict([OFFER])))
    assert set(answer["scores"]) == {"spam", "ham"}
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-9)
    assert answer["scores"]["spam"] == round(answer["scores"]["spam"], 4) > 0.9


def test_a_batch_answers_each_text_as_if_alone(model):
    texts = [OFFER, "", LETTER, "\u200b"]
    batch = model.predict(texts)
    assert [type(answer) for answer in batch] == [dict, ItemError, dict, ItemError]
    assert batch[0] == model.predict([OFFER])[0]
    assert batch[2] == model.predict([LETTER])[0]


@pytest.mark.parametrize("text", ["", " \t\r\n", "\u200b\ufeff", "\u00a0\u2003"])
def test_a_text_without_a_visible_character_is_refused(model, text):
    (answer,) = model.predict([text])
    assert isinstance(answer, ItemError)
    assert answer.code == "empty"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_gets_an_answer_at_once(model, text):
    costs = []
    for _ in range(3):  # of which the least counts: a virtual machine's clock counts its pauses
        start = time.process_time()
        (answer,) = model.predict([text])
        costs.append(time.process_time() - start)
    assert min(costs) < 0.25  # ten times the slowest; quadratic work on a megabyte takes minutes
    assert 0 <= answer["scores"]["spam"] <= 1


def test_hidden_characters_case_and_digits_change_nothing(model):
    plain = model.predict(["Make free money today, call 555 now"])
    assert model.predict(["MAKE fr\u200bee mo\u00adney today, call 931 now"]) == plain


def test_only_the_beginning_of_a_long_text_counts(model):
    words = (LETTER + " ") * 200
    assert len(words) > MAX_CHARS
    assert model.predict([words + OFFER * 1000]) == model.predict([words])


def test_a_text_without_a_known_word_scores_what_the_intercept_says():
    weights = Weights.read(spam.WEIGHTS.read_bytes())
    assert weights.spam("\uc548\ub155") == weights.spam("")


def test_weights_survive_writing_byte_for_byte():
    raw = spam.WEIGHTS.read_bytes()
    assert Weights.read(raw).write() == raw
    assert len(raw) < 2_000_000


def test_damaged_weights_do_not_load(tmp_path, monkeypatch):
    raw = bytearray(spam.WEIGHTS.read_bytes())
    raw[-1] ^= 1
    damaged = tmp_path / "spam.npz"
    damaged.write_bytes(raw)
    monkeypatch.setattr(spam, "WEIGHTS", damaged)
    with pytest.raises(ModelError, match=r"spam\.npz is damaged"):
        Spam().load()


def test_its_card_says_what_the_server_needs(model):
    card = describe("spam", model)
    assert (card.input, card.policy, card.max_batch, card.version) == ("text", "queue", 128, "1")
    assert card.description == "Says whether an English text is spam or ham, with a score for each."


def test_it_loads_quickly_and_without_the_large_libraries():
    code = (
        "import sys, time, numpy; start = time.process_time();"
        "from inference.models.spam import Spam; Spam().load();"
        "took = time.process_time() - start;"
        "large = {'sklearn', 'scipy', 'onnxruntime', 'onnx', 'skl2onnx', 'cv2', 'rich'} & set(sys.modules);"
        "assert not large, large; print(took)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE) for _ in range(3)
    ]
    assert min(float(run.stdout) for run in runs) < 0.3, "the least counts, as above"


def test_it_says_what_scikit_learn_says():
    weights = Weights.read(spam.WEIGHTS.read_bytes())
    texts = [OFFER, LETTER, "hello", "free", OFFER + LETTER * 20, "\uc548\ub155", *HOSTILE.values()]
    texts.remove(HOSTILE["lone surrogates"])  # scikit-learn refuses what UTF-8 cannot hold
    assert training.disagreement(weights, training.pipeline_of(weights), texts) < 0.005
    assert normalise("IT\u2019S 1999") == "it's 0000"
