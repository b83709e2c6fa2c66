"""What people would use instead, each on the same weights and the same section, from grey values to probabilities."""

from .registry import OURS, WHOLE, contenders
from .scene import Build, Peer, Scene, differences

__all__ = ["OURS", "WHOLE", "Build", "Peer", "Scene", "contenders", "differences"]
