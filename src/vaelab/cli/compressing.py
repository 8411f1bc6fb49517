"""Commands that make rows smaller by a trained model, and give them back: compress, decompress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .app import RunPath, To, app
from .words import refuse_to, taken, wrote

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
    from ..core.errors import BadInput
    from ..data.source import load as load_rows
    from ..use.files import refuse_path, save

    loaded = load(run)
    refuse_path(to, FORMATS)
    if source is not None and loaded.spec.layout == "table":  # what reads rows leaves out columns that it does not know
        refuse_unknown(
            loaded, load_rows(source, key=loaded.config.data.key, data_dir=loaded.config.data.data_dir).columns
        )
    read = taken(loaded, source, count, to)
    if not read.exact:
        fix = "give it as .npy, on the scale of the rows it was trained on"
        raise BadInput("rows", source, "has gray levels that this run does not, and would not come back", fix)
    rows, what = read.rows, read.what
    # Images of a file were read with their channels first, and come back in the shape they had there.
    if source is not None and rows.ndim == 4:
        if loaded.spec.axes == "HW" and rows.shape[1] == 1:
            rows = rows[:, 0]
        elif loaded.spec.axes == "HWC":
            rows = np.moveaxis(np.asarray(rows), 1, -1)
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
