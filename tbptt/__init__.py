"""Language models trained by truncated backpropagation through time."""

# First: torch, which the others load, reads once how threads are to wait.
from tbptt import threads as threads

# isort: split
from tbptt import interop as interop
