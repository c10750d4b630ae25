// CUDA executor of the Brownian trees. Every thread walks the tree from the root for its own lane, which needs no memory but
// registers; bound by Philox and one to one and a half Box-Muller pairs a node. The threads of a warp hold neighbouring
// lanes, which with shared times take the same branches.
#include <cmath>
#include <vector>

#include "launch.cuh"
#include "mckean/brownian.hpp"
#include "mckean/fractional.hpp"

namespace mk {
namespace cuda {

// There is no cursor here: a stored cell would cost more to fetch than the walk to it costs to repeat.
struct Cursor {};
Cursor* make_cursor(const TreeArgs&, int) { return nullptr; }
void free_cursor(Cursor*) {}

namespace {

template <class T>
struct TreeOutputs {
  T* out[3];  // null: not wanted
  T scale;    // from the unit interval to the tree's
};

template <class T, int M>
__device__ __forceinline__ void query_into(const TreeArgs& tree, const QueryPlan& q, int64_t lane, int64_t at,
                                           const TreeOutputs<T>& o) {
  uint64_t number = static_cast<uint64_t>(tree.first_lane + lane);
  NoCursor none;
  Piece<T, T> p = tree_query<T, M>(tree.seed, tree.depth, static_cast<uint32_t>(number),
                                   static_cast<uint32_t>(number >> 32), q, none);
  if (o.out[0]) o.out[0][at] = p.W * o.scale;
  if (M >= 2 && o.out[1]) o.out[1][at] = p.H * o.scale;
  if (M == 3 && o.out[2]) o.out[2][at] = p.K * o.scale;
}

template <class T, int M>
__global__ void increment_per_path_kernel(const __grid_constant__ TreeArgs tree, const double* s, const double* t,
                                          const __grid_constant__ TreeOutputs<T> o) {
  int64_t lanes = tree.paths * tree.dim;
  for (int64_t i = first_item(); i < lanes; i += item_stride()) {
    int64_t path = i / tree.dim;
    QueryPlan q = plan_query(leaf_units(s[path], tree.t0, tree.t1, tree.depth),
                             leaf_units(t[path], tree.t0, tree.t1, tree.depth), tree.depth);
    query_into<T, M>(tree, q, i, i, o);
  }
}

// The times of a grid travel as arguments of the launch, this many increments at a time: no copy, no waiting.
constexpr int increments_per_launch = 256;
struct TimesInLeaves {
  double units[increments_per_launch + 1];
};

template <class T, int M>
__global__ void increments_kernel(const __grid_constant__ TreeArgs tree, const __grid_constant__ TimesInLeaves times,
                                  int count, const __grid_constant__ TreeOutputs<T> o) {
  int64_t lanes = tree.paths * tree.dim;
  for (int64_t i = first_item(); i < lanes * count; i += item_stride()) {
    int64_t k = i / lanes;
    QueryPlan q = plan_query(times.units[k], times.units[k + 1], tree.depth);
    query_into<T, M>(tree, q, i - k * lanes, i, o);
  }
}

template <class T>
const T* first_output(const TreeOutputs<T>& o) {
  return o.out[0] ? o.out[0] : o.out[1] ? o.out[1] : o.out[2];
}

template <class T>
TreeOutputs<T> outputs(const TreeArgs& tree, T* W, T* H, T* K) {
  return {{W, tree.components >= 2 ? H : nullptr, tree.components == 3 ? K : nullptr},
          static_cast<T>(std::sqrt(tree.t1 - tree.t0))};
}

template <class T>
void increments(const TreeArgs& tree, const double* ts, int64_t n_times, T* W, T* H, T* K, Queue queue) {
  static_assert(sizeof(TreeArgs) + sizeof(TimesInLeaves) + sizeof(TreeOutputs<T>) + 16 <= max_argument_bytes,
                "does not fit into kernel arguments");
  TreeOutputs<T> o = outputs(tree, W, H, K);
  int64_t lanes = tree.paths * tree.dim;
  if (lanes == 0 || n_times < 2 || !first_output(o)) return;
  OnDevice device(first_output(o));
  auto kernel = tree.components == 1   ? increments_kernel<T, 1>
                : tree.components == 2 ? increments_kernel<T, 2>
                                       : increments_kernel<T, 3>;
  for (int64_t from = 0; from < n_times - 1; from += increments_per_launch) {
    int count =
        static_cast<int>(n_times - 1 - from < increments_per_launch ? n_times - 1 - from : increments_per_launch);
    TimesInLeaves times{};
    for (int k = 0; k <= count; ++k) times.units[k] = leaf_units(ts[from + k], tree.t0, tree.t1, tree.depth);
    TreeOutputs<T> part = o;
    for (T*& out : part.out)
      if (out) out += from * lanes;
    launch("tree_increments", kernel, lanes * count, queue, tree, times, count, part);
  }
}

template <class T>
void increment(const TreeArgs& tree, const double* s, const double* t, bool per_path, T* W, T* H, T* K, Queue queue) {
  if (!per_path) {
    const double ts[2] = {*s, *t};
    return increments(tree, ts, 2, W, H, K, queue);
  }
  TreeOutputs<T> o = outputs(tree, W, H, K);
  int64_t lanes = tree.paths * tree.dim;
  if (lanes == 0 || !first_output(o)) return;
  OnDevice device(first_output(o));
  auto kernel = tree.components == 1   ? increment_per_path_kernel<T, 1>
                : tree.components == 2 ? increment_per_path_kernel<T, 2>
                                       : increment_per_path_kernel<T, 3>;
  launch("tree_increment", kernel, lanes, queue, tree, s, t, o);
}

// ---- fractional -----------------------------------------------------------------------------------------------------

template <class T>
struct StoreRow {
  T* out;
  int64_t row;
  MK_HD void operator()(int64_t k, double value) const { out[k * row] = static_cast<T>(value); }
};
struct NoTick {
  MK_HD void operator()() const {}
};

// The processes of a lane live in local memory; each thread passes over the leaves once, in order.
template <class T>
__global__ void fractional_kernel(const __grid_constant__ FractionalArgs args, const double* ts, int64_t n_times,
                                  const double* partial, T* out) {
  int64_t lanes = args.tree.paths * args.tree.dim;
  for (int64_t i = first_item(); i < lanes; i += item_stride()) {
    uint64_t number = static_cast<uint64_t>(args.tree.first_lane + i);
    fractional_walk<double>(args, static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32), ts, n_times,
                            partial, StoreRow<T>{out + i, lanes}, NoTick{});
  }
}

template <class T>
void fractional(const FractionalArgs& args, const double* ts, int64_t n_times, const double* partial, T* out,
                Queue queue) {
  int64_t lanes = args.tree.paths * args.tree.dim, terms = args.terms;
  if (lanes == 0 || n_times == 0) return;
  OnDevice device(out);
  std::vector<double> tables;
  tables.reserve(static_cast<size_t>(n_times * (1 + terms * 4) + terms * (5 + terms)));
  tables.insert(tables.end(), ts, ts + n_times);
  tables.insert(tables.end(), partial, partial + n_times * terms * 4);
  tables.insert(tables.end(), args.leaf, args.leaf + terms * 4);
  tables.insert(tables.end(), args.weight, args.weight + terms);
  if (args.past) tables.insert(tables.end(), args.past, args.past + terms * terms);
  Upload upload(tables, queue);
  FractionalArgs on_device = args;
  const double* device_ts = upload.data();
  const double* device_partial = device_ts + n_times;
  on_device.leaf = device_partial + n_times * terms * 4;
  on_device.weight = on_device.leaf + terms * 4;
  on_device.past = args.past ? on_device.weight + terms : nullptr;
  launch("fractional_values", fractional_kernel<T>, lanes, queue, on_device, device_ts, n_times, device_partial, out);
}

}  // namespace

template <>
void tree_increment<float>(const TreeArgs& tree, const double* s, const double* t, bool per_path, float* W, float* H,
                           float* K, Cursor*, Queue queue) {
  increment(tree, s, t, per_path, W, H, K, queue);
}
template <>
void tree_increment<double>(const TreeArgs& tree, const double* s, const double* t, bool per_path, double* W, double* H,
                            double* K, Cursor*, Queue queue) {
  increment(tree, s, t, per_path, W, H, K, queue);
}
template <>
void tree_increments<float>(const TreeArgs& tree, const double* ts, int64_t n_times, float* W, float* H, float* K,
                            Queue queue) {
  increments(tree, ts, n_times, W, H, K, queue);
}
template <>
void tree_increments<double>(const TreeArgs& tree, const double* ts, int64_t n_times, double* W, double* H, double* K,
                             Queue queue) {
  increments(tree, ts, n_times, W, H, K, queue);
}
template <>
void fractional_values<float>(const FractionalArgs& args, const double* ts, int64_t n_times, const double* partial,
                              float* out, Queue queue) {
  fractional(args, ts, n_times, partial, out, queue);
}
template <>
void fractional_values<double>(const FractionalArgs& args, const double* ts, int64_t n_times, const double* partial,
                               double* out, Queue queue) {
  fractional(args, ts, n_times, partial, out, queue);
}

}  // namespace cuda
}  // namespace mk
