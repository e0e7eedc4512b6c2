"""Watches folders for changes; the only package that imports watchdog. Reports paths; never looks into a file.

Events do get lost: the kernel's queue overflows, a limit of the kernel leaves new folders unwatched, a network share
sends none for other hosts' writes, a thread can die silently. So losses are reported too (`on_loss`), and whoever
listens walks the folder again. `inotify`: the kernel's events. `mounts`: what lies where. `limits`: the kernel's
limits in words. `watcher`: which folder is watched how, and what is wrong with it.
"""

from daemon.effects.watch.mounts import NETWORK_FILE_SYSTEMS, is_on_network
from daemon.effects.watch.watcher import Watch, Watcher

__all__ = ["NETWORK_FILE_SYSTEMS", "Watch", "Watcher", "is_on_network"]
