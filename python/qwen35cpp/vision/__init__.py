"""Pictures and videos on their way to the model.

    source ─ load ─> RGB pixels ─ resize ─> sides of multiples of 32 ─ tower ─> rows ─> the session

`load.py` decodes whatever users pass, `resize.py` has the size rule and the resampling of the
reference, `video.py` samples frames; those of files `film.py` fetches when they are needed from
`decode.py`, a process apart. `tower.py` runs the vision tower and keeps recent results, `prompt.py`
puts the rows where a prompt has its placeholders. Pixels are normalised in C.
"""

from .load import Limits, Pixels, Source, open_picture
from .locate import Place, read_places
from .prompt import Picture, PicturePrompt, Span, View
from .resize import BUDGETS, Budget, Preset, budget_of, fit, target_size
from .tower import Tower, find_tower
from .video import Video, VideoFile, as_video, video_parts

__all__ = [
    "BUDGETS",
    "Budget",
    "Limits",
    "Picture",
    "PicturePrompt",
    "Pixels",
    "Place",
    "Preset",
    "Source",
    "Span",
    "Tower",
    "Video",
    "VideoFile",
    "View",
    "as_video",
    "budget_of",
    "find_tower",
    "fit",
    "open_picture",
    "read_places",
    "target_size",
    "video_parts",
]
