"""What this process takes of its machine."""

import os
import sys
from pathlib import Path

from zbusrpc.broker.monitor.monitor import Usage

_STATM = Path("/proc/self/statm")


def own_usage() -> Usage:
    """Return the processor time and memory that this process takes."""
    times = os.times()
    return Usage(times.user + times.system, _resident_bytes())


def _resident_bytes() -> int:
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux: the most that it ever took has to do
        if sys.platform == "win32":
            return 0
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
