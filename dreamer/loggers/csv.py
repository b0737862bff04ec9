"""metrics.csv: a table with one row per line of metrics, for spreadsheets and `pandas.read_csv`."""

import csv
import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamer.files import move_aside, warn_once, write_text
from dreamer.loggers.base import FileLogger, RunDescription


class CsvLogger(FileLogger):
    """Writes a table; a metric that is logged for the first time becomes a new column.

    Lightning's own CSV logger deletes the table of a run that is resumed. This one continues it.
    """

    def __init__(self, run_dir: Path, *, run: RunDescription | None = None):
        super().__init__(run_dir, "metrics.csv", run)
        self._columns: list[str] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row at a count of frames or updates."""
        values = {key: float(value) for key, value in metrics.items()}
        row: dict[str, Any] = {self.counter: step, **values, self.counter: step}
        if not self._columns:
            self._columns = self._read()[0]
        added = [key for key in row if key not in self._columns]
        if added:
            _, rows = self._read()
            self._columns += added
            self._write([*rows, row])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def truncate(self, frames: int) -> None:
        """Drop the rows after a count, and those that a killed process or a disk damaged."""
        self._columns, rows = self._read()
        if self._columns:
            name = self.counter
            self._write(row for row in rows if _complete(row, name) and int(row[name]) <= frames)

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Return columns and rows; both are empty if there is no table yet, or only a damaged one.

        A table without its header is moved away.
        """
        if not self.path.exists():
            return [], []
        with suppress(csv.Error), self.path.open(newline="", errors="replace") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or [])
            if columns[:1] == [self.counter]:
                return columns, rows
        aside = move_aside(self.path)
        warn_once(f"{self.path} is damaged: it has no header. It is now {aside.name}.")
        return [], []

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the table."""
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, table.getvalue())


def _complete(row: Mapping[Any, Any], counter: str) -> bool:
    """Whether a row has all columns, and no other, and only numbers."""
    if None in row or None in row.values() or not row[counter].isdecimal():
        return False
    try:
        for value in filter(None, row.values()):
            float(value)
    except ValueError:
        return False
    return True
