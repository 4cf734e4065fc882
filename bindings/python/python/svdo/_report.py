"""What a compression found: formats/report.schema.json as Python values."""

from __future__ import annotations

import json
from typing import Any


class Record(dict):  # type: ignore[type-arg]
    """A JSON object whose members are attributes too: ``layer["kept"]`` is ``layer.kept``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no member {name!r}; there are {', '.join(self)}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]


class Report(Record):
    """The report of :func:`svdo.compress`: the JSON of ``svdo-compress --json`` as a dict, its
    members as attributes, and the compressed file in ``data``. ``print(report)`` shows the tables
    of the command line.

    ``size_ratio`` is ``dense_bytes / file_bytes``: bytes of theta and bias in f32 / bytes of the
    whole file. ``weight_ratio`` is ``weights_total / weights_kept``. ``layers`` holds one
    :class:`Record` for each layer: name, shape, kept, total, bytes, units removed, and so on.
    """

    input: str
    threshold: float
    quantize: str
    file_bytes: int
    dense_bytes: int
    size_ratio: float
    weights_total: int
    weights_kept: int
    weight_ratio: float
    weights_stored: int
    header_bytes: int
    layers: list[Record]
    gates: list[Record]
    notes: list[str]

    data: bytes
    """The bytes of the .svdo file, as :func:`svdo.load` takes them."""

    def __init__(self, members: Record, text: str, markdown: str, data: bytes) -> None:
        super().__init__(members)
        self.data = data
        self._text = text
        self._markdown = markdown

    @classmethod
    def _parse(cls, text: str, *rest: Any) -> Report:
        return cls(json.loads(text, object_hook=Record), *rest)

    def __reduce__(self) -> tuple[Any, ...]:
        return Report, (Record(self), self._text, self._markdown, self.data)

    @property
    def output(self) -> str | None:
        """The file written; None if none was."""
        return self.get("output")

    @property
    def validation(self) -> Record | None:
        """samples, error_rate_pruned, error_rate and cross_entropy; None without data."""
        return self.get("validation")

    @property
    def sweep(self) -> list[Record]:
        """threshold, weights_kept, file_bytes, both ratios, and error_rate and cross_entropy given
        data, of each threshold of ``sweep``; empty without one."""
        tried: list[Record] = self.get("sweep", [])
        return tried

    @property
    def search(self) -> list[Record]:
        """The configurations that a search tried, by size; empty without one."""
        tried: list[Record] = self.get("search", [])
        return tried

    def to_json(self) -> str:
        """The report as ``svdo-compress --json`` writes it."""
        return json.dumps(self, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """The report as ``svdo-compress --markdown`` writes it."""
        return self._markdown

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return (
            f"<svdo.Report {self.input}: {self.dense_bytes} -> {self.file_bytes} bytes, "
            f"size ratio {self.size_ratio:.1f}, weight ratio {self.weight_ratio:.1f}>"
        )
