// Bindings of the selection family, of the CPU module only. Included by core_module.cpp.
#pragma once

#include "bindings.hpp"
#include "mckean/selection.hpp"

namespace mk {
namespace cpu {

template <class T>
PamState<T> pam_state(Out<int32_t>& nearest, Out<int32_t>& second, Out<T>& near, Out<T>& far, int64_t k) {
  int64_t n = size_of(nearest);
  require(k >= 1 && size_of(second) == n && size_of(near) == n && size_of(far) == n, "pam: sizes differ");
  return {n, k, nearest.data(), second.data(), near.data(), far.data()};
}

template <class T>
void bind_selection_type(nb::module_& m) {
  m.def(
      "halve",
      [](In<T> gram, Out<double> sums, In<double> uniforms, double log_term, double variance, Out<uint8_t> right) {
        int64_t n = size_of(sums);
        require(n % 2 == 0 && size_of(gram) == n * n && size_of(uniforms) == n / 2 && size_of(right) == n / 2,
                "halve: sizes differ");
        HalveArgs<T> a{n, gram.data(), sums.data(), uniforms.data(), log_term, variance, right.data(), false};
        nb::gil_scoped_release release;
        halve<T>(a);
        return std::make_tuple(a.variance, a.indefinite);
      },
      "gram"_a.noconvert(), "sums"_a.noconvert(), "uniforms"_a.noconvert(), "log_term"_a, "variance"_a,
      "right"_a.noconvert());
  m.def(
      "halve_tree",
      [](In<T> gram, In<double> uniforms, In<double> log_terms, Out<int64_t> order) {
        int64_t n = size_of(order), levels = size_of(log_terms);
        require(uniforms.ndim() == 2, "uniforms: expected shape (levels, n / 2)");
        int64_t stride = static_cast<int64_t>(uniforms.shape(1));
        require(levels < 62 && n % (int64_t{1} << levels) == 0 && size_of(gram) == n * n &&
                    static_cast<int64_t>(uniforms.shape(0)) == levels && (stride >= n / 2 || levels == 0),
                "halve_tree: sizes differ");
        nb::gil_scoped_release release;
        return halve_tree<T>(n, gram.data(), static_cast<int>(levels), uniforms.data(), stride, log_terms.data(),
                             order.data());
      },
      "gram"_a.noconvert(), "uniforms"_a.noconvert(), "log_terms"_a.noconvert(), "order"_a.noconvert());
  m.def(
      "best_replacement",
      [](In<double> core, In<T> old_row, In<double> offset, std::optional<In<uint8_t>> barred, double scale) {
        int64_t n = size_of(core);
        require(size_of(old_row) == n && size_of(offset) == n && (!barred || size_of(*barred) == n),
                "best_replacement: sizes differ");
        const uint8_t* bar = barred ? barred->data() : nullptr;
        nb::gil_scoped_release release;
        return best_replacement<T>(n, core.data(), old_row.data(), offset.data(), bar, scale);
      },
      "core"_a.noconvert(), "old_row"_a.noconvert(), "offset"_a.noconvert(), "barred"_a.noconvert().none(), "scale"_a);

  m.def(
      "distances",
      [](int metric, In<T> points, In<T> columns, Out<T> out) {
        require(points.ndim() == 2 && columns.ndim() == 2 && metric >= 0 && metric <= 2, "distances: bad arguments");
        DistanceArgs<T> a{static_cast<Metric>(metric),
                          static_cast<int64_t>(points.shape(0)),
                          static_cast<int64_t>(columns.shape(1)),
                          static_cast<int64_t>(points.shape(1)),
                          points.data(),
                          columns.data(),
                          out.data()};
        require(static_cast<int64_t>(columns.shape(0)) == a.dim && size_of(out) == a.rows * a.cols,
                "distances: sizes differ");
        nb::gil_scoped_release release;
        distances<T>(a);
      },
      "metric"_a, "points"_a.noconvert(), "columns"_a.noconvert(), "out"_a.noconvert());
  m.def(
      "pam_offer",
      [](Out<int32_t> nearest, Out<int32_t> second, Out<T> near, Out<T> far, int64_t k, In<T> row, int32_t slot,
         int64_t point) {
        PamState<T> s = pam_state<T>(nearest, second, near, far, k);
        require(size_of(row) == s.n && slot >= 0 && slot < k, "pam_offer: sizes differ");
        nb::gil_scoped_release release;
        pam_offer<T>(s, row.data(), slot, point);
      },
      "nearest"_a.noconvert(), "second"_a.noconvert(), "near"_a.noconvert(), "far"_a.noconvert(), "k"_a,
      "row"_a.noconvert(), "slot"_a, "point"_a);
  m.def(
      "pam_totals",
      [](Out<int32_t> nearest, Out<int32_t> second, Out<T> near, Out<T> far, Out<double> removal) {
        PamState<T> s = pam_state<T>(nearest, second, near, far, size_of(removal));
        nb::gil_scoped_release release;
        PamTotals totals = pam_totals<T>(s, removal.data());
        return std::make_tuple(totals.near, totals.far);
      },
      "nearest"_a.noconvert(), "second"_a.noconvert(), "near"_a.noconvert(), "far"_a.noconvert(),
      "removal"_a.noconvert());
  m.def(
      "pam_changes",
      [](Out<int32_t> nearest, Out<int32_t> second, Out<T> near, Out<T> far, In<double> removal, In<uint8_t> is_medoid,
         int64_t first, In<T> rows, Out<double> change, Out<int32_t> slot) {
        PamState<T> s = pam_state<T>(nearest, second, near, far, size_of(removal));
        int64_t count = size_of(change);
        require(size_of(rows) == count * s.n && size_of(slot) == count && first >= 0 && first + count <= s.n &&
                    size_of(is_medoid) == s.n,
                "pam_changes: sizes differ");
        nb::gil_scoped_release release;
        pam_changes<T>(s, removal.data(), is_medoid.data(), first, count, rows.data(), change.data(), slot.data());
      },
      "nearest"_a.noconvert(), "second"_a.noconvert(), "near"_a.noconvert(), "far"_a.noconvert(),
      "removal"_a.noconvert(), "is_medoid"_a.noconvert(), "first"_a, "rows"_a.noconvert(), "change"_a.noconvert(),
      "slot"_a.noconvert());
  m.def(
      "pam_first",
      [](Out<int32_t> nearest, Out<int32_t> second, Out<T> near, Out<T> far, In<double> removal, In<uint8_t> is_medoid,
         int64_t first, In<T> rows, double bound) {
        PamState<T> s = pam_state<T>(nearest, second, near, far, size_of(removal));
        require(rows.ndim() == 2 && static_cast<int64_t>(rows.shape(1)) == s.n, "rows: expected shape (count, n)");
        int64_t count = static_cast<int64_t>(rows.shape(0));
        require(first >= 0 && first + count <= s.n && size_of(is_medoid) == s.n, "pam_first: sizes differ");
        double change = 0;
        int32_t slot = -1;
        nb::gil_scoped_release release;
        int64_t found =
            pam_first<T>(s, removal.data(), is_medoid.data(), first, count, rows.data(), bound, &change, &slot);
        return std::make_tuple(found, change, slot);
      },
      "nearest"_a.noconvert(), "second"_a.noconvert(), "near"_a.noconvert(), "far"_a.noconvert(),
      "removal"_a.noconvert(), "is_medoid"_a.noconvert(), "first"_a, "rows"_a.noconvert(), "bound"_a);
  m.def(
      "pam_swap",
      [](Out<int32_t> nearest, Out<int32_t> second, Out<T> near, Out<T> far, int64_t k, In<T> row, int32_t slot,
         int64_t point, Out<int64_t> search) {
        PamState<T> s = pam_state<T>(nearest, second, near, far, k);
        require(size_of(row) == s.n && size_of(search) == s.n && slot >= 0 && slot < k, "pam_swap: sizes differ");
        nb::gil_scoped_release release;
        return pam_swap<T>(s, row.data(), slot, point, search.data());
      },
      "nearest"_a.noconvert(), "second"_a.noconvert(), "near"_a.noconvert(), "far"_a.noconvert(), "k"_a,
      "row"_a.noconvert(), "slot"_a, "point"_a, "search"_a.noconvert());
  m.def(
      "pam_search",
      [](Out<int32_t> nearest, Out<int32_t> second, Out<T> near, Out<T> far, int64_t k, In<int64_t> search,
         In<T> to_medoids) {
        PamState<T> s = pam_state<T>(nearest, second, near, far, k);
        int64_t count = size_of(search);
        require(size_of(to_medoids) == count * k, "pam_search: sizes differ");
        for (int64_t i = 0; i < count; ++i)
          require(search.data()[i] >= 0 && search.data()[i] < s.n, "search: out of range");
        nb::gil_scoped_release release;
        pam_search<T>(s, search.data(), count, to_medoids.data());
      },
      "nearest"_a.noconvert(), "second"_a.noconvert(), "near"_a.noconvert(), "far"_a.noconvert(), "k"_a,
      "search"_a.noconvert(), "to_medoids"_a.noconvert());
  m.def(
      "pam_gains",
      [](In<T> rows, std::optional<In<T>> near, Out<double> gain) {
        require(rows.ndim() == 2, "rows: expected shape (count, n)");
        int64_t count = static_cast<int64_t>(rows.shape(0)), n = static_cast<int64_t>(rows.shape(1));
        require(size_of(gain) == count && (!near || size_of(*near) == n), "pam_gains: sizes differ");
        const T* from = near ? near->data() : nullptr;
        nb::gil_scoped_release release;
        pam_gains<T>(n, count, rows.data(), from, gain.data());
      },
      "rows"_a.noconvert(), "near"_a.noconvert().none(), "gain"_a.noconvert());
}

// start (n + 1,) non-decreasing, opponents in 0 .. n - 1: checked here, because the loops trust them.
inline Comparisons comparisons(const In<int64_t>& start, const In<int64_t>& opponents, const In<double>& wins,
                               const In<double>& losses) {
  int64_t n = size_of(start) - 1, pairs = size_of(opponents);
  require(n >= 0 && size_of(wins) == pairs && size_of(losses) == pairs, "comparisons: sizes differ");
  const int64_t *at = start.data(), *other = opponents.data();
  require(at[0] == 0 && at[n] == pairs, "start: bad ends");
  for (int64_t i = 0; i < n; ++i) require(at[i] <= at[i + 1], "start: expected a non-decreasing array");
  for (int64_t e = 0; e < pairs; ++e) require(other[e] >= 0 && other[e] < n, "opponents: out of range");
  return {n, at, other, wins.data(), losses.data()};
}

inline void bind_selection(nb::module_& m) {
  bind_selection_type<float>(m);
  bind_selection_type<double>(m);
  m.def(
      "bradley_terry",
      [](In<int64_t> start, In<int64_t> opponents, In<double> wins, In<double> losses, bool zermelo, double prior,
         double tol, int64_t max_iter, Out<double> strengths) {
        Comparisons games = comparisons(start, opponents, wins, losses);
        require(size_of(strengths) == games.n, "strengths: sizes differ");
        nb::gil_scoped_release release;
        return bradley_terry(games, zermelo, prior, tol, max_iter, strengths.data());
      },
      "start"_a.noconvert(), "opponents"_a.noconvert(), "wins"_a.noconvert(), "losses"_a.noconvert(), "zermelo"_a,
      "prior"_a, "tol"_a, "max_iter"_a, "strengths"_a.noconvert());
  m.def(
      "unreached",
      [](In<int64_t> start, In<int64_t> opponents, In<double> wins, In<double> losses, bool beats) {
        Comparisons games = comparisons(start, opponents, wins, losses);
        nb::gil_scoped_release release;
        return unreached(games, beats);
      },
      "start"_a.noconvert(), "opponents"_a.noconvert(), "wins"_a.noconvert(), "losses"_a.noconvert(), "beats"_a);
}

}  // namespace cpu
}  // namespace mk
