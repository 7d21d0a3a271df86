"""`build` makes a library of RTL or skips the test and says what is missing; CI never skips."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import verilated


@pytest.fixture(scope="session")
def build():
    """``build(top, parameters, driver)`` of `verilated`."""
    if missing := verilated.missing_tools():
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return verilated.build
