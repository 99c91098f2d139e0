# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
# Made from the registry by `python -m veneer stubs`; do not edit.
import enum
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

CONFIG_NAME: str
TASK_HEADS: dict[str, list[str]]
CONFIG_CLASSES: dict[str, type[PeftConfig]]

class TaskType(str, enum.Enum):
    SEQ_CLS = "SEQ_CLS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    CAUSAL_LM = "CAUSAL_LM"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"

class PeftConfig:
    peft_type: ClassVar[str]
    is_prompt_learning: ClassVar[bool]
    target_modules: list[str] | str | dict[str, list[str]] | None
    exclude_modules: list[str] | str | None
    modules_to_save: list[str] | None
    layers_to_transform: list[int] | int | None
    layers_pattern: list[str] | str | None
    task_type: TaskType | str | None
    inference_mode: bool
    fan_in_fan_out: bool
    base_model_name_or_path: str | None
    revision: str | None
    auto_mapping: dict[str, Any] | None
    peft_version: str | None
    def to_dict(self) -> dict[str, Any]: ...
    def save_pretrained(self, save_directory: str | os.PathLike[str], **changes: Any) -> None: ...
    def to_file(self, **changes: Any) -> bytes: ...
    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> PeftConfig: ...

def python_type(option: dict[str, Any]) -> str: ...
def from_foreign(values: dict[str, Any]) -> PeftConfig: ...
def as_config(config: Any) -> PeftConfig: ...
def write_whole(files: Mapping[Path, bytes]) -> None: ...

