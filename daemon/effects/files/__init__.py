"""Changes the owner's files safely; the only package that imports shutil. It knows nothing of tags or genres.

`replace`: an edited copy takes the place of its file, in two steps. `patch`: the record for undo. `move`: a file goes
to another place, in two steps, and `settling` ends what a crash interrupts. `folders`: made for a move, and emptied by
it. `leftover`: what a crash leaves behind. `copying` and `renaming` are what they have in common.
"""

from daemon.effects.files.copying import sha256_of
from daemon.effects.files.folders import remove_emptied, remove_made
from daemon.effects.files.leftover import is_temporary, sweep, temporary_name
from daemon.effects.files.move import StagedMove, commit_move, discard_move, is_free, is_same_place, stage_move
from daemon.effects.files.patch import apply_patch, make_patch
from daemon.effects.files.replace import (
    Edit,
    HardLinks,
    Mtime,
    Staged,
    Verify,
    commit,
    discard,
    stage,
    stage_restore,
)
from daemon.effects.files.settling import settle_move

__all__ = [
    "Edit",
    "HardLinks",
    "Mtime",
    "Staged",
    "StagedMove",
    "Verify",
    "apply_patch",
    "commit",
    "commit_move",
    "discard",
    "discard_move",
    "is_free",
    "is_same_place",
    "is_temporary",
    "make_patch",
    "remove_emptied",
    "remove_made",
    "settle_move",
    "sha256_of",
    "stage",
    "stage_move",
    "stage_restore",
    "sweep",
    "temporary_name",
]
