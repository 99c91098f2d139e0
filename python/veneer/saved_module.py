# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""A module that is trained and saved whole beside an adapter (modules_to_save): one copy an adapter."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from veneer.adapted import AdaptedLayer
from veneer.names import listed


def inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper of ours wraps; None for any other module."""
    if isinstance(module, AdaptedLayer):
        return module.base_layer
    return module.original_module if isinstance(module, SavedModule) else None


def _plain_copy(module: nn.Module) -> nn.Module:
    root = nn.ModuleDict({"copy": copy.deepcopy(module)})
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            while child is not None and (wrapped := inside(child)) is not None:
                child = parent._modules[name] = wrapped  # noqa: PLW2901
    return root["copy"]


class SavedModule(nn.Module):
    """Holds the original, frozen, and a trained copy of it for each adapter; the active adapter's copy acts. Names are HF
    PEFT's, so state dicts have its keys."""

    def __init__(self, original_module: nn.Module, path: str) -> None:
        super().__init__()
        self.original_module = original_module
        self.modules_to_save = nn.ModuleDict()
        self.path = path
        self.active: list[str] = []
        self.disabled = False
        self.training = self.modules_to_save.training = original_module.training

    def add(self, name: str) -> None:
        """Adds a copy of the original, without other adapters' layers in it, for an adapter."""
        self.modules_to_save[name] = _plain_copy(self.original_module)

    def remove(self, name: str) -> None:
        del self.modules_to_save[name]
        self.activate([active for active in self.active if active != name])

    def activate(self, names: list[str]) -> None:
        """Sets the adapters that act; at most one of them may have a copy here."""
        here = [name for name in names if name in self.modules_to_save]
        if len(here) > 1:
            raise ValueError(
                f"[veneer] adapters {', '.join(here)} each have their own {self.path} (modules_to_save); only one of "
                "them can be active"
            )
        self.active = here

    def check_bypassed(self) -> None:
        """Refuses active adapters on layers of the original for which the copy of another one acts."""
        for layer in self.original_module.modules() if self.active else ():
            if isinstance(layer, AdaptedLayer) and layer.active:
                raise ValueError(
                    f"[veneer] adapters cannot act together at {layer.path}: {listed(layer.active)} adapts it, and "
                    f"{self.active[0]} has its own {self.path} (modules_to_save)"
                )

    def disable(self, disabled: bool) -> None:
        self.disabled = disabled

    @property
    def current(self) -> nn.Module:
        """The module that acts now."""
        return self.modules_to_save[self.active[0]] if self.active and not self.disabled else self.original_module

    def tensors(self, name: str) -> dict[str, Tensor]:
        """An adapter's copy: key below the module's path -> tensor."""
        return self.modules_to_save[name].state_dict(keep_vars=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.current(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "original_module" not in self.__dict__.get("_modules", {}) or name.startswith("__"):
                raise
            return getattr(self.current, name)
