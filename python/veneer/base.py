# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What the host knows of frozen base layers: their sizes, their dense weight, whether their product may be run by the
method itself. All knowledge of foreign layer types is in this file."""

from __future__ import annotations

import inspect
import math
import sys

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor  # what torch.export puts in the place of parameters
from torch.nn.modules.module import _has_any_global_hook

# Modules that read a child's `.weight` instead of calling the child: nn.MultiheadAttention its out_proj always,
# nn.TransformerEncoderLayer every child in the fast path it takes in eval mode.
ALWAYS_READ = nn.MultiheadAttention
READ_IN_EVAL = nn.TransformerEncoderLayer


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D, a linear that stores its weight [d_in, d_out]."""
    pytorch_utils = sys.modules.get("transformers.pytorch_utils")
    return pytorch_utils is not None and isinstance(module, pytorch_utils.Conv1D)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer a method can adapt, of whatever storage."""
    if isinstance(module, nn.Linear) or is_conv1d(module):
        return True
    # Quantised and sharded linears of other libraries: recognised by their sizes, used through their own forward.
    return "Linear" in type(module).__name__ and isinstance(getattr(module, "in_features", None), int)


def is_peft_layer(module: nn.Module) -> bool:
    """Whether a module is a layer with adapters of Hugging Face PEFT."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    return tuners is not None and isinstance(module, tuners.BaseTunerLayer)


def sizes(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear layer."""
    if is_conv1d(module):
        return module.weight.shape[0], module.weight.shape[1]
    return module.in_features, module.out_features


def hidden_size(module: nn.Module, of_input: bool = False) -> int | None:
    """The size of the state a module puts out (or takes in), where the module itself tells it."""
    if is_linear(module):
        return sizes(module)[0 if of_input else 1]
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    return None


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises a hidden state: torch's norms, and transformers' own, known by their names."""
    return "Norm" in type(module).__name__


def argument_count(module: nn.Module) -> float:
    """How many positional arguments a module's forward takes; infinity with *args."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return math.inf
    return sum(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters)


def tensor(module: nn.Module, name: str) -> Tensor | None:
    """A module's tensor by its name, None where it has none. As getattr, which costs a microsecond or two: it looks
    everywhere else, in vain, before it asks for parameters."""
    if name in module._parameters:
        return module._parameters[name]
    return getattr(module, name, None)


def dense_weight(module: nn.Module) -> Tensor | None:
    """The base's weight as [d_out, d_in] where it is a plain dense tensor, else None."""
    weight = tensor(module, "weight")
    if type(weight) not in (nn.Parameter, Tensor, FakeTensor) or not weight.is_floating_point() or weight.dim() != 2:
        return None
    return weight.t() if is_conv1d(module) else weight


def fused_refusal(module: nn.Module) -> str | None:
    """Why the method must not run the base's product itself; None where it may: exactly a Linear or Conv1D with its own
    forward, a plain dense weight, and nobody who expects to be called."""
    kind = type(module)
    if kind is not nn.Linear and not (is_conv1d(module) and kind.__name__ == "Conv1D"):
        return f"the base is a {kind.__name__}"
    if "forward" in module.__dict__:
        return "the base's forward is overridden"
    if _has_any_global_hook():
        return "there are global hooks on modules"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "the base has hooks"
    if "parametrizations" in module._modules:
        return "the base is parametrized"
    if type(module._parameters.get("weight")) is not nn.Parameter:
        return "the base's weight is not a plain dense parameter"
    return None


def weight_reader(parent: nn.Module | None, grandparents: list[nn.Module]) -> str | None:
    """ "always" or "eval" if a module above reads the weights below it instead of calling the layers."""
    if isinstance(parent, ALWAYS_READ):
        return "always"
    if any(isinstance(module, READ_IN_EVAL) for module in [parent, *grandparents]):
        return "eval"
    return None


def trained_dtype(weight_dtype: torch.dtype, autocast_adapter_dtype: bool) -> torch.dtype:
    """HF PEFT's rule: adapters of 16-bit bases are float32, unless the user declines."""
    if not weight_dtype.is_floating_point:
        return torch.float32  # a quantised base
    return torch.float32 if autocast_adapter_dtype and weight_dtype in (torch.float16, torch.bfloat16) else weight_dtype
