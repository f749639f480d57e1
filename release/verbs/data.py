"""data: what was checked of the data of a record, and what failed. Reads its reports, and decides nothing."""

from pathlib import Path

from release.cards import data_page
from release.cards.data_page import DataPage
from release.record.record_names import WORK_TREE


def data(root: Path, name: str = WORK_TREE) -> DataPage:
    """The data of the record that ``name`` means. Raises as ``data_page.gather``."""
    return data_page.gather(root, name)
