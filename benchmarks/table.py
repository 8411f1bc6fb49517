"""Tables of results as text: date, hardware, command, figures."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch


def hardware() -> str:
    """Processor, cores and threads, and the GPU where there is one."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}{gpu}"


def write_table(name: str, title: str, lines: Sequence[str]) -> None:
    """Prints a table and writes it to `benchmarks/results/NAME.txt`."""
    words = [os.path.basename(word) if os.path.isabs(word) else word for word in sys.argv[1:]]
    command = " ".join(["python", os.path.relpath(sys.argv[0]), *words])
    today = datetime.date.today().isoformat()
    text = "\n".join([title, f"date: {today}", f"hardware: {hardware()}", f"command: {command}", "", *lines]) + "\n"
    print(text)
    path = Path(__file__).parent / "results" / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
