"""Normalizations that are functions called in a `forward`: no module, so that no experiment can hold them, but they can be named."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# What PyTorch calls normalizations, and what own ones are made of: `x / x.norm()`, `x * (x.square().mean(1) + eps).rsqrt()`.
CALLS = frozenset(
    {"batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm", "local_response_norm", "normalize"}
    | {"norm", "vector_norm", "rsqrt", "sqrt", "std", "std_mean", "var", "var_mean"}
)
_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = (_TORCH, __file__)


def functional_normalizations(layer: nn.Module, run: Callable[[], Any]) -> list[str]:
    """What of `CALLS` is called after a layer by other code than PyTorch's own modules: `group_norm (net.py, line 12)`, in order.

    Parameters
    ----------
    layer : nn.Module
        Calls are noted from its output on.
    run : callable
        Runs the network once.
    """
    with _Noting() as noting:
        handle = layer.register_forward_hook(noting.begin)
        try:
            run()
        finally:
            handle.remove()
    return list(dict.fromkeys(noting.found))


class _Noting(TorchFunctionMode):
    """Notes who calls a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.found = False, list[str]()

    def begin(self, *_: Any) -> None:
        self.begun = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").removeprefix("linalg_")
        if self.begun and name in CALLS and (where := _caller()):
            self.found.append(f"{name} ({where})")
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """The file and line from which a function of PyTorch was called; "" where one of its own modules did."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        if f"{os.sep}modules{os.sep}" in frame.f_code.co_filename:
            return ""
        frame = frame.f_back
    return "" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}, line {frame.f_lineno}"
