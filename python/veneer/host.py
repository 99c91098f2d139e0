# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The host of a model's adapters: wraps the matched modules, owns what layers share, and keeps track of what acts and what
is trained. `PeftModel` is its user-facing side."""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from veneer import base, sites
from veneer.adapted import AdaptedLayer, Slot, Tensors
from veneer.config import PeftConfig
from veneer.method import Spec, bind, ops
from veneer.names import block_index, listed, suggestion
from veneer.saved_module import SavedModule


class Host(nn.Module):
    """Holds the user's model as `model`, with adapted layers in place of the matched modules."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.peft_config: dict[str, PeftConfig] = {}
        self.active: list[str] = []
        self.disabled = False
        self._shared: dict[str, list[tuple[Spec, Slot]]] = {}  # adapter -> tensors shared by its layers
        self._biases: dict[
            str, list[tuple[nn.Module, Tensor]]
        ] = {}  # adapter -> trained biases' modules, original values
        self._was_trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.training = model.training  # not train(): parts that the user keeps in another mode stay in it

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def layers(self) -> list[AdaptedLayer]:
        """All adapted layers, in the model's order."""
        return [module for module in self.model.modules() if isinstance(module, AdaptedLayer)]

    def saved(self) -> list[SavedModule]:
        return [module for module in self.model.modules() if isinstance(module, SavedModule)]

    # Adding and removing --------------------------------------------------------------------------------------------

    def add(self, name: str, config: PeftConfig, autocast_adapter_dtype: bool) -> None:
        """Adds an adapter, inactive. On any error the model is as before."""
        self._check_name(name)
        self._check_bias(config)
        if any(layer.merged_adapters for layer in self.layers()):
            raise RuntimeError("[veneer] adapters are merged: unmerge_adapter() before adding another")
        found = sites.find(self.model, config)
        layers = [self._layer_at(one, config) for one in found]
        site_list = [
            {
                **layer.site(),
                "path": layer.path,
                "layer": block_index(layer.path),
                "role": layer.path.rpartition(".")[2],
            }
            for layer in layers
        ]
        methods, shared_specs = bind(config.to_dict(), site_list)
        dtype, device = self._dtype_and_device(layers[0])
        wide = base.trained_dtype(dtype, autocast_adapter_dtype)
        saved = sites.saved_modules(self.model, config)
        try:
            shared = self._add_shared(name, shared_specs, wide, device)
            for layer, method in zip(layers, methods, strict=True):
                dtype, device = self._dtype_and_device(layer)
                layer.add(name, method, shared, base.trained_dtype(dtype, autocast_adapter_dtype), device)
        except BaseException:
            self._drop_tensors(name, layers)
            raise
        for one, layer in zip(found, layers, strict=True):
            self._put(one.place, layer)
        for place in saved:
            wrapper = next((w for w in place.wrappers if isinstance(w, SavedModule)), None)
            if wrapper is None:
                wrapper = SavedModule(place.parent._modules[place.name], place.path)
                self._put(place, wrapper)
            wrapper.add(name)
        self._add_biases(name, config, layers)
        self.peft_config[name] = config
        self._mark()

    def _layer_at(self, found: sites.Found, config: PeftConfig) -> AdaptedLayer:
        place = found.place
        for wrapper in place.wrappers:
            if isinstance(wrapper, AdaptedLayer) and (wrapper.wiring, wrapper.argument) == (
                found.wiring,
                found.argument,
            ):
                return wrapper
        size = None
        if found.wiring != "linear":
            size = (
                getattr(config, "hidden_size", 0)
                or base.hidden_size(place.module, found.wiring == "input")
                or getattr(getattr(self.model, "config", None), "hidden_size", None)
            )
            if not size:
                raise ValueError(
                    f"[{type(config).__name__}] the size of the hidden state at {place.path} ({type(place.module).__name__}) is "
                    "not known from the module or the model's config; give hidden_size"
                )
        # A linear layer is adapted innermost: the methods at its hidden state see its adapted output.
        inner = place.module if found.wiring == "linear" else place.parent._modules[place.name]
        return AdaptedLayer(
            inner,
            place.path,
            found.wiring,
            size=size,
            argument=found.argument,
            read_by=base.weight_reader(place.parent, place.above),
        )

    @staticmethod
    def _put(place: sites.Place, layer: AdaptedLayer | SavedModule) -> None:
        """Registers a wrapper around what it wraps: at the place itself, or inside the wrappers that are there."""
        wrapped = sites.inside(layer)
        holder, name = place.parent, place.name
        here = holder._modules[name]
        while here is not layer and here is not wrapped:
            holder, name = here, "base_layer" if isinstance(here, AdaptedLayer) else "original_module"
            here = holder._modules[name]
        holder._modules[name] = layer

    def _dtype_and_device(self, layer: AdaptedLayer) -> tuple[torch.dtype, torch.device]:
        tensors = [*layer.base_layer.parameters(), *layer.base_layer.buffers(), *self.model.parameters()]
        if not tensors:
            return torch.get_default_dtype(), torch.device("cpu")
        return tensors[0].dtype, tensors[0].device

    def _add_shared(
        self, name: str, specs: list[dict[str, Any]], dtype: torch.dtype, device: torch.device
    ) -> list[Slot]:
        if not specs:
            return []
        slots = []
        with torch.no_grad():
            tensors = ops.initial_shared(json.dumps(specs), dtype, device)
        self._shared[name] = []
        for spec, tensor in zip(specs, tensors, strict=True):
            *path, last = spec["key"].format(adapter=name).split(".")
            holder = Tensors.at(self, path)
            holder.put(last, tensor, spec["trainable"])
            slots.append((holder, last))
            self._shared[name].append(
                (Spec(spec["name"], spec["shape"], spec["key"], spec["trainable"], spec["saved"]), (holder, last))
            )
        return slots

    def _drop_tensors(self, name: str, layers: list[AdaptedLayer]) -> None:
        for layer in layers:
            if name in layer.adapters:
                layer.remove(name)
        for spec, _ in self._shared.pop(name, []):
            Tensors.prune(self, spec.key.format(adapter=name).split("."))

    def delete(self, name: str) -> None:
        """Deletes an adapter and unwraps the layers that it leaves without any."""
        self.known(name)
        if any(name in layer.merged_adapters for layer in self.layers()):
            raise RuntimeError(f"[veneer] {name} is merged: unmerge_adapter() before deleting it")
        self._restore_biases(name)
        self._drop_tensors(name, self.layers())
        for wrapper in self.saved():
            if name in wrapper.modules_to_save:
                wrapper.remove(name)
        del self.peft_config[name]
        self.active = [active for active in self.active if active != name]
        self._unwrap(lambda layer: not (layer.adapters if isinstance(layer, AdaptedLayer) else layer.modules_to_save))
        self._mark()

    def _unwrap(self, which: Any) -> None:
        for place in list(sites.places(self.model)):
            holder, name = place.parent, place.name
            while (inner := sites.inside(here := holder._modules[name])) is not None:
                if which(here):
                    holder._modules[name] = inner
                else:
                    holder, name = here, "base_layer" if isinstance(here, AdaptedLayer) else "original_module"

    def unload(self) -> nn.Module:
        """The plain model, with merged weights and trained biases where they are, and saved modules' active copies in place
        only if they act; drops every adapter. Trainable is what was so before."""
        for wrapper in self.saved():
            wrapper.original_module = wrapper.current
        self._unwrap(lambda layer: True)  # noqa: ARG005
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self._was_trained)
        return self.model

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"[veneer] an adapter's name must be a string without dots, got {name!r}")
        if name in self.peft_config:
            raise ValueError(
                f"[veneer] there is an adapter `{name}` already; delete_adapter({name!r}) first, or choose another name"
            )
        if hasattr(nn.Module(), name):
            raise ValueError(f"[veneer] an adapter cannot be called `{name}`, which is an attribute of torch.nn.Module")

    def known(self, name: str) -> PeftConfig:
        """The configuration of an adapter; ValueError for an unknown one."""
        if name not in self.peft_config:
            raise ValueError(
                f"[veneer] unknown adapter `{name}`; known: {listed(self.peft_config)}{suggestion(str(name), self.peft_config)}"
            )
        return self.peft_config[name]

    # Biases of the base ---------------------------------------------------------------------------------------------

    def _check_bias(self, config: PeftConfig) -> None:
        if self.peft_config and any(getattr(c, "bias", "none") != "none" for c in [config, *self.peft_config.values()]):
            raise ValueError(
                f"[{type(config).__name__}] an adapter that trains biases of the base must be the only one on a model"
            )

    def _add_biases(self, name: str, config: PeftConfig, layers: list[AdaptedLayer]) -> None:
        option = getattr(config, "bias", "none")
        if option == "none":
            return
        modules = (
            [place.module for place in sites.places(self.model)]
            if option == "all"
            else [layer.base_layer for layer in layers]
        )
        # The original values are kept: they are the base when the adapter is disabled or unloaded.
        self._biases[name] = [
            (m, m._parameters["bias"].detach().clone()) for m in modules if m._parameters.get("bias") is not None
        ]

    def _swap_biases(self) -> None:
        with torch.no_grad():
            for name, pairs in self._biases.items():
                swapped = []
                for module, other in pairs:
                    parameter = module._parameters["bias"]
                    current = parameter.detach().clone()
                    parameter.copy_(other)
                    swapped.append((module, current))
                self._biases[name] = swapped

    def _restore_biases(self, name: str) -> None:
        if name in self._biases:
            if not self.disabled:
                self._swap_biases()
            del self._biases[name]

    # What acts, what is trained -------------------------------------------------------------------------------------

    def activate(self, names: list[str]) -> None:
        """Sets the active adapters; refuses, and changes nothing, if they cannot act together."""
        for name in names:
            self.known(name)
        if len(set(names)) != len(names):
            raise ValueError(f"[veneer] an adapter can be active once; got {listed(names)}")
        merged = {m for layer in self.layers() for m in layer.merged_adapters}
        if merged and list(names) != self.active:
            raise RuntimeError(
                f"[veneer] {listed(sorted(merged))} is merged: unmerge_adapter() before activating others"
            )
        before = self.active
        try:
            for module in [*self.layers(), *self.saved()]:
                module.activate(names)
        except ValueError:
            for module in [*self.layers(), *self.saved()]:
                module.activate(before)
            raise
        self.active = list(names)
        self._mark()

    def disable(self, disabled: bool) -> None:
        """Makes the model the base again, or lets the active adapters act again."""
        if disabled and any(layer.merged_adapters for layer in self.layers()):
            raise RuntimeError("[veneer] adapters are merged: unmerge_adapter() before disabling them")
        if disabled != self.disabled:
            self._swap_biases()
        self.disabled = disabled
        for module in [*self.layers(), *self.saved()]:
            module.disable(disabled)

    def trained(self, name: str) -> list[nn.Parameter]:
        """The parameters that training an adapter changes."""
        found = [
            getattr(h, n) for layer in self.layers() if name in layer.adapters for h, n in layer.adapters[name].own
        ]
        found += [getattr(holder, n) for _, (holder, n) in self._shared.get(name, [])]
        found += [
            p
            for wrapper in self.saved()
            if name in wrapper.modules_to_save
            for p in wrapper.modules_to_save[name].parameters()
        ]
        resting = {
            id(m) for wrapper in self.saved() for m in wrapper.original_module.modules()
        }  # a saved copy acts for it
        found += [module._parameters["bias"] for module, _ in self._biases.get(name, []) if id(module) not in resting]
        return [p for p in found if isinstance(p, nn.Parameter)]

    def _mark(self) -> None:
        for name, config in self.peft_config.items():
            for parameter in self.trained(name):
                parameter.requires_grad_(name in self.active and not config.inference_mode)

    # Merging --------------------------------------------------------------------------------------------------------

    def merge(
        self,
        names: list[str] | None,
        keep_on: torch.device | str | None,
        safe: bool,
        progress: Any = None,
        keep: bool = True,
    ) -> None:
        """Merges adapters (the active ones) into the base weights: all or nothing, where copies are kept."""
        names = list(self.active if names is None else names)
        for name in names:
            self.known(name)
        layers = self.layers()
        merged = {m for layer in layers for m in layer.merged_adapters}
        if merged:
            if merged == set(names):
                warnings.warn(f"[veneer] {listed(names)} is merged already", stacklevel=3)
                return
            raise RuntimeError(
                f"[veneer] {listed(sorted(merged))} is merged: unmerge_adapter() before merging {listed(names)}"
            )
        active = self.active
        self.activate(names)  # refuses what cannot act together
        self.activate(active)
        owners = self._owners()
        for layer in layers:
            here = [name for name in names if name in layer.adapters]
            refusal = layer.merge_refusal(here) if here else None
            if here and refusal is None:
                others = [path for path in owners[id(layer.base_layer.weight)] if path != layer.path]
                if others:
                    refusal = (
                        f"the weight of {layer.path} is also that of {listed(others)}, which merging would change; untie "
                        "them first"
                    )
            if refusal:
                raise ValueError(f"[veneer] cannot merge: {refusal}")
        done = []
        try:
            for layer in progress(layers) if progress else layers:
                layer.merge(names, keep_on, safe, keep)
                done.append(layer)
        except BaseException:
            for layer in done:
                layer.unmerge()
            raise

    def _owners(self) -> dict[int, list[str]]:
        owners: dict[int, list[str]] = {}
        seen = set()
        for place in sites.places(self.model):
            if (id(place.module), "weight") not in seen:
                seen.add((id(place.module), "weight"))
                for parameter in place.module._parameters.values():
                    owners.setdefault(id(parameter), []).append(place.path)
        return owners

    def unmerge(self) -> None:
        layers = self.layers()
        if not any(layer.merged_adapters for layer in layers):
            warnings.warn("[veneer] nothing is merged", stacklevel=3)
        for layer in layers:
            layer.unmerge()

    # Tensors of an adapter ------------------------------------------------------------------------------------------

    def tensors(self, name: str) -> dict[str, tuple[str, Tensor]]:
        """An adapter's saved tensors: key in files (HF PEFT's) -> (key in PeftModel's state dict, the tensor)."""
        names = {id(module): path for path, module in self.named_modules(prefix="base_model")}
        found: dict[str, tuple[str, Tensor]] = {}

        def put(file_key: str, holder: nn.Module, attribute: str) -> None:
            found[file_key] = (f"{names[id(holder)]}.{attribute}", getattr(holder, attribute))

        for layer in self.layers():
            adapter = layer.adapters.get(name)
            for spec, slot in zip(adapter.specs, adapter.own, strict=True) if adapter else ():
                if spec.saved:
                    put(f"base_model.model.{layer.path}.{spec.key.replace('.{adapter}', '')}", *slot)
        for spec, slot in self._shared.get(name, []):
            if spec.saved:
                put(f"base_model.{spec.key.replace('.{adapter}', '')}", *slot)
        for wrapper in self.saved():
            if name in wrapper.modules_to_save:
                prefix = f"{names[id(wrapper)]}.modules_to_save.{name}"
                for key, tensor in wrapper.tensors(name).items():
                    found[f"base_model.model.{wrapper.path}.{key}"] = (f"{prefix}.{key}", tensor)
        for module, _ in self._biases.get(name, []):
            put(f"{names[id(module)]}.bias", module, "bias")
        return found
