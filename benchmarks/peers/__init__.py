"""What people would use instead, each on the same weights and the same section, from grey values to probabilities."""

from .registry import OURS, WHOLE, contenders
from .task import Build, Peer, Task, differences

__all__ = ["OURS", "WHOLE", "Build", "Peer", "Task", "contenders", "differences"]
