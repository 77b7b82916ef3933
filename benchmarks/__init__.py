"""What jaxconv costs: time, compile time and memory, against plain lax and torch."""

import os

# JAX would take most of a GPU's memory at its first use, and torch needs some too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
