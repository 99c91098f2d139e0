# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""`get_peft_model` and `PeftModel`, with HF PEFT's names, arguments and meanings."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from veneer import inherited, merging, sites, states, status, weighted
from veneer.config import PeftConfig, as_config
from veneer.explain import Explanation, explain
from veneer.files import read_tensors, to_load, write_adapter
from veneer.host import Host
from veneer.names import listed

logger = logging.getLogger("veneer")
# The levels of the C++ library's log, which has one more below and one above Python's.
LOG_LEVELS = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40, "critical": 50, "off": 60}
if level := os.environ.get("VENEER_LOG"):
    if level not in LOG_LEVELS:
        raise ValueError(f"VENEER_LOG must be one of: {', '.join(LOG_LEVELS)}; got {level}")
    logging.basicConfig()
    logger.setLevel(LOG_LEVELS[level])


def get_peft_model(
    model: nn.Module,
    peft_config: PeftConfig,
    adapter_name: str = "default",
    mixed: bool = False,
    autocast_adapter_dtype: bool = True,
    revision: str | None = None,
    low_cpu_mem_usage: bool = False,  # noqa: ARG001
) -> PeftModel:
    """Freezes `model`, adapts it in place and returns it wrapped.

    Args:
        model: any module; a transformers model gets default targets.
        peft_config: a configuration of ours, or one of HF PEFT's for a method we have.
        adapter_name: name of the adapter; no dots.
        mixed: must be False.
        autocast_adapter_dtype: keep the adapter in float32 where the base is float16 or bfloat16.
        revision: of the base model, written into the adapter's configuration in place of the one there.
        low_cpu_mem_usage: accepted as HF PEFT's, without effect.

    Raises:
        ValueError: a name that matches nothing, a size a method cannot have, an unknown choice.
    """
    if mixed:
        raise ValueError(
            "[veneer] mixed must be False, got True: there is no PeftMixedModel, since any PeftModel takes adapters of several "
            "methods: add_adapter(name, config), then set_adapter([names]) of those that compose"
        )
    if revision is not None:
        peft_config = copy.deepcopy(as_config(peft_config))
        if peft_config.revision not in (None, revision):
            warnings.warn(
                f"[veneer] revision={revision!r} replaces the configuration's {peft_config.revision!r}", stacklevel=2
            )
        peft_config.revision = revision
    return PeftModel(model, peft_config, adapter_name, autocast_adapter_dtype)


