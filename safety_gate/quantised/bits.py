"""Small integers packed into words of 32 bits."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WORD = 32


def unpacked(words: "torch.Tensor", bits: int, count: int) -> "torch.Tensor":
    """Return the first ``count`` integers of each row of words, as a stream from low bits to high.

    Args:
        words: (rows, words) int32; a row is one stream, whose integers may cross words.
        bits: of each integer, 1 to 8.
        count: of integers in a row.

    Returns:
        (rows, count) int32, from 0 to 2**bits - 1.
    """
    import torch

    if WORD % bits == 0:  # no integer crosses words
        shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
        parts = (words[:, :, None] >> shifts).bitwise_and_(2**bits - 1)
        return parts.view(words.shape[0], -1)[:, :count]
    wide = words.long() & 0xFFFFFFFF
    at = torch.arange(count) * bits
    word, shift = at // WORD, at % WORD
    found = wide[:, word] >> shift
    after = torch.clamp(word + 1, max=words.shape[1] - 1)
    crosses = shift + bits > WORD
    found = torch.where(crosses, found | (wide[:, after] << (WORD - shift)), found)
    low: torch.Tensor = found & (2**bits - 1)
    return low.int()


def words_for(count: int, bits: int) -> int:
    """Return the words that so many integers take."""
    return -(-count * bits // WORD)
