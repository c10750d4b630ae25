// Bindings of the linear systems of Newton's method, of the CPU module only. Included by core_module.cpp.
#pragma once

#include "bindings.hpp"
#include "newton_system.hpp"

namespace mk {
namespace cpu {

inline void bind_newton(nb::module_& m, void (*poll)()) {
  m.def(
      "newton_solve",
      [poll](HostIn<int64_t> start, HostIn<int32_t> column, HostIn<double> value, HostIn<double> row_sums,
             HostIn<double> col_sums, HostIn<double> rhs_rows, HostIn<double> rhs_cols, Out<double> out_rows,
             Out<double> out_cols, double tol, int64_t max_iter, const std::string& method) {
        const int64_t n = size_of(row_sums), cols = size_of(col_sums), entries = size_of(column);
        require(n + cols < (int64_t{1} << 31) && size_of(start) == n + 1 && size_of(value) == entries &&
                    size_of(rhs_rows) == n && size_of(rhs_cols) == cols && size_of(out_rows) == n &&
                    size_of(out_cols) == cols,
                "newton_solve: sizes differ");
        const int64_t* at = start.data();
        require(at[0] == 0 && at[n] == entries, "start: bad ends");
        for (int64_t i = 0; i < n; ++i) require(at[i] <= at[i + 1], "start: expected a non-decreasing array");
        for (int64_t e = 0; e < entries; ++e)
          require(column.data()[e] >= 0 && column.data()[e] < cols, "column: out of range");
        const bool cg = method == "cg", direct = method == "direct";
        require(cg || direct || method == "auto", "method: expected 'cg', 'direct' or 'auto'");
        NewtonSystem system{n,
                            cols,
                            at,
                            column.data(),
                            value.data(),
                            row_sums.data(),
                            col_sums.data(),
                            rhs_rows.data(),
                            rhs_cols.data(),
                            out_rows.data(),
                            out_cols.data(),
                            tol,
                            max_iter,
                            cg       ? NewtonMethod::conjugate_gradients
                            : direct ? NewtonMethod::direct
                                     : NewtonMethod::automatic,
                            poll};
        NewtonOutcome outcome;
        {
          nb::gil_scoped_release release;
          outcome = newton_solve(system);
        }
        const char* how = outcome.end == NewtonEnd::direct          ? "direct"
                          : outcome.end == NewtonEnd::too_much_fill ? "fill"
                                                                    : "cg";
        return std::make_tuple(outcome.iterations, outcome.residual, std::string(how));
      },
      "start"_a.noconvert(), "column"_a.noconvert(), "value"_a.noconvert(), "row_sums"_a.noconvert(),
      "col_sums"_a.noconvert(), "rhs_rows"_a.noconvert(), "rhs_cols"_a.noconvert(), "out_rows"_a.noconvert(),
      "out_cols"_a.noconvert(), "tol"_a, "max_iter"_a, "method"_a);
}

}  // namespace cpu
}  // namespace mk
