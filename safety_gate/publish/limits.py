"""What GitHub takes, as its API and its runner enforce it; lengths are measured in UTF-8 bytes.

GitHub counts characters, and does not say of which kind. No count of a text is larger than that
of its bytes, so what fits in bytes fits in every reading of the limit.
"""

COMMENT = 65_536  # 422 "Body is too long" beyond
SUMMARY = 1_048_576  # the runner drops the whole job summary beyond
CHECK_TEXT = 65_535  # summary or text of a check run
CHECK_TITLE = 255
CHECK_MESSAGE = 65_536  # one annotation of a check run
ANNOTATIONS_PER_CALL = 50
ANNOTATIONS_PER_KIND = 10  # per step; the runner drops further errors, warnings or notices
STATUS_DESCRIPTION = 140
OUTPUT = 1_048_576  # one output of a step
SARIF_GZIP = 10_000_000  # "10 MB", read as the smaller of its two meanings
SARIF_RESULTS = 25_000  # per run; 5,000 are shown
ADDRESS = 2048  # target_url and details_url

# Left free, so that a limit that counts a little differently than we do still holds.
HEADROOM = 536


def size(text: str) -> int:
    """Return the length in bytes; half a surrogate pair counts as the sign that replaces it."""
    return len(text.encode("utf-8", "replace"))


def fits(text: str, limit: int) -> bool:
    """Tell whether a text stays under a limit, with headroom where there is room for it."""
    return size(text) <= (limit - HEADROOM if limit > 10 * HEADROOM else limit)


def clipped(text: str, limit: int) -> str:
    """Shorten plain words to ``limit`` bytes, at a blank; never used on Markdown."""
    if size(text) <= limit:
        return text
    end = " ..."
    kept = text.encode("utf-8", "replace")[: limit - len(end)].decode("utf-8", "ignore")
    whole, blank, _ = kept.rpartition(" ")
    return (whole if blank else kept) + end
