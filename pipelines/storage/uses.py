"""Who uses what the storage holds by content: prepared data (``data/DIGEST``) and weights (``weights/DIGEST``).

A user is the name of a lease that it holds, such as ``work/train/KEY``. Its note is ``uses/data/DIGEST/work/train/KEY``.
"""

from pipelines.storage.lease import lease
from pipelines.storage.objects import Storage

USES = "uses"


def note_use(storage: Storage, name: str, user: str) -> None:
    """Note that the holder of the lease ``user`` uses the content ``name``.

    To be called before looking whether the content is there: it waits for a removal that is in progress.
    """
    with lease(storage, name, wait=None):
        storage.write(f"{USES}/{name}/{user}", b"")
