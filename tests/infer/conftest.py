"""Shared by the tests of inference: the released model and a small synthetic stack.

`precisions` beside this file is found by its name.
"""

import sys
from pathlib import Path

import pytest
from drawn import synthetic_stack

from isbi_infer import Segmenter

FOLDER = str(Path(__file__).parent)
if FOLDER not in sys.path:
    sys.path.append(FOLDER)


@pytest.fixture(scope="session")
def segmenter():
    return Segmenter(provider="cpu")


@pytest.fixture(scope="session")
def synthetic_ZYX():
    image_ZYX, _ = synthetic_stack(3, 200, 260)
    return image_ZYX
