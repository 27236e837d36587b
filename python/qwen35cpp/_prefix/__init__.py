"""What was read before is not read again.

Attention caches can be cut back to any token, recurrent states only be copied. So copies of the
state (snapshots) are taken where prompts tend to part (boundaries.py) and kept in a radix tree over
token ids together with the cache entries of every edge (tree.py), which all branches behind it
share. timeline.py moves a session along the tree; what the sessions themselves still hold is not
copied. reading.py lets a prompt wait for what another session is just reading. disk.py keeps a part
of the tree in files.
"""

from .boundaries import Markers, Plan
from .reading import Reading, Readings
from .timeline import Mark, Timeline
from .tree import Node, Tree

__all__ = ["Mark", "Markers", "Node", "Plan", "Reading", "Readings", "Timeline", "Tree"]
