// The linear systems of Newton's method for entropic transport: few entries of the plan, full row and column sums.
#pragma once

#include <cstdint>

namespace mk {

enum class NewtonMethod : int { automatic, conjugate_gradients, direct };

// A z = rhs for A = [[diag(row_sums), S], [S^T, diag(col_sums)]], the diagonal times 1 + 1e-9. S (n, m) by rows: entries
// start[i] .. start[i + 1] lie in `column`, at most once each. A row or column whose sum is 0 takes no part: its z is 0.
struct NewtonSystem {
  int64_t n, m;
  const int64_t* start;   // (n + 1,)
  const int32_t* column;  // (entries,)
  const double* value;    // (entries,)
  const double *row_sums, *col_sums, *rhs_rows, *rhs_cols;
  double *out_rows, *out_cols;
  double tol;        // of the residual relative to the right side, both divided by the root of the diagonal
  int64_t max_iter;  // of conjugate gradients
  NewtonMethod method;
  void (*poll)();  // called now and then on this thread; may throw; or null
};

enum class NewtonEnd : int { conjugate_gradients, direct, too_much_fill };

struct NewtonOutcome {
  int64_t iterations;  // of conjugate gradients
  double residual;
  NewtonEnd end;  // too_much_fill: `direct` leaves z at 0, `automatic` has gone on with conjugate gradients
};

// Conjugate gradients on the Schur complement of the longer side: the same answers in half the steps. `automatic` factorises
// A instead once they pass 250 steps and S has less than 20 (n + m) entries. Bits do not depend on the number of threads.
NewtonOutcome newton_solve(const NewtonSystem& system);

}  // namespace mk
