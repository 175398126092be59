"""Fixtures of several test files."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def folder():
    """A folder for one test, removed afterwards. pytest's tmp_path is only removed by a later run."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
