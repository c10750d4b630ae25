#include "pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace mk {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto poll_period = std::chrono::milliseconds(50);

std::atomic<void (*)()> poll_function{nullptr};

void poll_if_due(Clock::time_point& last) {
  auto now = Clock::now();
  if (now - last < poll_period) return;
  last = now;
  if (auto poll = poll_function.load(std::memory_order_relaxed)) poll();
}

struct Job {
  int64_t n, grain;
  const std::function<void(int64_t, int64_t)>* body;
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex error_mutex;
  std::exception_ptr error;

  bool claim(int64_t& first, int64_t& last) {
    if (stop.load(std::memory_order_relaxed)) return false;
    first = next.fetch_add(grain, std::memory_order_relaxed);
    if (first >= n) return false;
    last = std::min(n, first + grain);
    return true;
  }
  void fail() {
    std::lock_guard<std::mutex> lock(error_mutex);
    if (!error) error = std::current_exception();
    stop.store(true, std::memory_order_relaxed);
  }
  void work();  // a worker's share
};

// What poll_inside_chunk needs to know of the thread it is called on.
struct Stopped {};
struct Inside {
  Job* job = nullptr;
  bool caller = false;
  Clock::time_point last_poll;
};
thread_local Inside inside;

struct InsideScope {
  Inside outer = inside;
  InsideScope(Job& job, bool caller) { inside = {&job, caller, Clock::now()}; }
  ~InsideScope() { inside = outer; }
};

void Job::work() {
  InsideScope scope(*this, false);
  int64_t first, last;
  while (claim(first, last)) {
    try {
      (*body)(first, last);
    } catch (const Stopped&) {  // the reason is already on record
    } catch (...) {
      fail();
    }
  }
}

class Pool {
 public:
  // With fewer workers where the system gives no more threads.
  explicit Pool(int workers) : wanted(workers) {
    try {
      for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { loop(); });
    } catch (const std::system_error&) {
    }
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      quit_ = true;
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }
  const int wanted;

  void run(Job& job, int helpers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      seats_ = helpers;
      ++generation_;
    }
    if (helpers == 1)
      wake_.notify_one();
    else
      wake_.notify_all();
    InsideScope scope(job, true);
    auto& last_poll = inside.last_poll;
    int64_t first, last;
    while (job.claim(first, last)) {
      try {
        (*job.body)(first, last);
        poll_if_due(last_poll);
      } catch (const Stopped&) {
      } catch (...) {
        job.fail();
      }
    }
    // Clear the job before waiting, so that a worker that wakes late finds nothing; then wait for the busy ones.
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;
    while (busy_ > 0) {
      if (idle_.wait_for(lock, poll_period) == std::cv_status::timeout && busy_ > 0) {
        lock.unlock();
        try {
          poll_if_due(last_poll);
        } catch (...) {
          job.fail();
        }
        lock.lock();
      }
    }
  }

 private:
  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    uint64_t seen = 0;
    for (;;) {
      wake_.wait(lock, [&] { return quit_ || (job_ && seats_ > 0 && generation_ != seen); });
      if (quit_) return;
      seen = generation_;
      --seats_;
      ++busy_;
      Job* job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--busy_ == 0) idle_.notify_all();
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  Job* job_ = nullptr;
  int seats_ = 0, busy_ = 0;
  uint64_t generation_ = 0;
  bool quit_ = false;
};

std::atomic<int> thread_count{0};  // 0: not asked yet

// One job at a time owns the pool; who finds it taken runs its job alone. Both are replaced, never destroyed, in the
// child of a fork: the threads are gone there and the mutex may be held by one of them. Leaked at exit on purpose, so
// that no worker outlives the objects it uses.
std::mutex* pool_mutex = new std::mutex;
Pool* pool = nullptr;

void forget_pool_in_child() {
  pool_mutex = new std::mutex;
  pool = nullptr;
}
const int fork_handler = pthread_atfork(nullptr, nullptr, forget_pool_in_child);

void run_alone(Job& job) {
  InsideScope scope(job, true);
  int64_t first, last;
  while (job.claim(first, last)) {
    (*job.body)(first, last);
    poll_if_due(inside.last_poll);
  }
}

}  // namespace

void poll_inside_chunk() {
  if (!inside.job) return;
  if (inside.job->stop.load(std::memory_order_relaxed)) throw Stopped{};
  if (inside.caller) poll_if_due(inside.last_poll);
}

void set_poll(void (*poll)()) { poll_function.store(poll, std::memory_order_relaxed); }

int default_num_threads() {
  if (const char* text = std::getenv("MCKEAN_NUM_THREADS")) {
    char* end = nullptr;
    long n = std::strtol(text, &end, 10);
    if (end != text && *end == '\0' && n >= 1 && n <= 4096) return static_cast<int>(n);
  }
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

int num_threads() {
  int n = thread_count.load(std::memory_order_relaxed);
  if (n == 0) thread_count.store(n = default_num_threads(), std::memory_order_relaxed);
  return n;
}

void set_num_threads(int n) {
  if (n < 1 || n > 4096) throw std::invalid_argument("n: expected 1 to 4096 threads, got " + std::to_string(n));
  thread_count.store(n, std::memory_order_relaxed);
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  (void)fork_handler;
  if (n <= 0) return;
  Job job;
  job.n = n;
  job.grain = std::max<int64_t>(1, grain);
  job.body = &body;
  int64_t chunks = (n + job.grain - 1) / job.grain;
  int threads = static_cast<int>(std::min<int64_t>(num_threads(), chunks));
  std::unique_lock<std::mutex> lock(*pool_mutex, std::defer_lock);
  // A job started from inside another one (a signal handler that calls us) runs alone: this thread may hold the lock.
  if (threads > 1 && !inside.job && lock.try_lock()) {
    if (!pool || pool->wanted != num_threads() - 1) {
      delete pool;
      pool = nullptr;
      pool = new Pool(num_threads() - 1);
    }
    pool->run(job, threads - 1);
    if (job.error) std::rethrow_exception(job.error);
  } else {
    run_alone(job);
  }
}

}  // namespace mk
