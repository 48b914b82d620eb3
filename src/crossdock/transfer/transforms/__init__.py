"""What changes in flight: `Transform` to implement, `steps` to read what the user wrote. See docs/transforms.md."""

from crossdock.transfer.transforms.base import Options, Refused, Splitter, Step, Transform
from crossdock.transfer.transforms.registry import step, steps, transform_class, transform_names, written

__all__ = [
    "Options",
    "Refused",
    "Splitter",
    "Step",
    "Transform",
    "step",
    "steps",
    "transform_class",
    "transform_names",
    "written",
]
