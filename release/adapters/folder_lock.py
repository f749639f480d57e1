"""One call at a time in a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checks.process.errors import MachineRefused


@contextmanager
def alone(folder: Path, command: str) -> Iterator[None]:
    """Hold ``folder`` while the block runs. Raises MachineRefused if another call of ``command`` holds it.

    The kernel lets go of it when this process ends, however it ends. Programs that it started do not hold the folder,
    so after a SIGKILL they may still work there. On NFS nothing is held.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MachineRefused(
                f"{folder.resolve()}: another `{command}` works here", "wait until it ends"
            ) from error
        except OSError:  # NFS locks no folder
            pass
        yield
    finally:
        os.close(handle)
