"""What a figure depends on: the machine, how busy it was, and the versions of everything that took part."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("capgate", "wasmer", "wasmtime", "starlette", "anyio", "msgspec"),
    *("pycasbin", "cedarpy", "gordon-to-regorus"),
)
_CPUINFO = Path("/proc/cpuinfo")


def describe() -> dict[str, str]:
    """Facts by name, ready to be printed."""
    clock = time.get_clock_info("perf_counter")
    return {
        "cpu": f"{_cpu()}, {os.cpu_count()} logical cores",
        "system": platform.platform(),
        "load average": load_average(),
        "python": f"{platform.python_implementation()} {sys.version.split()[0]} ({platform.python_compiler()})",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "commit": _commit(),
        "clock": f"perf_counter, {clock.implementation}, {clock.resolution * 1e9:g} ns",
    }


def load_average() -> str:
    """Of the last minute, five and fifteen: processes that wanted a core, this one included."""
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _cpu() -> str:
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
