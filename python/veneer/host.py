# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The host of a model's adapters: wraps the matched modules, owns what layers share, and keeps track of what acts and what
is trained. `PeftModel` is its user-facing side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from veneer import base, sites
from veneer.adapted import AdaptedLayer, Slot, Tensors
from veneer.biases import Biases
from veneer.config import PeftConfig
from veneer.method import Spec, bind, ops
from veneer.names import block_index, listed, suggestion
from veneer.saved_module import SavedModule


class Host(nn.Module):
    """Holds the user's model as `model`, with adapted layers in place of the matched modules."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"[veneer] expected a torch.nn.Module to adapt, got {type(model).__name__}")
        if any(isinstance(module, Host) or sites.inside(module) is not None for module in model.modules()):
            raise ValueError(
                "[veneer] the model carries adapters already: use add_adapter(name, config) of the PeftModel that wraps it, "
                "or unload() that first"
            )
        self.model = model
        self.peft_config: dict[str, PeftConfig] = {}
        self.active: list[str] = []
        self.disabled = False
        self.frozen = False  # the active adapters act and are not trained
        self.unloaded = False
        self._shared: dict[str, list[tuple[Spec, Slot]]] = {}  # adapter -> tensors shared by its layers
        self._biases: dict[str, Biases] = {}  # adapter -> what it trains of the base
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

    def merged(self) -> set[str]:
        """Names of the adapters whose updates are in the base's weights."""
        return {name for layer in self.layers() for name in layer.merged_adapters}

    # Adding and removing --------------------------------------------------------------------------------------------

    def add(self, name: str, config: PeftConfig, autocast_adapter_dtype: bool) -> None:
        """Adds an adapter, inactive. On any error the model is as before."""
        if self.unloaded:
            raise RuntimeError(
                "[veneer] the adapters were unloaded: get_peft_model(model, config) adapts the model anew"
            )
        self._check_name(name)
        self._check_bias(config)
        if self.merged():
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
            for one, layer in zip(found, layers, strict=True):
                self._put(one.place, layer)
                layer.disable(self.disabled)
            for place in saved:
                wrapper = next((w for w in place.wrappers if isinstance(w, SavedModule)), None)
                if wrapper is None:
                    wrapper = SavedModule(place.parent._modules[place.name], place.path)
                    self._put(place, wrapper)
                    wrapper.disable(self.disabled)
                wrapper.add(name)
            self._add_biases(name, config, layers)
        except BaseException:  # a module that cannot be copied, no memory
            self._take_out(name, layers)
            raise
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
        if base.is_peft_layer(place.module):
            raise ValueError(
                f"[veneer] {place.path} carries adapters of Hugging Face PEFT ({type(place.module).__name__}): "
                "merge_and_unload() or unload() those first, or name other modules"
            )
        size = None
        if found.wiring != "linear":
            given, known = getattr(config, "hidden_size", 0), base.hidden_size(place.module, found.wiring == "input")
            if given and known and given != known:
                raise ValueError(
                    f"[{type(config).__name__}] hidden_size must be {known}, the size of the hidden state at {place.path} "
                    f"({type(place.module).__name__}), got {given}"
                )
            size = given or known or getattr(getattr(self.model, "config", None), "hidden_size", None)
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
        if name in self.merged():
            raise RuntimeError(f"[veneer] {name} is merged: unmerge_adapter() before deleting it")
        self._take_out(name, self.layers())
        del self.peft_config[name]
        self.active = [active for active in self.active if active != name]
        self._mark()

    def _take_out(self, name: str, layers: list[AdaptedLayer]) -> None:
        """Removes what an adapter has in the model, all of it or a part, and the wrappers that this leaves empty."""
        if name in self._biases:
            self._biases.pop(name).rest(True)
        self._drop_tensors(name, layers)
        for wrapper in self.saved():
            if name in wrapper.modules_to_save:
                wrapper.remove(name)
        self._unwrap(lambda layer: not (layer.adapters if isinstance(layer, AdaptedLayer) else layer.modules_to_save))

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
        self.unloaded = True
        for wrapper in self.saved():
            wrapper.original_module = wrapper.current
        self._unwrap(lambda layer: True)  # noqa: ARG005
        for name in list(self.peft_config):
            self._drop_tensors(name, [])
        self.peft_config, self.active, self._biases = {}, [], {}
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
        for kind in (nn.ModuleDict, Tensors):  # what holds an adapter's tensors and modules by its name
            if hasattr(kind(), name):
                raise ValueError(
                    f"[veneer] an adapter cannot be called `{name}`, which is an attribute of {kind.__name__}; choose another "
                    "name"
                )

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
        modules = [layer.base_layer for layer in layers]
        if option == "all":  # as in HF PEFT: called `bias`, so neither in_proj_bias nor relative_attention_bias.weight
            modules = [self.model, *(place.module for place in sites.places(self.model))]
        self._biases[name] = Biases(modules)
        self._biases[name].rest(self.disabled)

    # What acts, what is trained -------------------------------------------------------------------------------------

    def activate(self, names: list[str], frozen: bool = False) -> None:
        """Sets the active adapters, trained unless `frozen`; refuses, and changes nothing, if they cannot act together."""
        for name in names:
            self.known(name)
        if len(set(names)) != len(names):
            raise ValueError(f"[veneer] an adapter can be active once; got {listed(names)}")
        merged = self.merged()
        if merged and list(names) != self.active:
            raise RuntimeError(
                f"[veneer] {listed(sorted(merged))} is merged: unmerge_adapter() before activating others"
            )
        if not merged:
            try:
                for module in [*self.layers(), *self.saved()]:
                    module.activate(names)
                for wrapper in self.saved():
                    wrapper.check_bypassed()
            except ValueError:
                for module in [*self.layers(), *self.saved()]:
                    module.activate(self.active)
                raise
        self.active, self.frozen = list(names), frozen
        self._mark()

    def disable(self, disabled: bool) -> None:
        """Makes the model the base again, or lets the active adapters act again."""
        if disabled and self.merged():
            raise RuntimeError("[veneer] adapters are merged: unmerge_adapter() before disabling them")
        for biases in self._biases.values():
            biases.rest(disabled)
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
        modules = self._biases[name].modules if name in self._biases else ()
        found += [module._parameters["bias"] for module in modules if id(module) not in resting]
        return [p for p in found if isinstance(p, nn.Parameter)]

    def _mark(self) -> None:
        for name in self.peft_config:
            for parameter in self.trained(name):
                parameter.requires_grad_(name in self.active and not self.frozen)

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
        for key, tensor in self._trained_biases(name, "base_model."):
            found[key] = key, tensor
        return found

    def _trained_biases(self, name: str, prefix: str) -> Iterator[tuple[str, Tensor]]:
        names = {id(module): path for path, module in self.named_modules()}
        for module, tensor in self._biases[name].trained() if name in self._biases else ():
            yield f"{prefix}{names[id(module)]}.bias", tensor

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """While disabled: with the trained biases, so that a saved state is the truth."""
        state = super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        if self.disabled:
            state.update(item for name in self._biases for item in self._trained_biases(name, prefix))
        return state

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.disabled and self._biases:
            raise RuntimeError("[veneer] adapters are disabled: leave disable_adapter() before loading a state dict")
        super()._load_from_state_dict(*args, **kwargs)
