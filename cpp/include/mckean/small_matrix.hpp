// Cholesky factors and eigenvectors of small positive semi-definite matrices, V one number or a register of them (one matrix a lane).
#pragma once

#include "mckean/math.hpp"

namespace mk {

// The lower factor of g (k, k) in place of its lower triangle; returns the smallest pivot met (at most 0 or NaN: it failed).
template <class V>
MK_HD V cholesky(V* g, int k) {
  V least = g[0];
  for (int j = 0; j < k; ++j) {
    V pivot = g[j * k + j];
    for (int l = 0; l < j; ++l) pivot = pivot - g[j * k + l] * g[j * k + l];
    least = pivot > least ? least : pivot;  // a NaN stays
    V root = Ops<V>::sqrt(pivot), inverse = Ops<V>::constant(1) / root;
    g[j * k + j] = root;
    for (int i = j + 1; i < k; ++i) {
      V sum = g[i * k + j];
      for (int l = 0; l < j; ++l) sum = sum - g[i * k + l] * g[j * k + l];
      g[i * k + j] = sum * inverse;
    }
  }
  return least;
}

// x <- (L L^T)^-1 x
template <class V>
MK_HD void cholesky_solve(const V* g, int k, V* x) {
  for (int i = 0; i < k; ++i) {
    V sum = x[i];
    for (int l = 0; l < i; ++l) sum = sum - g[i * k + l] * x[l];
    x[i] = sum / g[i * k + i];
  }
  for (int i = k - 1; i >= 0; --i) {
    V sum = x[i];
    for (int l = i + 1; l < k; ++l) sum = sum - g[l * k + i] * x[l];
    x[i] = sum / g[i * k + i];
  }
}

constexpr int jacobi_sweeps = 30;
// Squared cosines below this count as 0, and so do squared lengths relative to the largest of g.
constexpr double jacobi_cosine = 1e-29, jacobi_length = 1e-33;

// Eigenvectors of a positive semi-definite g (k, k; both triangles given) by Jacobi's rotations of its columns, which end
// orthogonal, as long as the eigenvalues: on return the diagonal of g holds these, unsorted, and the columns of q (k, k) the
// vectors, 0 where the eigenvalue is 0 to rounding. any(x): whether x is not 0 in any lane; a lane that is done is left alone,
// so that its bits do not depend on the others.
template <class V, class Any>
MK_HD void gram_eigen(V* g, V* q, int k, Any any) {
  const V zero = Ops<V>::constant(0), one = Ops<V>::constant(1), half = Ops<V>::constant(0.5);
  V most = zero;
  for (int i = 0; i < k; ++i) most = g[i * k + i] > most ? g[i * k + i] : most;
  V scale = most > zero ? one / (most > zero ? most : one) : zero;
  for (int i = 0; i < k * k; ++i) q[i] = g[i] * scale;  // row j: column j
  const int n = k + k % 2;
  for (int sweep = 0; sweep < jacobi_sweeps; ++sweep) {
    V rotated = zero;
    // A tournament: the pairs of a round have no column in common, and can be worked on at the same time.
    for (int round = 0; round < n - 1; ++round)
      for (int i = 0; i < n / 2; ++i) {
        int p = i == 0 ? n - 1 : (round + i) % (n - 1), r = (round + n - 1 - i) % (n - 1);
        if (p >= k || r >= k) continue;
        V *x = q + p * k, *y = q + r * k;
        V xx = zero, xy = zero, yy = zero;
        for (int e = 0; e < k; ++e) {
          V u = x[e], w = y[e];
          xx = xx + u * u;
          xy = xy + u * w;
          yy = yy + w * w;
        }
        V least = xx < yy ? xx : yy;
        V turn = xy * xy > Ops<V>::constant(jacobi_cosine) * (xx * yy) ? one : zero;
        turn = least > Ops<V>::constant(jacobi_length) ? turn : zero;
        rotated = rotated + turn;
        // tan of the angle: xy / (h + sign(h) sqrt(h^2 + xy^2)), the smaller of both
        V h = (yy - xx) * half, root = Ops<V>::sqrt(h * h + xy * xy);
        V bottom = h < zero ? h - root : h + root;
        V t = turn == zero ? zero : xy / (turn == zero ? one : bottom);
        V c = one / Ops<V>::sqrt(one + t * t), s = t * c;
        for (int e = 0; e < k; ++e) {
          V u = x[e], w = y[e];
          x[e] = c * u - s * w;
          y[e] = s * u + c * w;
        }
      }
    if (!any(rotated)) break;
  }
  for (int j = 0; j < k; ++j) {
    V square = zero;
    for (int e = 0; e < k; ++e) square = square + q[j * k + e] * q[j * k + e];
    V length = Ops<V>::sqrt(square);
    V inverse = square > Ops<V>::constant(jacobi_length) ? one / (length > zero ? length : one) : zero;
    for (int e = 0; e < k; ++e) q[j * k + e] = q[j * k + e] * inverse;
    g[j * k + j] = length * most;
  }
  for (int i = 0; i < k; ++i)
    for (int j = 0; j < i; ++j) {
      V u = q[i * k + j];
      q[i * k + j] = q[j * k + i];
      q[j * k + i] = u;
    }
}

}  // namespace mk
