"""Memory and processor time of a process, from Linux's /proc; 0 where there is none."""

from __future__ import annotations

import os
import re
from pathlib import Path


def memory(key: str, pid: int | str = "self") -> float:
    """A line of a process's status in MiB, such as VmRSS or VmHWM."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def cpu(pid: int | str = "self") -> float:
    """Seconds that all threads of a process have used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watch:
    """What a process takes from now on: how far its memory grows, and the time of its threads."""

    def __init__(self, pid: int | str = "self") -> None:
        self._pid = pid
        self._memory, self._cpu = memory("VmRSS", pid), cpu(pid)

    def figures(self) -> dict[str, float]:
        """`memory` in MiB and `cpu` in seconds."""
        grown = memory("VmHWM", self._pid) - self._memory
        return {"cpu": cpu(self._pid) - self._cpu, "memory": grown}
