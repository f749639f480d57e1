"""Makes Great Expectations' HTML pages reproducible: the same data gives the same bytes at any time and place.

Great Expectations writes three varying things into each page: the time of the run, the time of building, and random
identifiers of HTML elements. DVC hashes the pages, so each run would change dvc.lock. The pages also load a picture
from its makers' server, with the time in the address; they get a local copy instead.
"""

import os
import re
from datetime import UTC, datetime
from pathlib import Path

# The time that every run is said to have been at. It is part of file names, and no time that data is likely to contain.
RUN_TIME = datetime(1971, 3, 5, 7, 9, 11, tzinfo=UTC)

# The machine's time zone decides the hour.
_SHOWN = re.compile(r"1971-03-0[456](T\d\d:\d\d:11Z| \d\d:\d\d:11 [^\s'<]+)")
_STAMP = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
_STAMP_FORM = "%Y%m%dT%H%M%S.%fZ"
_ELEMENT = re.compile(r"(?<=-collapse-body-)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOGO = re.compile(r"https://[a-z0-9.-]+/(logo-long\.png)\?d=[0-9TZ.]+")


def make_reproducible(docs: Path, since: datetime) -> None:
    """Rewrite every page below ``docs``. Of time stamps, only those between ``since`` and now are replaced."""
    until = datetime.now(UTC)

    def stamp(match: re.Match[str]) -> str:
        try:
            time = datetime.strptime(match[0], _STAMP_FORM).replace(tzinfo=UTC)
        except ValueError:
            return match[0]
        return RUN_TIME.strftime(_STAMP_FORM) if since <= time <= until else match[0]

    for page in docs.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        top = Path(os.path.relpath(docs, page.parent)).as_posix()
        text = _LOGO.sub(rf"{top}/static/images/\1", text)
        text = _STAMP.sub(stamp, text)
        text = _SHOWN.sub("not recorded", text)
        for number, element in enumerate(dict.fromkeys(_ELEMENT.findall(text)), 1):
            text = text.replace(element, str(number))
        page.write_text(text, encoding="utf-8")