class AdditiveConfig(PeftConfig):
    matrix: str | dict[str, Any]
    start: str
    scaling: float
    dropout: float
    bias: str
    use_dora: bool
    dora_dropout: str
    def __init__(
        self,
        *,
        matrix: str | dict[str, Any] = ...,
        start: str = ...,
        scaling: float = ...,
        dropout: float = ...,
        bias: str = ...,
        use_dora: bool = ...,
        dora_dropout: str = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class BottleneckConfig(PeftConfig):
    matrix: str | dict[str, Any]
    down_matrix: str | dict[str, Any] | None
    up_matrix: str | dict[str, Any] | None
    init_weights: str
    bottleneck_size: int
    reduction_factor: float
    placement: str
    non_linearity: str
    scaling: float
    dropout: float
    use_bias: bool
    hidden_size: int
    def __init__(
        self,
        *,
        matrix: str | dict[str, Any] = ...,
        down_matrix: str | dict[str, Any] | None = ...,
        up_matrix: str | dict[str, Any] | None = ...,
        init_weights: str = ...,
        bottleneck_size: int = ...,
        reduction_factor: float = ...,
        placement: str = ...,
        non_linearity: str = ...,
        scaling: float = ...,
        dropout: float = ...,
        use_bias: bool = ...,
        hidden_size: int = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class C3AConfig(PeftConfig):
    block_size: int
    block_size_pattern: dict[str, int]
    init_weights: bool | str
    bias: str
    def __init__(
        self,
        *,
        block_size: int = ...,
        block_size_pattern: dict[str, int] = ...,
        init_weights: bool | str = ...,
        bias: str = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class CompacterConfig(PeftConfig):
    phm_dim: int
    phm_rank: int
    shared_phm_rule: bool
    phm_init_std: float
    init_weights: str
    bottleneck_size: int
    reduction_factor: float
    placement: str
    non_linearity: str
    scaling: float
    dropout: float
    use_bias: bool
    hidden_size: int
    def __init__(
        self,
        *,
        phm_dim: int = ...,
        phm_rank: int = ...,
        shared_phm_rule: bool = ...,
        phm_init_std: float = ...,
        init_weights: str = ...,
        bottleneck_size: int = ...,
        reduction_factor: float = ...,
        placement: str = ...,
        non_linearity: str = ...,
        scaling: float = ...,
        dropout: float = ...,
        use_bias: bool = ...,
        hidden_size: int = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class IA3Config(PeftConfig):
    feedforward_modules: list[str] | str | None
    init_ia3_weights: bool
    def __init__(
        self,
        *,
        feedforward_modules: list[str] | str | None = ...,
        init_ia3_weights: bool = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class KronAConfig(PeftConfig):
    variant: str
    factors: list[list[int]]
    placement: str | None
    hidden_size: int
    scaling: float
    dropout: float
    bias: str
    use_dora: bool
    dora_dropout: str
    def __init__(
        self,
        *,
        variant: str = ...,
        factors: list[list[int]] = ...,
        placement: str | None = ...,
        hidden_size: int = ...,
        scaling: float = ...,
        dropout: float = ...,
        bias: str = ...,
        use_dora: bool = ...,
        dora_dropout: str = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class LoKrConfig(PeftConfig):
    r: int
    alpha: float
    rank_dropout: float
    rank_dropout_scale: bool
    module_dropout: float
    decompose_both: bool
    decompose_factor: int
    init_weights: bool | str
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    def __init__(
        self,
        *,
        r: int = ...,
        alpha: float = ...,
        rank_dropout: float = ...,
        rank_dropout_scale: bool = ...,
        module_dropout: float = ...,
        decompose_both: bool = ...,
        decompose_factor: int = ...,
        init_weights: bool | str = ...,
        rank_pattern: dict[str, int] = ...,
        alpha_pattern: dict[str, float] = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class LoraConfig(PeftConfig):
    r: int
    lora_alpha: float
    lora_dropout: float
    bias: str
    use_rslora: bool
    use_dora: bool
    dora_dropout: str
    init_lora_weights: bool | str
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    def __init__(
        self,
        *,
        r: int = ...,
        lora_alpha: float = ...,
        lora_dropout: float = ...,
        bias: str = ...,
        use_rslora: bool = ...,
        use_dora: bool = ...,
        dora_dropout: str = ...,
        init_lora_weights: bool | str = ...,
        rank_pattern: dict[str, int] = ...,
        alpha_pattern: dict[str, float] = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class LorettaConfig(PeftConfig):
    mode: str
    tensor_rank: int
    r: int
    lora_alpha: float
    bottleneck_size: int
    placement: str | None
    non_linearity: str
    scaling: float
    dropout: float
    down_shape: list[int]
    up_shape: list[int]
    hidden_size: int
    def __init__(
        self,
        *,
        mode: str = ...,
        tensor_rank: int = ...,
        r: int = ...,
        lora_alpha: float = ...,
        bottleneck_size: int = ...,
        placement: str | None = ...,
        non_linearity: str = ...,
        scaling: float = ...,
        dropout: float = ...,
        down_shape: list[int] = ...,
        up_shape: list[int] = ...,
        hidden_size: int = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class LortaConfig(PeftConfig):
    r: int
    lora_alpha: float
    num_attention_heads: int
    orientation: str
    scaling: float
    dropout: float
    bias: str
    use_dora: bool
    dora_dropout: str
    def __init__(
        self,
        *,
        r: int = ...,
        lora_alpha: float = ...,
        num_attention_heads: int = ...,
        orientation: str = ...,
        scaling: float = ...,
        dropout: float = ...,
        bias: str = ...,
        use_dora: bool = ...,
        dora_dropout: str = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class MethodConfig(PeftConfig):
    method: str
    options: dict[str, Any]
    def __init__(
        self,
        *,
        method: str = ...,
        options: dict[str, Any] = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class MoreConfig(PeftConfig):
    nblocks: int
    blk_r: int
    scaling: float
    dropout: float
    bias: str
    use_dora: bool
    dora_dropout: str
    def __init__(
        self,
        *,
        nblocks: int = ...,
        blk_r: int = ...,
        scaling: float = ...,
        dropout: float = ...,
        bias: str = ...,
        use_dora: bool = ...,
        dora_dropout: str = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class SurmConfig(PeftConfig):
    structure: str
    form: str | None
    rank: int
    block_size: int
    padding: bool
    scaling: float
    dropout: float
    bias: str
    use_dora: bool
    dora_dropout: str
    def __init__(
        self,
        *,
        structure: str = ...,
        form: str | None = ...,
        rank: int = ...,
        block_size: int = ...,
        padding: bool = ...,
        scaling: float = ...,
        dropout: float = ...,
        bias: str = ...,
        use_dora: bool = ...,
        dora_dropout: str = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class SurmAdapterConfig(PeftConfig):
    structure: str
    form: str | None
    rank: int
    block_size: int
    padding: bool
    placement: str
    non_linearity: str
    scaling: float
    dropout: float
    use_bias: bool
    hidden_size: int
    def __init__(
        self,
        *,
        structure: str = ...,
        form: str | None = ...,
        rank: int = ...,
        block_size: int = ...,
        padding: bool = ...,
        placement: str = ...,
        non_linearity: str = ...,
        scaling: float = ...,
        dropout: float = ...,
        use_bias: bool = ...,
        hidden_size: int = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...

class VeraConfig(PeftConfig):
    r: int
    projection_prng_key: int
    save_projection: bool
    vera_dropout: float
    d_initial: float
    bias: str
    init_weights: bool
    def __init__(
        self,
        *,
        r: int = ...,
        projection_prng_key: int = ...,
        save_projection: bool = ...,
        vera_dropout: float = ...,
        d_initial: float = ...,
        bias: str = ...,
        init_weights: bool = ...,
        target_modules: list[str] | str | dict[str, list[str]] | None = ...,
        exclude_modules: list[str] | str | None = ...,
        modules_to_save: list[str] | None = ...,
        layers_to_transform: list[int] | int | None = ...,
        layers_pattern: list[str] | str | None = ...,
        task_type: TaskType | str | None = ...,
        inference_mode: bool = ...,
        fan_in_fan_out: bool = ...,
        base_model_name_or_path: str | None = ...,
        revision: str | None = ...,
        auto_mapping: dict[str, Any] | None = ...,
        peft_version: str | None = ...,
    ) -> None: ...
