"""Counter-based random numbers: they depend on seed, position, stream and token id alone.

Sampling by argmax(log p + Gumbel noise) with such noise gives the same token whether it was drafted or not
(drafter-invariant speculative decoding; Daliri, Musco, Suresh 2024, arXiv 2408.07978).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

TARGET, DRAFT, ACCEPT, RESAMPLE = range(4)
"""Independent streams of random numbers for one seed and position."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_NP_GOLDEN, _NP_MIX_1, _NP_MIX_2 = np.uint64(_GOLDEN), np.uint64(_MIX_1), np.uint64(_MIX_2)
_FEW_TOKENS = 8
_S30, _S27, _S31, _S11 = (np.uint64(shift) for shift in (30, 27, 31, 11))


def _mix(word: int) -> int:
    # the finalizer of SplitMix64 (Steele, Lea, Flood 2014), on Python ints
    word = ((word ^ (word >> 30)) * _MIX_1) & _MASK
    word = ((word ^ (word >> 27)) * _MIX_2) & _MASK
    return word ^ (word >> 31)


def uniform(seed: int, position: int, stream: int, tokens: Int64s) -> Doubles:
    """Return a uniform number in (0, 1) for each of ``tokens``, (n,) float64."""
    key = _mix(_mix(_mix((seed + _GOLDEN) & _MASK) ^ ((position + 1) & _MASK)) + stream * _GOLDEN & _MASK)
    if len(tokens) <= _FEW_TOKENS:  # for so few, Python is faster than numpy's many calls
        words = [_mix(_mix(((token + 1) * _GOLDEN & _MASK) ^ key)) for token in tokens.tolist()]
        return np.array([(word >> 11) * 2.0**-53 + 2.0**-54 for word in words])
    word = (tokens.astype(np.uint64) + np.uint64(1)) * _NP_GOLDEN
    word ^= np.uint64(key)
    for _ in range(2):  # one round leaves a faint correlation between neighbouring token ids
        word = (word ^ (word >> _S30)) * _NP_MIX_1
        word = (word ^ (word >> _S27)) * _NP_MIX_2
        word ^= word >> _S31
    return (word >> _S11).astype(np.float64) * 2.0**-53 + 2.0**-54


def gumbel(seed: int, position: int, stream: int, tokens: Int64s) -> Doubles:
    """Return standard Gumbel noise for each of ``tokens``, (n,) float64."""
    return -np.log(-np.log(uniform(seed, position, stream, tokens)))
