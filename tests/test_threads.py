"""The thread pool, the environment variables, Ctrl-C and fork."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import mckean as mk
from mckean import _core


def child(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_number_of_threads_is_kept_and_checked():
    before = mk.get_num_threads()
    try:
        mk.set_num_threads(3)
        assert mk.get_num_threads() == 3
    finally:
        mk.set_num_threads(before)
    for bad, error in (
        (0, ValueError),
        (-1, ValueError),
        (1.5, TypeError),
        ("2", TypeError),
        (10**6, ValueError),
    ):
        with pytest.raises(error, match="^n"):
            mk.set_num_threads(bad)
    assert mk.get_num_threads() == before


def test_environment_variables():
    show = "import mckean as mk; i = mk.info(); print(i['threads'], i['simd'])"
    done = child(show, MCKEAN_NUM_THREADS="5", MCKEAN_SIMD="baseline")
    assert done.stdout.split() == ["5", "baseline"], done.stderr
    # Never above what the processor has, and nonsense is ignored.
    best = _core.simd_levels()[-1]
    done = child(show, MCKEAN_NUM_THREADS="many", MCKEAN_SIMD="avx1024")
    assert done.stdout.split()[1] == best, done.stderr


def test_unknown_simd_level():
    with pytest.raises(ValueError, match="^name"):
        _core.set_simd_level("avx1024")


def test_import_is_quick_and_pulls_in_no_framework():
    code = (
        "import sys, time; t = time.perf_counter(); import numpy; t1 = time.perf_counter(); import mckean;"
        "bad = {'torch', 'jax', 'cupy', 'matplotlib', 'arviz', 'sklearn', 'scipy'} & set(sys.modules);"
        "print(sorted(bad))"
    )
    done = child(code)
    assert done.stdout.strip() == "[]", done.stderr + done.stdout


def test_after_fork_the_child_has_a_pool_of_its_own():
    # In a process of its own: forking one in which JAX has threads is not ours to get right.
    code = """
import os
import numpy as np, mckean as mk
mk.set_num_threads(2)
want = mk.random.normal(1, 300_000)
pid = os.fork()
if pid == 0:
    os._exit(0 if np.array_equal(mk.random.normal(1, 300_000), want) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), np.array_equal(mk.random.normal(1, 300_000), want))
"""
    done = child(code)
    assert done.stdout.split() == ["0", "True"], done.stderr


def test_concurrent_callers_get_their_own_results():
    want = [mk.random.normal(i, 200_000) for i in range(8)]
    got = [None] * 8

    def work(i):
        got[i] = mk.random.normal(i, 200_000)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_gets_out_of_a_native_loop(n_threads):
    """A query of many seconds is left within a fraction of it, and the library works on."""
    # A test runner in the background may have SIGINT ignored.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = mk.get_num_threads()
    mk.set_num_threads(n_threads)
    try:
        tree = mk.BrownianTree(1, (200_000, 1), tol=2**-50, levy_area="space-time-time")
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        start = time.perf_counter()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            for k in range(1000):
                tree.increment(0.1 + 0.0001 * k, 0.9)
        assert time.perf_counter() - start < 5.0
        # Interrupted half-way, the cursor must not remember what was never finished.
        fresh = mk.BrownianTree(1, (200_000, 1), tol=2**-50, levy_area="space-time-time")
        np.testing.assert_array_equal(tree.increment(0.2, 0.9).K, fresh.increment(0.2, 0.9).K)
    finally:
        mk.set_num_threads(before)
        signal.signal(signal.SIGINT, previous)
    assert mk.random.normal(1, 10).shape == (10,)


def test_ctrl_c_gets_out_of_one_long_walk():
    """A single native call of many seconds (2^24 leaves) is left soon after the signal."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        path = mk.FractionalBrownianTree(1, (64, 1), hurst=0.3, tol=2.0**-24)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        start = time.perf_counter()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            path.value(1.0)
        assert time.perf_counter() - start < 5.0  # the whole walk takes a minute
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_shortage_of_threads_is_survived():
    if "san" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("sanitizers need more address space than the limit leaves")
    code = """
import resource
import numpy as np, mckean as mk
want = mk.random.normal(1, 300_000)
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, before[1]))
mk.set_num_threads(4000)
got = mk.random.normal(1, 300_000)
resource.setrlimit(resource.RLIMIT_AS, before)  # the threads may have left too little for the comparison
print(np.array_equal(got, want))
"""
    done = child(code)
    assert done.stdout.split() == ["True"], done.stderr
