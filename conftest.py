"""Doctests run under JAX's own settings, as in a user's notebook, whatever `tests/` has set."""

import pytest


@pytest.fixture(autouse=True)
def _settings_of_a_notebook(request):
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    # Not before: `tests/conftest.py` sets what JAX reads when it is imported.
    import jax

    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield
