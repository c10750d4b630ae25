"""Philox, uniforms and normals in plain NumPy, written from the published description and from docs/numbers.md."""

import numpy as np

MASK = np.uint64(0xFFFFFFFF)
TAG_UNIFORM, TAG_NORMAL, TAG_STREAM = 4, 5, 6


def philox(counter, key):
    """Four words per counter; counter: four integer arrays, key: two ints."""
    c = [np.asarray(x, np.uint64) & MASK for x in counter]
    k0, k1 = (int(x) for x in key)
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            p1 & MASK,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            p0 & MASK,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def stream_key(seed, stream):
    words = philox(
        (stream & 0xFFFFFFFF, stream >> 32, 0, TAG_STREAM << 28), (seed & 0xFFFFFFFF, seed >> 32)
    )
    return int(words[0]), int(words[1])


def stream_words(index, per_block, seed, stream, counter, tag):
    """The words of the block that holds each number, and which number of the block it is."""
    index = np.asarray(index, np.uint64)
    size = np.uint64(16 * per_block)
    group, within = index // size, index % size
    block = group * np.uint64(16) + within % np.uint64(16)
    words = philox(
        (
            block & MASK,
            block >> np.uint64(32),
            np.full_like(block, counter & 0xFFFFFFFF),
            np.full_like(block, (counter >> 32) | (tag << 28)),
        ),
        stream_key(seed, stream),
    )
    return words, (within // np.uint64(16)).astype(int)


def pair(u, angle):
    rho = np.sqrt(-2 * np.log(u))
    return rho * np.cos(angle), rho * np.sin(angle)


def angle_of(b):
    return np.asarray(b, np.float64) * (2 * np.pi / 2**32)


def narrow_pair(a, b):
    return pair((np.asarray(a, np.float64) + 0.5) / 2**32, angle_of(b))


def normal(seed, n, dtype, stream=0, counter=0):
    if dtype == "float32":
        w, j = stream_words(np.arange(n), 4, seed, stream, counter, TAG_NORMAL)
        z = np.stack(narrow_pair(w[0], w[1]) + narrow_pair(w[2], w[3]))
    else:
        w, j = stream_words(np.arange(n), 2, seed, stream, counter, TAG_NORMAL)
        w = [x.astype(np.float64) for x in w]
        z = np.stack(
            pair((w[0] * 2**32 + w[1] + 0.5) / 2**64, angle_of(w[2] + (w[3] + 0.5) / 2**32))
        )
    return z[j, np.arange(n)]


def uniform(seed, n, dtype, stream=0, counter=0):
    if dtype == "float32":
        w, j = stream_words(np.arange(n), 4, seed, stream, counter, TAG_UNIFORM)
        u = np.stack([(x >> np.uint64(8)).astype(np.float64) / 2**24 for x in w])
    else:
        w, j = stream_words(np.arange(n), 2, seed, stream, counter, TAG_UNIFORM)
        u = np.stack(
            [
                (w[i] * np.uint64(2**21) + (w[i + 1] >> np.uint64(11))).astype(np.float64) / 2**53
                for i in (0, 2)
            ]
        )
    return u[j, np.arange(n)]
