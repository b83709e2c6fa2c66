"""The quantisation of ONNX Runtime, and what it brings along."""

import os
import subprocess
import sys


def test_the_quantisation_is_imported_without_telemetry(tmp_path):
    """As a new user, on a machine that does not look like one that runs tests, on which there is none."""
    told = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")
    environment = {name: text for name, text in os.environ.items() if name not in told}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    script = "import isbi_export.graph.int8, sys; assert 'onnxruntime' in sys.modules"
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment | {"HOME": str(tmp_path)},
        cwd=tmp_path,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert not list(
        tmp_path.rglob("*onnxruntime*")
    )  # where the id of a user and what was not sent yet would be
