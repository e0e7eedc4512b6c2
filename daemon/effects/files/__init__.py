"""Changes the owner's files safely; the only package that imports shutil. It knows nothing of tags or genres.

`replace`: an edited copy takes the place of its file, in two steps. `patch`: the record for undo. `leftover`: what a
crash leaves behind.
"""

from daemon.effects.files.leftover import is_temporary, sweep, temporary_name
from daemon.effects.files.patch import apply_patch, make_patch
from daemon.effects.files.replace import (
    Edit,
    HardLinks,
    Mtime,
    Staged,
    Verify,
    commit,
    discard,
    sha256_of,
    stage,
    stage_restore,
)

__all__ = [
    "Edit",
    "HardLinks",
    "Mtime",
    "Staged",
    "Verify",
    "apply_patch",
    "commit",
    "discard",
    "is_temporary",
    "make_patch",
    "sha256_of",
    "stage",
    "stage_restore",
    "sweep",
    "temporary_name",
]
