"""Settings for all tests."""

from hypothesis import settings

# Deadlines measure the machine, not the code; derandomised so that a red run can be run again.
settings.register_profile("project", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("project")
