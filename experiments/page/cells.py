"""Formats tables for a page: which columns hold numbers, and with how many decimals."""

from typing import NamedTuple

import numpy as np
import pandas as pd

MISSING = "–"


class Cells(NamedTuple):
    """A table as texts.

    Attributes:
        heads: names of the columns.
        numbers: whether a column holds numbers, which are aligned to the right.
        rows: texts by row.
    """

    heads: list[str]
    numbers: list[bool]
    rows: list[tuple[str, ...]]


def cells(table: pd.DataFrame) -> Cells:
    """Format a table; its index is a column unless it numbers the rows."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()
    columns = [_format(column) for _, column in table.items()]
    return Cells(
        [str(name) for name in table.columns],
        [_reads_as_numbers(column) for _, column in table.items()],
        list(zip(*columns, strict=True)),
    )


def _reads_as_numbers(column: pd.Series) -> bool:
    """Whether a column holds numbers, or texts like `0.28 (0.27 to 0.29)`."""
    if pd.api.types.is_bool_dtype(column):
        return False
    texts = column.dropna().astype(str)
    return len(texts) > 0 and bool(texts.str.match(r"[-−+]?[0-9.]+(\s|$|[(,%±])").all())


def _format(column: pd.Series) -> list[str]:
    """Format a column: counts as 1,234,567, measures with four digits, missing ones as –."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return [
            MISSING if x else str(value) for value, x in zip(column, column.isna(), strict=True)
        ]
    sizes = column.abs().replace([0, np.inf], np.nan).dropna()
    decimals = 0
    if (sizes % 1 != 0).any():
        most = int(np.clip(4 - np.ceil(np.log10(sizes.median())), 0, 4))
        decimals = next(
            d for d in range(most + 1) if np.allclose(sizes.round(d), sizes.round(most))
        )
    return [MISSING if pd.isna(value) else f"{value:,.{decimals}f}" for value in column]
