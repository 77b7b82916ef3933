"""How a contraction is computed: one lax convolution, and the faster ways a platform needs."""

from collections.abc import Callable

from jaxconv.lowerings import direct

__all__ = ["direct", "platform_forms"]


def platform_forms(result: str) -> dict[str, Callable]:
    """The platforms that choose a form of their own for the contraction giving `result`."""
    return {}
