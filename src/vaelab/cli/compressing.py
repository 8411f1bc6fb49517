"""Commands that make rows smaller by a trained model, and give them back: compress, decompress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .app import RunPath, To, app
from .words import refuse_to, rows_of, wrote

FILE_BYTES = 8 << 30
FORMATS = {".vlz": bytes}


@app.command
def compress(
    run: RunPath,
    source: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    /,
    *,
    to: Annotated[Path, Parameter(help="file to write, ending in .vlz")] = Path("rows.vlz"),
    count: Annotated[int | None, Parameter(help="only the first rows")] = None,
) -> int:
    """Compress rows of bits, levels, counts or categories without loss, to about the model's negative ELBO."""
    import numpy as np

    from ..api import load
    from ..compress import compress as compressed
    from ..compress import rates
    from ..compress.rows import refuse_unknown
    from ..data.source import load as read
    from ..use.files import refuse_path, save

    loaded = load(run)
    refuse_path(to, FORMATS)
    if source is not None and loaded.spec.layout == "table":  # what reads rows leaves out columns that it does not know
        refuse_unknown(loaded, read(source, key=loaded.config.data.key, data_dir=loaded.config.data.data_dir).columns)
    rows, _, _, what = rows_of(loaded, source, count, to)
    # Images of a file were read with their channels first, and come back in the shape they had there.
    if loaded.spec.axes in ("HW", "HWC") and source is not None and rows.ndim == 4:
        rows = rows[:, 0] if loaded.spec.axes == "HW" else np.moveaxis(np.asarray(rows), 1, -1)
    data = compressed(loaded, rows)
    found = rates(loaded, rows, data)
    for line in (found, *found.findings):
        print(line)
    return wrote(save(to, FORMATS, data), f"{what}, decoded once to see that they come back")


@app.command
def decompress(
    run: RunPath,
    source: Annotated[Path, Parameter(help="file that vaelab compress wrote")],
    /,
    *,
    to: To = Path("rows.npz"),
) -> int:
    """Write the rows that were compressed, by the run they were compressed with."""
    from ..api import load
    from ..compress import decompress as decompressed
    from ..core.files import read_bytes
    from ..use.files import save_rows

    loaded = load(run)
    data = read_bytes(source, FILE_BYTES)
    refuse_to(to, source, loaded)
    rows = decompressed(loaded, data, str(source))
    return wrote(save_rows(loaded, rows, to), f"{len(rows)} rows of {source}")
