"""What all tests share: one BLAS thread, hypothesis without a clock, and `says`, which pins an error's whole text."""

import contextlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("house", deadline=None, print_blob=True, max_examples=60,
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
settings.load_profile("house")


@pytest.fixture
def says():
    """`with says(ErrorClass, "the whole text"):` fails unless exactly this is raised."""
    @contextlib.contextmanager
    def check(kind, text):
        with pytest.raises(kind) as caught:
            yield
        assert type(caught.value) is kind and str(caught.value) == text, f"\n{caught.value}"

    return check
