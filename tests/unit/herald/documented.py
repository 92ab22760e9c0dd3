"""The output shapes that docs/cli.md shows: what `--json` prints is held to them."""

import json
import re
from typing import Any

from tests.quality.tree import ROOT


def documented(kind: str) -> dict[str, Any]:
    """The example ```json KIND of docs/cli.md."""
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    (example,) = re.findall(rf"^```json {kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    row: dict[str, Any] = json.loads(example)
    return row


def same_shape(row: Any, example: Any) -> bool:
    """Same keys in the same order, same kinds of values, all the way down; None fits anything."""
    if isinstance(example, dict):
        return (
            isinstance(row, dict)
            and list(row) == list(example)
            and all(same_shape(row[key], example[key]) for key in example)
        )
    if isinstance(example, list):
        return isinstance(row, list) and all(same_shape(item, example[0]) for item in row)
    return row is None or example is None or type(row) is type(example)
