"""Writes Evidently's page of a window, in an environment of its own: Evidently needs pandas < 3.

In:  JSON on standard input: ``reference`` and ``current``, columns by name, and ``categorical``, names of columns.
Out: the page of HTML at the path that is the only argument.
Run: by `lockstep watch ENV --evidently PYTHON`, with that Python; nothing of Lockstep is imported.
"""

import json
import sys


def main() -> None:
    """Read, compare, write."""
    import pandas
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    given = json.load(sys.stdin)
    categorical = given["categorical"]
    numerical = [name for name in given["reference"] if name not in categorical]
    columns = DataDefinition(numerical_columns=numerical, categorical_columns=categorical)
    current, reference = (
        Dataset.from_pandas(pandas.DataFrame(given[side]), data_definition=columns)
        for side in ("current", "reference")
    )
    Report([DataDriftPreset(), DataSummaryPreset()]).run(current, reference).save_html(sys.argv[1])


if __name__ == "__main__":
    main()
