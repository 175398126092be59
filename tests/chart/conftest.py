"""What several files of tests start from."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def folder():
    """A folder of the test's own. pytest's tmp_path stays behind, or is another run's to clean up."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
