// One thread pool for all CPU executors. Results never depend on the number of threads: work is cut into chunks by the
// problem's size alone, and chunks write to disjoint places.
#pragma once

#include <cstdint>
#include <functional>

namespace mk {

// Calls body(first, last) for consecutive ranges of at most `grain` that cover [0, n). The caller works too and runs
// `poll` about every 50 ms; an exception from body or poll stops the job and is rethrown here.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

// Called on the thread that called parallel_for, between chunks. May throw (that is how Ctrl-C gets out).
void set_poll(void (*poll)());

// For chunks that may take longer than 50 ms: call it inside the body now and then. Polls on the thread that called
// parallel_for, and throws on every thread once the job was stopped.
void poll_inside_chunk();

int num_threads();
void set_num_threads(int n);  // throws std::invalid_argument unless n >= 1
int default_num_threads();    // MCKEAN_NUM_THREADS, else the cores this process may use

}  // namespace mk
