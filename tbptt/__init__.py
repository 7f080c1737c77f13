"""Language models trained by truncated backpropagation through time."""

from tbptt import interop as interop
