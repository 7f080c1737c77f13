"""Conversion of models from and to other systems."""

from tbptt.interop import hf as hf
from tbptt.interop import original as original
