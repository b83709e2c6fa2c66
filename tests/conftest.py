"""Settings for all tests."""

import os

import pytest
from hypothesis import settings

# Deadlines measure the machine, not the code; derandomised so that a red run can be run again.
settings.register_profile("project", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _compiled_models_of_the_tests(tmp_path_factory):
    """Keep compiled models out of the user's own cache, also in programs that tests start."""
    os.environ["ISBI_INFER_CACHE"] = str(tmp_path_factory.mktemp("compiled"))
