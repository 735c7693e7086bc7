"""Permutations that are computed place by place, so that an epoch's order is never written down.

They do not depend on torch's generators, and so not on its version.

Reference:
  Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002: the generalized Feistel cipher and cycle walking.
  Mitchell et al., "Bandwidth-Optimal Random Shuffling for GPUs", 2022, shuffle with such ciphers.
"""

from hashlib import blake2b
from math import isqrt

import torch
from torch import Tensor

BLOCK = 4096
"""So many positions are best computed at once: they fit the first cache."""

_ROUNDS = 8  # of the cipher; its halves have at least 64 values
_LOW_31 = 2**31 - 1


def round_keys(seed: int, epoch: int) -> list[int]:
    """The keys of an epoch's permutation."""
    digest = blake2b(f"order {seed} {epoch}".encode(), digest_size=4 * _ROUNDS).digest()
    return [int.from_bytes(digest[i : i + 4], "little") & _LOW_31 for i in range(0, 4 * _ROUNDS, 4)]


def permuted(positions: Tensor, n: int, keys: list[int]) -> Tensor:
    """Where a permutation of 0..n-1 takes these.

    Args:
      positions: int64, each in 0..n-1.
      n: 1 or more, up to 2**62: so all products are below 2**63.
      keys: what `round_keys` gave.

    Example:
      >>> permuted(torch.arange(6), 6, round_keys(0, 0)).tolist()
      [1, 4, 3, 2, 5, 0]
    """
    if n <= BLOCK:  # all at once; so few would also take a cipher more rounds to be shuffled evenly
        ranks = torch.arange(n)
        for key in keys[:4]:
            ranks = _mixed(ranks, key)
        return ranks.argsort(stable=True)[positions]
    a = isqrt(n - 1) + 1
    sizes = (a, -(-n // a))  # a grid of a * b >= n places, fewer than a too many
    places = _enciphered(positions, sizes, keys)
    while len(outside := (places >= n).nonzero().flatten()):  # walk on along the cycle until inside
        places[outside] = _enciphered(places[outside], sizes, keys)
    return places


def _enciphered(x: Tensor, sizes: tuple[int, int], keys: list[int]) -> Tensor:
    high = x.div(sizes[0], rounding_mode="floor")
    halves = [x - high * sizes[0], high]
    for i, key in enumerate(keys):
        side = i % 2
        size, half = sizes[side], halves[side]
        half.add_(_mixed(halves[1 - side], key).mul_(size).bitwise_right_shift_(31)).sub_(size)
        half.add_((half >> 63) & size)  # back into 0..size-1, at a fifth of the cost of a remainder
    return halves[1].mul_(sizes[0]).add_(halves[0])


def _mixed(x: Tensor, key: int) -> Tensor:
    """A keyed hash of 31 bits to 31: two multiplications, folded between so that every bit reaches the highest."""
    mixed = (x ^ key).mul_(0xCC9E2D51)
    mixed.bitwise_xor_(mixed >> 32).bitwise_and_(_LOW_31).mul_(0x9E3779B1)
    return mixed.bitwise_right_shift_(16).bitwise_and_(_LOW_31)  # the highest bits of a product are not uniform