class PeftModel(inherited.parent()):  # type: ignore[misc]
    """A model with adapters. Forward, and every attribute not named here, is the base's."""

    def __init__(
        self,
        model: nn.Module,
        peft_config: PeftConfig,
        adapter_name: str = "default",
        autocast_adapter_dtype: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        self.base_model = Host(model)
        try:
            self.add_adapter(adapter_name, peft_config, autocast_adapter_dtype=autocast_adapter_dtype)
        except BaseException:
            self.base_model.unload()
            raise
        self.set_adapter(adapter_name, inference_mode=self.peft_config[adapter_name].inference_mode)
        self.training = model.training
        checkpointed = any(getattr(module, "gradient_checkpointing", False) is True for module in model.modules())
        if checkpointed and hasattr(model, "enable_input_require_grads"):
            # Reentrant checkpoints carry no gradient if none of their inputs needs one, and the embeddings are frozen.
            model.enable_input_require_grads()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return nn.Module.__getattr__(self, name)
        except AttributeError:
            if "base_model" not in self.__dict__.get("_modules", {}) or name.startswith("__"):
                raise
            return getattr(self._modules["base_model"].model, name)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The base's `generate`, with the adapters acting."""
        return self.get_base_model().generate(*args, **kwargs)

    def get_base_model(self) -> nn.Module:
        """The model given to `get_peft_model`, with adapted layers in it."""
        return self.base_model.model

    # Adapters -------------------------------------------------------------------------------------------------------

    @property
    def peft_config(self) -> dict[str, PeftConfig]:
        """Configurations by adapter name."""
        return self.base_model.peft_config

    @property
    def active_adapters(self) -> list[str]:
        """Names of the adapters that act."""
        return list(self.base_model.active)

    @property
    def active_adapter(self) -> str | list[str]:
        """The adapter that acts; a list where several do."""
        active = self.active_adapters
        return active[0] if len(active) == 1 else active

    @property
    def active_peft_config(self) -> PeftConfig:
        """Configuration of the (first) active adapter."""
        if not self.active_adapters:
            raise ValueError(f"[veneer] expected an active adapter, got none; known: {listed(self.peft_config)}")
        return self.peft_config[self.active_adapters[0]]

    def add_adapter(
        self,
        adapter_name: str,
        peft_config: PeftConfig,
        low_cpu_mem_usage: bool = False,  # noqa: ARG002
        autocast_adapter_dtype: bool = True,
    ) -> None:
        """Adds an adapter with fresh tensors; `set_adapter` makes it act. On any error the model is as before. Arguments as in
        `get_peft_model`."""
        config = copy.deepcopy(as_config(peft_config))
        self._complete(config)
        self.base_model.add(adapter_name, config, autocast_adapter_dtype)
        logger.debug("added %s (%s)", adapter_name, type(config).__name__)

    def _complete(self, config: PeftConfig) -> None:
        base = self.get_base_model()
        if isinstance(config.target_modules, str) and config.target_modules.lower() == "all-linear":
            config.target_modules = sites.all_linear(base, config)
        if config.target_modules is None and not getattr(config, "placement", None):
            for name, value in sites.default_targets(base, config).items():
                setattr(config, name, value)
        if getattr(config, "num_attention_heads", None) == 0:
            config.num_attention_heads = getattr(getattr(base, "config", None), "num_attention_heads", None) or 0
        if config.base_model_name_or_path is None:
            config.base_model_name_or_path = getattr(base, "name_or_path", None) or None

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "svd",
        svd_rank: int | None = None,
    ) -> None:
        """Adds an adapter that is a weighted sum of LoRA adapters: `veneer.weighted` says which and how."""
        weighted.add(self, _names(adapters, "adapters"), weights, adapter_name, combination_type, svd_rank)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Makes one adapter, or several that compose, act; only these are trained, even if they were loaded frozen (none with
        `inference_mode`)."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        self.base_model.activate(names, frozen=inference_mode)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("active: %s\n%s", listed(names), self.explain())

    def delete_adapter(self, adapter_name: str) -> None:
        """Deletes an adapter and frees its tensors. If it was the only active one, none is active."""
        self.base_model.delete(adapter_name)

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within the context, the model is the base: no adapter, original heads and biases."""
        before = self.base_model.disabled
        self.base_model.disable(True)
        try:
            yield
        finally:
            self.base_model.disable(before)

    # Merging --------------------------------------------------------------------------------------------------------

    def merge_adapter(
        self,
        adapter_names: list[str] | None = None,
        safe_merge: bool = False,
        keep_on: torch.device | str | None = None,
    ) -> None:
        """Writes the active adapters (or `adapter_names`) into the base weights, all or nothing.

        Args:
            adapter_names: which; default the active ones.
            safe_merge: refuse weights with NaN or infinity.
            keep_on: device for the copy of each merged weight that `unmerge_adapter` restores; default the weight's own.

        Raises:
            ValueError: an adapter that has no effective weight, or a weight tied to another layer.
        """
        merging.merge(self.base_model, _names(adapter_names, "adapter_names"), keep_on, safe_merge)

    def unmerge_adapter(self) -> None:
        """Restores the weights from before `merge_adapter`, bit for bit."""
        merging.unmerge(self.base_model)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """The base model with plain layers and the adapters in its weights. Keeps no copies."""
        progress = None
        if progressbar:
            from tqdm.auto import tqdm

            progress = lambda layers: tqdm(layers, desc="merging", unit="layer")  # noqa: E731
        return merging.merge_and_unload(self.base_model, _names(adapter_names, "adapter_names"), safe_merge, progress)

    def unload(self) -> nn.Module:
        """The base model as it was, without adapters."""
        host = self.base_model
        if host.merged():
            merging.unmerge(host)
        for name in list(host.peft_config):
            host.delete(name)
        return host.unload()

    # Files ----------------------------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        selected_adapters: list[str] | None = None,
        *,
        state_dict: dict[str, Tensor] | None = None,
        is_main_process: bool = True,
    ) -> None:
        """Writes each adapter's `adapter_config.json` and `adapter_model.safetensors`; one not called "default" goes into a
        sub-folder of its name. The files are HF PEFT's.

        Args:
            save_directory: made if needed.
            safe_serialization: only safetensors is written; False is an error.
            selected_adapters: which; default all.
            state_dict: tensors to write in place of the model's own (a gathered state dict).
            is_main_process: False writes nothing.
        """
        if not safe_serialization:
            raise ValueError("[veneer] safe_serialization must be True: only safetensors is written")
        if Path(save_directory).is_file():
            raise ValueError(f"[veneer] expected a folder, got the file {save_directory}")
        if not self.peft_config:
            raise RuntimeError("[veneer] there is no adapter to save: all were unloaded or deleted")
        names = _names(selected_adapters, "selected_adapters")
        for name in list(self.peft_config) if names is None else names:
            tensors = states.take(self.base_model, name, state_dict)
            if is_main_process:
                folder = Path(save_directory) if name == "default" else Path(save_directory) / name
                write_adapter(folder, self.peft_config[name], tensors)

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module,
        model_id: str | os.PathLike,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: PeftConfig | None = None,
        autocast_adapter_dtype: bool = True,
        *,
        subfolder: str = "",
        torch_device: torch.device | str | None = None,
        low_cpu_mem_usage: bool = False,  # noqa: ARG003
    ) -> PeftModel:
        """Adapts `model` with a saved adapter (ours or HF PEFT's). Strict: missing, unexpected and misshapen tensors are an
        error that lists them. Tensors of the model's input and output embeddings, which HF PEFT's files hold where those are
        adapted or were resized (or with save_embedding_layers), are copied into the base, as HF PEFT does.

        Args:
            model: the base.
            model_id: folder with the two files.
            adapter_name: name the adapter gets here.
            is_trainable: False freezes it.
            config: used in place of the file's.
            autocast_adapter_dtype: keep the adapter in float32 where the base is float16 or bfloat16.
            subfolder: of `model_id`, where the files are.
            torch_device: where the file's tensors are read to, before they go where the base is.
            low_cpu_mem_usage: accepted as HF PEFT's, without effect.
        """
        folder = Path(model_id) / subfolder
        config = to_load(as_config(config) if config is not None else PeftConfig.from_pretrained(folder), folder)
        config.inference_mode = not is_trainable
        tensors = read_tensors(folder, torch_device)
        result = cls(model, config, adapter_name, autocast_adapter_dtype)
        try:
            states.fill(result.base_model, adapter_name, tensors, str(folder))
        except BaseException:
            result.unload()  # the base is the caller's: give it back as it was
            raise
        return result

    def load_adapter(
        self,
        model_id: str | os.PathLike,
        adapter_name: str,
        is_trainable: bool = False,
        torch_device: torch.device | str | None = None,
        autocast_adapter_dtype: bool = True,
        *,
        subfolder: str = "",
        low_cpu_mem_usage: bool = False,  # noqa: ARG002
    ) -> None:
        """Loads a saved adapter under a name: a new one is added (not activated), one that is there, and is configured as
        the file says, gets the file's tensors. Arguments, and the base's embeddings in the file, as in `from_pretrained`."""
        folder = Path(model_id) / subfolder
        config = to_load(PeftConfig.from_pretrained(folder), folder)
        config.inference_mode = not is_trainable
        tensors = read_tensors(folder, torch_device)
        fresh = adapter_name not in self.peft_config
        if fresh:
            self.add_adapter(adapter_name, config, autocast_adapter_dtype=autocast_adapter_dtype)
        else:
            self._complete(config)
            differing = sites.differences(self.get_base_model(), self.peft_config[adapter_name], config)
            if differing:
                raise ValueError(
                    f"[veneer] {folder} is configured otherwise than the adapter {adapter_name}, into which it is to be loaded: "
                    f"{listed(differing)}; load it under another name"
                )
        try:
            states.fill(self.base_model, adapter_name, tensors, str(folder))
        except BaseException:
            if fresh:
                self.delete_adapter(adapter_name)
            raise

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Refused: the base's own would push the model with adapted layers in it."""
        raise AttributeError(
            "[veneer] PeftModel has no `push_to_hub`: save_pretrained(folder) writes the adapter, and huggingface_hub's "
            "upload_folder pushes it"
        )

    # Looking --------------------------------------------------------------------------------------------------------

    def get_layer_status(self) -> list[status.TunerLayerStatus]:
        """The state of each adapted layer, in the model's order."""
        return status.get_layer_status(self)

    def get_model_status(self) -> status.TunerModelStatus:
        """The state of all adapters."""
        return status.get_model_status(self)

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(trainable, all) numbers of parameters."""
        counts = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)

    def print_trainable_parameters(self) -> None:
        """Prints `trainable params: 74,498 || all params: 22,787,714 || trainable%: 0.3269`."""
        trainable, total = self.get_nb_trainable_parameters()
        print(
            f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {100 * trainable / max(total, 1):.4f}"
        )

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """For every adapter on every layer: method, parameters, path and its reason. Given the model's inputs, one forward
        also measures the bytes each layer keeps for backward."""
        return explain(self.base_model, args, kwargs)


def _names(names: list[str] | None, argument: str) -> list[str] | None:
    if isinstance(names, str):
        raise TypeError(f"[veneer] {argument} must be a list of names, got {names!r}; write [{names!r}]")
    return None if names is None else list(names)


inherited.close(PeftModel)
