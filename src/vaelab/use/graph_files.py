"""Files of a model's two graphs: ONNX and `torch.export`; each is run again and compared before it is handed on."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..core.durable import to_json
from ..core.errors import BadInput, MissingExtra
from ..core.units import readable_bytes
from ..training.run import Run
from .graphs import Graph, apart, number_type
from .quiet import quiet

LIMIT = 1e-5  # |a - b| / max(unit, |b|) between a file and the model
LARGEST = 2**31 - 1  # bytes that a file of ONNX can have
STATEMENT = "rows go in and come out on the data's own scale; no draw is made: z = mean + exp(log_variance / 2) * noise"
Files = dict[str, bytes]


def onnx_files(run: Run, halves: Sequence[Graph]) -> tuple[Files, float]:
    """`encoder.onnx` and `decoder.onnx`, and their largest difference from the model under onnxruntime.

    Raises:
        MissingExtra: without the extra onnx.
        BadInput: where they differ from the model by more than `LIMIT`, or are larger than the format allows.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra(str(error.name), "onnx", "export --onnx") from None
    files, gaps = {}, []
    onnxruntime.set_default_logger_severity(3)
    for half in halves:
        data = _as_onnx(onnx, run, half)
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        gaps.append(_difference(half, lambda inputs, session=session: _by_onnx(session, inputs), "onnx"))  # type: ignore[misc]
        files[f"{half.name}.onnx"] = data
    return files, max(gaps)


def torch_files(run: Run, halves: Sequence[Graph]) -> tuple[Files, float]:
    """`encoder.pt2` and `decoder.pt2`, and their largest difference from the model once they are loaded again.

    Raises:
        BadInput: where they differ from the model by more than `LIMIT`.
    """
    import torch

    files, gaps = {}, []
    for half in halves:
        content = io.BytesIO()
        with quiet("torch"):
            extra = {"vaelab.json": to_json(described(run, half))}
            torch.export.save(half.program, content, extra_files=extra)
            again = torch.export.load(io.BytesIO(content.getvalue())).module()
        gaps.append(_difference(half, lambda inputs, again=again: _by_torch(again, inputs), "torch"))  # type: ignore[misc]
        files[f"{half.name}.pt2"] = content.getvalue()
    return files, max(gaps)


def described(run: Run, half: Graph) -> dict[str, Any]:
    """What a stranger has to know of a graph, as plain values."""
    spec, transform = run.spec, run.spec.transform
    columns: list[Any] = [_column(place, column) for place, column in enumerate(spec.mixed)] or [*spec.columns]
    beside = {"condition": list(spec.condition), "condition_is": "the place of a label" if spec.classes else "numbers"}
    return {
        "vaelab": run.environment.get("versions", {}).get("vaelab"),
        "half": half.name,
        "statement": STATEMENT,
        "latent": run.latent,
        "posterior": run.config.model.posterior,
        "likelihood": run.config.likelihood.name,
        "numbers": "float64" if number_type(spec).__name__ == "float64" else "float32",
        "columns": columns,
        "parameters_are_of": "x itself" if transform.is_identity else "(x - shift) / scale, but for mean and widths",
        "shift": transform.shift.tolist(),
        "scale": transform.scale.tolist(),
        **(beside if "condition" in half.inputs else {}),
    }


def _column(place: int, column: Any) -> dict[str, Any]:
    levels = {"levels": list(column.levels), "output": f"log_mass_{place}"} if column.kind == "category" else {}
    return {"name": column.name, "kind": column.kind, **levels}


def _as_onnx(onnx: Any, run: Run, half: Graph) -> bytes:
    import torch

    with quiet("torch"):
        names: Any = {"input_names": list(half.inputs), "output_names": list(half.outputs)}
        program: Any = torch.onnx.export(half.program, dynamo=True, verbose=False, **names)
    proto = program.model_proto
    for node in proto.graph.node:  # else they name the files of this machine that the operations come from
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    del proto.graph.value_info[:]
    texts = {name: value if isinstance(value, str) else to_json(value) for name, value in described(run, half).items()}
    onnx.helper.set_model_props(proto, texts)
    proto.producer_name, proto.doc_string = "vaelab", STATEMENT
    if (size := proto.ByteSize()) > LARGEST:
        raise BadInput("onnx", readable_bytes(size), f"a file holds at most {readable_bytes(LARGEST)}", "use --torch")
    return proto.SerializeToString()


def _by_onnx(session: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip(names, found, strict=True))


def _by_torch(module: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    with torch.no_grad():
        return module(*inputs.values())


def _difference(half: Graph, run_file: Callable[[Mapping[str, Tensor]], Mapping[str, Any]], kind: str) -> float:
    """The largest difference over all rows at once, and for one alone."""
    gap = 0.0
    for rows in (slice(None), slice(0, 1)):
        found = run_file({name: value[rows] for name, value in half.inputs.items()})
        gap = max(gap, apart(found, {name: value[rows] for name, value in half.outputs.items()}, half.units))
    if not gap <= LIMIT:
        rule = f"must agree with the model to {LIMIT:g} of max(unit, number), and nothing was written"
        raise BadInput(kind, f"a difference of {gap:.2g} in the {half.name}", rule, "use --safetensors")
    return gap
