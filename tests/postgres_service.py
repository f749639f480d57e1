"""A real PostgreSQL server of Debian's package, on a socket of its own: made in a second, gone with the tests."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import programs

PASSWORD = "s3cr3t-p@ss"


def _program(name: str) -> str:
    """Debian keeps the server's programs out of PATH, in a folder of the version."""
    folders = [
        *os.environ["PATH"].split(os.pathsep),
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
    ]
    return shutil.which(name, path=os.pathsep.join(folders)) or programs.missing("postgres", "not installed")


@contextmanager
def server() -> Iterator[str]:
    """The address of a server, as SQLAlchemy takes it, with a password that it asks for."""
    initdb, postgres, ready = (_program(name) for name in ("initdb", "postgres", "pg_isready"))
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
    # The server refuses to run as root; Debian's package has a user for it.
    user = "postgres" if os.getuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    try:
        subprocess.run(
            [initdb, "-D", str(folder / "data"), "-U", "me", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "--locale=C.UTF-8"],
            check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder,
        )  # fmt: skip
        process = subprocess.Popen(
            [postgres, "-D", str(folder / "data"), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd=folder,
        )  # fmt: skip
        try:
            for _ in range(600):
                if subprocess.run([ready, "-q", "-h", str(folder)], check=False).returncode == 0:
                    break
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)
            yield f"postgresql://me:{PASSWORD.replace('@', '%40')}@/postgres?host={folder}"
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(folder)
