"""What a tier held and answered, over time."""

from __future__ import annotations

from array import array

ROWS_AT_ONCE = 128

Row = tuple[int, int, int, int, int, int]


class TierLog:
    """Columns, one row per time at which something changed: the state after it, and sums since the start.

    Attributes
    ----------
    time_ns
        Ascending.
    used_chunks
        Chunks held.
    hit_chunks, missed_chunks
        Chunks that lookups asked for and found, or did not find.
    stored_chunks, evicted_chunks
        Chunks that came in, and that were given up.
    """

    columns = ("time_ns", "used_chunks", "hit_chunks", "missed_chunks", "stored_chunks", "evicted_chunks")

    def __init__(self) -> None:
        self.time_ns = array("q")
        self.used_chunks = array("q")
        self.hit_chunks = array("q")
        self.missed_chunks = array("q")
        self.stored_chunks = array("q")
        self.evicted_chunks = array("q")
        self._rows: list[Row] = []

    def write(self, row: Row) -> None:
        """Add a row, in the order of ``columns``, or replace the last one if it is of the same time.

        Rows are kept aside and put into the columns many at a time (`flush`).
        """
        rows = self._rows
        if rows and rows[-1][0] == row[0]:
            rows[-1] = row
            return
        if len(rows) >= ROWS_AT_ONCE:
            self.flush()
        rows.append(row)

    def flush(self) -> None:
        """Put the rows that were kept aside into the columns."""
        if not self._rows:
            return
        columns: list[array[int]] = [getattr(self, name) for name in self.columns]
        if self.time_ns and self.time_ns[-1] == self._rows[0][0]:
            for column in columns:
                column.pop()
        for column, values in zip(columns, zip(*self._rows, strict=True), strict=True):
            column.fromlist(list(values))
        self._rows.clear()

    def __len__(self) -> int:
        return len(self.time_ns)
