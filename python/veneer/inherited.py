# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""`PeftModel` is an instance of `peft.PeftModel` where peft is installed, and uses nothing of it."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn


def parent() -> type[nn.Module]:
    """What PeftModel derives from. transformers' Trainer treats only instances of peft.PeftModel as adapted models (it saves
    and resumes the adapter alone), so ours is one where peft is installed."""
    if importlib.util.find_spec("peft") is None:
        return nn.Module
    import peft

    return peft.PeftModel


def close(cls: type[nn.Module]) -> None:
    """Makes every public attribute that `cls` would inherit from peft, and that is not nn.Module's, an error: half of it
    would act on structures that are not there."""

    def closed(name: str) -> property:
        def refuse(self: Any) -> Any:
            base = self._modules["base_model"].model if "base_model" in self.__dict__.get("_modules", {}) else None
            if base is not None and hasattr(base, name):
                return getattr(base, name)
            raise AttributeError(f"[veneer] PeftModel has no `{name}`")

        return property(refuse)

    for above in cls.__mro__[1:]:
        if above.__module__.split(".")[0] in ("peft", "transformers"):
            for name in vars(above):
                if not name.startswith("__") and name not in vars(cls) and not hasattr(nn.Module, name):
                    setattr(cls, name, closed(name))
