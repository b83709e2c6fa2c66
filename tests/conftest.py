"""Settings for all tests."""

import os

import pytest
from hypothesis import settings

# One thread in a process and in the programs that it starts, set before NumPy and torch read it: `make test` runs two
# processes, and threads that wait for each other at every layer stand still when another process has their core.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

# Deadlines measure the machine, not the code. `make test` takes the same examples every time, so that a red run can be
# run again; `make test-more` takes new ones, and a failure prints the line that repeats it.
settings.register_profile("project", deadline=None, max_examples=60, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=600, print_blob=True)
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _compiled_models_of_the_tests(tmp_path_factory):
    """Keep compiled models out of the user's own cache, also in programs that tests start."""
    os.environ["ISBI_INFER_CACHE"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def _cache_of_compiled_models_is_on():
    """Turn it on again where a test ran the exporter, which turns it off, in this process."""
    from isbi_infer.backends.compiled_cache import use_cache

    use_cache(True)
