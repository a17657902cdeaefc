"""Parameter schedules: a dopesheet on disk, resolved to the value of every parameter at every step."""

from nbutils.schedules.dopesheet import Dopesheet, DopesheetError, Keyframe, Parameter
from nbutils.schedules.timeline import Timeline
from nbutils.schedules.timing import MinimumJerk, SmoothParameter

__all__ = [
    "Dopesheet",
    "DopesheetError",
    "Keyframe",
    "MinimumJerk",
    "Parameter",
    "SmoothParameter",
    "Timeline",
]
