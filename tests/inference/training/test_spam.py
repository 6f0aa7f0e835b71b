"""How mails are read and split, and how the spam model is trained, on mails small enough to read."""

import pytest

from inference.training import card, corpus, spam
from inference.training.corpus import Mail

WORDS = "the quick brown fox jumps over a lazy dog while seven old wizards make toxic brew for the evil queen"


def mail(name, subject, body, *ids):
    return Mail(name, subject, body, ids)


def pairs_of(mails):
    return list(corpus.near_duplicates(m.text for m in mails))


def test_a_mail_is_its_subject_and_its_text_without_headers():
    raw = (
        b"From: Eve <eve@secret.example>\nReceived: from relay\nX-Spam: yes\nMessage-Id: <1@x>\n"
        b"References: <0@x>\nSubject: Re: [ILUG] =?iso-8859-1?q?caf=E9?= opens\n\nSee you there.\n"
    )
    read = corpus.read("easy-ham-1/1.txt", raw)
    assert read.text == "caf\u00e9 opens\n\nSee you there."
    assert read.ids == ("<1@x>", "<0@x>")
    assert not read.spam


def test_html_is_read_as_it_is_seen():
    raw = (
        b"Subject: hi\nContent-Type: text/html; charset=utf-8\n\n<html><head><title>T</title><style>p{}</style>"
        b"</head><body><!-- hidden --><p>Buy&nbsp;now</p><script>go()</script><p>che<b>ap</b></p></body></html>"
    )
    assert corpus.read("spam-1/1.txt", raw).body == "Buy now\ncheap"


def test_plain_parts_are_preferred_and_attachments_left_out():
    raw = (
        b"Subject: s\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n"
        b"A plain text that says quite enough by itself.\n--b\nContent-Type: text/html\n\n<p>marked up</p>\n"
        b'--b\nContent-Type: text/plain\nContent-Disposition: attachment; filename="a.txt"\n\nattached\n--b--\n'
    )
    assert corpus.read("spam-1/1.txt", raw).body == "A plain text that says quite enough by itself."


@pytest.mark.parametrize("charset", [b"no-such-charset", b"utf-8", b"us-ascii"])
def test_a_false_charset_loses_no_text(charset):
    raw = b"Subject: s\nContent-Type: text/plain; charset=" + charset + b"\n\ncaf\xe9 money\n"
    assert corpus.read("spam-1/1.txt", raw).body == "caf\u00e9 money"


def test_list_footers_and_stand_ins_go_and_the_text_stays():
    raw = (
        b"Subject: s\n\nHello yyyy@example.com, mine.\n\n> quoted\n> mailing list\n"
        b"-------------------------------------------------------\nThis sf.net email is sponsored by: us\n"
        b"Buy our thing\n_______________________________________________\nUsers mailing list\n"
        b"https://lists.sourceforge.net/lists/listinfo/users\n\nP.S. kept\n"
    )
    assert corpus.read("easy-ham-1/1.txt", raw).body == "Hello , mine.\n\n> quoted\nP.S. kept"


def test_the_archive_must_be_the_pinned_one(tmp_path):
    (tmp_path / corpus.ARCHIVE).write_bytes(b"something else")
    with pytest.raises(corpus.CorpusError, match="not the pinned"):
        corpus.fetch(tmp_path)


def test_near_duplicates_see_through_case_digits_and_excerpts():
    texts = [WORDS, WORDS.upper() + "! 1", " ".join(WORDS.split()[:9]), "nothing of the kind is in this one"]
    assert sorted(corpus.near_duplicates(texts)) == [(0, 1), (0, 2), (1, 2)]


def test_half_of_the_shingles_is_near_and_less_is_not():
    words = [f"w{chr(97 + i)}" for i in range(11)]  # 8 shingles
    near = [*words[:7], "x", "y", "z", "v"]  # 4 of 8 shared
    far = [*words[:6], "x", "y", "z", "v", "u"]  # 3 of 8 shared
    assert list(corpus.near_duplicates([" ".join(words), " ".join(near)])) == [(0, 1)]
    assert list(corpus.near_duplicates([" ".join(words), " ".join(far)])) == []


def test_groups_close_over_threads_subjects_and_near_duplicates():
    mails = [
        mail("easy-ham-1/0", "one", WORDS),
        mail("easy-ham-1/1", "two", WORDS + " indeed", "<a@x>"),
        mail("easy-ham-1/2", "three", "a wholly different text about trains", "<b@x>", "<a@x>"),
        mail("easy-ham-1/3", "Three!", "another thing again"),
        mail("easy-ham-1/4", "", "alone in the world"),
        mail("easy-ham-1/5", "", "no subject joins nobody"),
    ]
    assert corpus.group(mails, pairs_of(mails)) == [0, 0, 0, 0, 4, 5]


def test_whole_groups_are_held_out_about_a_quarter_of_them_and_always_the_same():
    mails = [mail(f"spam-1/{i}", f"s{chr(97 + i % 26)}{chr(97 + i // 26)}", "") for i in range(600)]
    groups = [i - i % 2 for i in range(600)]
    held = corpus.held_out(mails, groups)
    assert held == corpus.held_out(mails, groups)
    assert held[::2] == held[1::2]
    assert 0.2 < sum(held) / len(held) < 0.3


@pytest.mark.parametrize(
    "other",
    [
        mail("spam-1/1", "b", WORDS + " more"),
        mail("spam-1/1", "A", "something else"),
        mail("spam-1/1", "b", "something else", "<1@x>"),
    ],
    ids=["near-duplicate", "subject", "thread"],
)
def test_a_split_that_tears_two_mails_apart_is_caught(other):
    mails = [mail("spam-1/0", "a", WORDS, "<1@x>"), other]
    assert corpus.crossings(mails, pairs_of(mails), [False, True])
    assert not corpus.crossings(mails, pairs_of(mails), [True, True])


def test_figures_are_what_the_words_mean():
    figures = card.Figures.of([True] * 5 + [False] * 5, [True] * 3 + [False] * 2 + [True] + [False] * 4)
    assert figures == card.Figures(true_spam=3, false_spam=1, false_ham=2, true_ham=4)
    assert (figures.accuracy, figures.precision, figures.recall) == (0.7, 0.75, 0.6)


def test_excerpts_hold_the_whole_first_and_nothing_twice():
    pieces = spam.excerpts(mail("spam-1/0", "Free", "money " * 30))
    assert pieces[0].startswith("free\n\nmoney")
    assert len(pieces) == len(set(pieces)) > 3
    assert spam.excerpts(mail("spam-1/0", "Hi", "")) == ["hi"]


def test_training_gives_weights_that_say_what_scikit_learn_says_twice_the_same():
    mails = [mail(f"spam-1/{i}", "free money", f"click here for cheap pills {'now ' * i}!") for i in range(8)]
    mails += [
        mail(f"easy-ham-1/{i}", "the kernel", f"my driver crashed {'again ' * i}today") for i in range(8)
    ]
    pipeline = spam.train(mails)
    weights = spam.weights_of(pipeline)
    assert spam.disagreement(weights, pipeline, [m.text for m in mails]) < 0.001
    assert spam.evaluate(weights, mails, lambda m: m.text).accuracy == 1
    assert spam.weights_of(spam.train(mails)).write() == weights.write()


def test_help_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as stop:
        spam.main(["--help"])
    assert stop.value.code == 0
    assert "--cache DIR" in capsys.readouterr().out
