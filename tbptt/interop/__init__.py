"""Models of other systems in the framework's own terms."""

from tbptt.interop import original as original
