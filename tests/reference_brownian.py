"""A Brownian tree in plain NumPy: recursive, float64, from the conditional laws, with numpy's own Cholesky factor."""

import math

import numpy as np
from reference_random import narrow_pair, philox

ROOT, NODE, LEAF = 0, 1, 2


def chen(a, b):
    """Pieces are (h, W, H, K)."""
    if a[0] == 0:
        return b
    if b[0] == 0:
        return a
    p, q = a[0], b[0]
    h = p + q
    d = q * a[1] - p * b[1]
    ha, hb = p * a[2], q * b[2]
    k = p * p * a[3] + q * q * b[3] + (q * ha - p * hb) / 2 + (q - p) / 12 * d
    return h, a[1] + b[1], (ha + hb + d / 2) / h, k / h**2


def rest(whole, a):
    """The piece after `a` inside `whole`."""
    h, p = whole[0], a[0]
    q = h - p
    w = whole[1] - a[1]
    d = q * a[1] - p * w
    ha = p * a[2]
    hb = h * whole[2] - ha - d / 2
    k = h * h * whole[3] - p * p * a[3] - (q * ha - p * hb) / 2 - (q - p) / 12 * d
    return q, w, hb / q, k / q**2


def covariance(x):
    """Of (W, H, K) of the left piece given the cell, per x h."""
    y = 1 - x
    ww = y * ((x - y) ** 4 + 4 * x**2 * y**2)
    wh = -(x**2) * y * (x**2 - 3 * x * y + 6 * y**2) / 2
    wk = x**3 * y * (x - y) / 12
    hh = (1 - x**3 * (x**2 + 2 * x * y + 16 * y**2)) / 12
    hk = -(x**4) * y / 24
    kk = (1 - x**5) / 720
    return np.array([[ww, wh, wk], [wh, hh, hk], [wk, hk, kk]])


class Tree:
    """One lane on [0, 1]; components 1, 2 or 3."""

    def __init__(self, seed, lane, components, depth):
        self.seed, self.lane, self.m, self.depth = seed, lane, components, depth

    def normals(self, node, tag):
        w = philox(
            (
                node & 0xFFFFFFFF,
                node >> 32,
                self.lane & 0xFFFFFFFF,
                (self.lane >> 32) | (tag << 28),
            ),
            (self.seed & 0xFFFFFFFF, self.seed >> 32),
        )
        z1, z2 = narrow_pair(w[0], w[1])
        z3, _ = narrow_pair(w[2], w[3])
        return float(z1), float(z2), float(z3)

    def root(self):
        z = self.normals(0, ROOT)
        return 1.0, z[0], z[1] / math.sqrt(12), z[2] / math.sqrt(720)

    def split(self, node, c):
        h, W, H, K = c
        level = node.bit_length() - 1
        if self.m == 1:
            if level % 2 == 0:
                z = self.normals(node, NODE)[0]
            else:
                z = self.normals(node // 2, NODE)[1 + node % 2]
            e = math.sqrt(h) / 2 * z
            return (h / 2, W / 2 + e, 0.0, 0.0), (h / 2, W / 2 - e, 0.0, 0.0)
        z1, z2, z3 = self.normals(node, NODE)
        d = 1.5 * H + math.sqrt(h) / 4 * z1
        m = H / 4 - math.sqrt(h) / 8 * z1
        if self.m == 2:
            e = math.sqrt(h / 48) * z2
            return (h / 2, W / 2 + d, m + e, 0.0), (h / 2, W / 2 - d, m - e, 0.0)
        e = 15 / 4 * K + math.sqrt(h / 768) * z2
        k = K / 8 - math.sqrt(h / 768) / 2 * z2
        g = math.sqrt(h / 2880) * z3
        return (h / 2, W / 2 + d, m + e, k + g), (h / 2, W / 2 - d, m - e, k - g)

    def left_of(self, c, x, z):
        h, W, H, K = c
        y = 1 - x
        mean = np.array(
            [
                x * W + 6 * x * y * H + 120 * x * y * (0.5 - x) * K,
                x**2 * H + 30 * x**2 * y * K,
                x**3 * K,
            ]
        )
        if self.m == 1:
            return x * h, x * W + math.sqrt(x * y * h) * z[0], 0.0, 0.0
        if self.m == 2:
            D = math.sqrt(x**3 + y**3)
            a = x**2 * math.sqrt(x * y) / (2 * D)
            b = y**3 * math.sqrt(x * y) / (2 * D)
            c_ = math.sqrt(3) * math.sqrt(x) * y**1.5 / (6 * D)
            w = x * W + 6 * x * y * H + math.sqrt(h) * 2 * (a * x + b) * z[0]
            return x * h, w, x**2 * H + math.sqrt(h) * (-a * z[0] + c_ * z[1]), 0.0
        noise = np.linalg.cholesky(x * h * covariance(x)) @ np.array(z)
        return (x * h, *(mean + noise))

    def cut(self, node, c, x):
        z1, z2, z3 = self.normals(node, LEAF)
        if x <= 0.5 or self.m == 1:
            left = self.left_of(c, x, (z1, z2, z3))
            return left, rest(c, left)
        mirrored = (c[0], c[1], -c[2], c[3])
        small = self.left_of(mirrored, 1 - x, (-z1, z2, -z3))
        other = rest(mirrored, small)
        return tuple((p[0], p[1], -p[2], p[3]) for p in (other, small))

    def query(self, s, t):
        """[s, t] with s < t, not both inside one leaf."""
        return self.between(1, 0.0, self.root(), s, t)[1:]

    def between(self, node, start, c, s, t):
        end = start + c[0]
        if s <= start and t >= end:
            return c
        if t <= start or s >= end:
            return 0.0, 0.0, 0.0, 0.0
        if node.bit_length() - 1 == self.depth:
            assert s <= start or t >= end, "both ends in one leaf"
            x = ((s if s > start else t) - start) / c[0]
            left, right = self.cut(node, c, x)
            return right if s > start else left
        left, right = self.split(node, c)
        middle = start + c[0] / 2
        return chen(
            self.between(2 * node, start, left, s, t),
            self.between(2 * node + 1, middle, right, s, t),
        )
