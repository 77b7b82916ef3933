"""What many calls cost: no compilation, no memory, no search; and what importing costs: nothing."""

import functools
import gc
import resource
import subprocess
import sys
import time
import tracemalloc

import jax
import jax.numpy as jnp

import jaxconv
from jaxconv import contractions


def test_many_calls_of_one_geometry_hold_memory_flat():
    """10,000 jitted and 1,000 eager calls: nothing per call is kept."""
    x, w = jnp.ones((1, 2, 6, 5)), jnp.ones((3, 2, 2, 3))
    eager = functools.partial(jaxconv.conv2d, stride=2, padding=1)
    jitted = jax.jit(eager)

    def run(times):
        for _ in range(times):
            jitted(x, w)
        for _ in range(times // 10):
            eager(x, w)
        gc.collect()

    run(100)
    tracemalloc.start()
    run(100)
    before, resident = tracemalloc.get_traced_memory()[0], _resident_memory()
    run(10_000)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 50_000
    # What Python does not count: less than 1 kB for each call.
    assert _resident_memory() - resident < 10_000_000


def _resident_memory() -> int:
    """The most that this process has had, in bytes."""
    kilobytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes


def test_many_geometries_do_not_slow_each_other():
    """Tracing the last hundred of 600 takes as long as the first hundred."""

    def seconds(sizes):
        start = time.process_time()
        for size in sizes:
            x = jax.ShapeDtypeStruct((1, 2, size), jnp.float32)
            w = jax.ShapeDtypeStruct((3, 2, 3), jnp.float32)
            jax.eval_shape(functools.partial(jaxconv.conv1d, stride=2, padding=1), x, w)
        return time.process_time() - start

    seconds(range(10, 60))
    first = min(seconds(range(100, 150)), seconds(range(150, 200)))
    seconds(range(200, 600))
    last = min(seconds(range(600, 650)), seconds(range(650, 700)))
    assert last < 3 * first


def test_caches_are_bounded():
    """A program with ever new shapes must not keep them all."""
    caches = [value for value in vars(contractions).values() if hasattr(value, "cache_info")]
    assert caches
    for cache in caches:
        assert cache.cache_info().maxsize is not None


IMPORT = """
import logging, os, sys
import flax.linen, flax.nnx, jax
def state():
    return (
        dict(os.environ), dict(jax.config.values), logging.root.level, logging.root.handlers[:],
        sorted(logging.root.manager.loggerDict), sys.path[:], sys.getrecursionlimit(),
        {name: getattr(jax.config, name) for name in dir(jax.config) if name.startswith("jax_")},
    )
before, modules = state(), set(sys.modules)
import jaxconv
assert state() == before, "importing jaxconv changes global state"
new = {name.partition(".")[0] for name in set(sys.modules) - modules}
assert new - set(sys.stdlib_module_names) <= {"jaxconv", "jax", "flax"}, new
assert "torch" not in sys.modules
"""


def test_import_changes_nothing():
    """Of JAX's configuration, the environment or logging; and it imports no torch."""
    subprocess.run([sys.executable, "-W", "error", "-c", IMPORT], check=True)
