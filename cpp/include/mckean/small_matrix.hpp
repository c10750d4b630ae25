// Cholesky factors and eigenvectors of small symmetric matrices, V one number or a register of them (one matrix a lane).
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
    least = pivot < least ? pivot : least;
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

constexpr int jacobi_sweeps = 16;
constexpr double jacobi_tolerance = 1e-32;  // of the squares beside the diagonal, relative to those on it

// all_small(off, diagonal): whether every lane has off <= jacobi_tolerance * diagonal. A lane that has is left alone, so that
// its bits do not depend on the others. Jacobi's rotations: on return the diagonal of g (k, k; both triangles given) holds the eigenvalues, unsorted, and the
// columns of q (k, k) the eigenvectors.
template <class V, class Done>
MK_HD void jacobi_eigen(V* g, V* q, int k, Done all_small) {
  const V zero = Ops<V>::constant(0), one = Ops<V>::constant(1), half = Ops<V>::constant(0.5);
  for (int i = 0; i < k; ++i)
    for (int j = 0; j < k; ++j) q[i * k + j] = i == j ? one : zero;
  for (int sweep = 0; sweep < jacobi_sweeps; ++sweep) {
    V off = zero, diagonal = zero;
    for (int i = 0; i < k; ++i) {
      diagonal = diagonal + g[i * k + i] * g[i * k + i];
      for (int j = 0; j < i; ++j) off = off + g[i * k + j] * g[i * k + j];
    }
    if (all_small(off, diagonal)) break;
    V active = off > Ops<V>::constant(jacobi_tolerance) * diagonal ? one : zero;
    for (int p = 0; p < k - 1; ++p)
      for (int r = p + 1; r < k; ++r) {
        V a = g[p * k + r];
        V h = (g[r * k + r] - g[p * k + p]) * half;
        // t = a / (h + sign(h) sqrt(h^2 + a^2)), the smaller root; 0 where a is 0
        V root = Ops<V>::sqrt(h * h + a * a);
        V bottom = h < zero ? h - root : h + root;
        V t = a == zero ? zero : a / (a == zero ? one : bottom);
        t = active == zero ? zero : t;
        V c = one / Ops<V>::sqrt(one + t * t), s = t * c;
        for (int i = 0; i < k; ++i) {
          V x = g[i * k + p], y = g[i * k + r];
          g[i * k + p] = c * x - s * y;
          g[i * k + r] = s * x + c * y;
        }
        for (int i = 0; i < k; ++i) {
          V x = g[p * k + i], y = g[r * k + i];
          g[p * k + i] = c * x - s * y;
          g[r * k + i] = s * x + c * y;
        }
        for (int i = 0; i < k; ++i) {
          V x = q[i * k + p], y = q[i * k + r];
          q[i * k + p] = c * x - s * y;
          q[i * k + r] = s * x + c * y;
        }
      }
  }
}

}  // namespace mk
