# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Veneer: thin trained layers on frozen models. See the README for a tour and docs/architecture.md for the design."""

from veneer import _load  # noqa: F401 - checks torch's version, then loads the operators
from veneer._core import version as _version
from veneer.config import *  # noqa: F403 - the configuration classes are made from the registry
from veneer.config import __all__ as _configs
from veneer.method import Method, constant, method, normal, ones, uniform, zeros
from veneer.model import PeftModel, get_peft_model
from veneer.project import Projection, project
from veneer.states import get_peft_model_state_dict, set_peft_model_state_dict
from veneer.status import get_layer_status, get_model_status

__version__ = _version()
__all__ = [
    *_configs,
    "Method",
    "PeftModel",
    "Projection",
    "constant",
    "get_layer_status",
    "get_model_status",
    "get_peft_model",
    "get_peft_model_state_dict",
    "method",
    "normal",
    "ones",
    "project",
    "set_peft_model_state_dict",
    "uniform",
    "zeros",
]
