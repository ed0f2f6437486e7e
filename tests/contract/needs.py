# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the plugin needs of vLLM that cannot be told from its imports and its classes."""

from __future__ import annotations

CONNECTOR = "KVDirectConnector"

# Methods of the connector that only newer versions call, and that older ones do without.
NEWER = {
    "get_mem_pool_context": "0.31, where the cache can be born in shared memory",
    "get_loaded_kv_cache_group_ids": "0.32, where it keeps blocks from being cleared that a pull will fill",
    "supports_sleep_mode": "0.33, which asks before it unmaps the cache",
}

# Methods without which nothing is ever pulled: vLLM must call them by these names.
EVERYWHERE = (
    "__init__",
    "get_num_new_matched_tokens",
    "update_state_after_alloc",
    "build_connector_meta",
    "update_connector_output",
    "request_finished_all_groups",
    "register_kv_caches",
    "get_handshake_metadata",
    "bind_connector_metadata",
    "start_load_kv",
    "wait_for_save",
    "get_transfer_results",
    "build_connector_worker_meta",
    "shutdown",
)

_BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"
_METRICS = "vllm.distributed.kv_transfer.kv_connector.v1.metrics"
_FACTORY = "vllm.distributed.kv_transfer.kv_connector.factory"
_CACHE = "vllm.v1.kv_cache_interface"

# What of a request vLLM hashes blocks by, beside token ids: a ticket's digest covers it.
HASHED = ("lora_request", "mm_features", "cache_salt", "prompt_embeds")
HASHING = ("vllm.v1.core.kv_cache_utils", r"_gen_\w+_extra_hash_keys|generate_block_hash_extra_keys")

READ: dict[tuple[str, str], tuple[str, ...]] = {
    ("vllm.config", "KVTransferConfig"): (
        "kv_connector",
        "kv_role",
        "kv_port",
        "engine_id",
        "kv_buffer_device",
        "kv_connector_extra_config",
        "is_kv_producer",
        "is_kv_consumer",
    ),
    ("vllm.config", "VllmConfig"): (
        "kv_transfer_config",
        "model_config",
        "cache_config",
        "parallel_config",
        "compilation_config",
        "observability_config",
    ),
    ("vllm.config", "ObservabilityConfig"): ("otlp_traces_endpoint",),
    ("vllm.config", "ModelConfig"): (
        "model",
        "dtype",
        "use_mla",
        "hf_text_config",
        "get_total_num_kv_heads",
        "enable_sleep_mode",
    ),
    ("vllm.config", "CacheConfig"): ("cache_dtype",),
    ("vllm.config", "CompilationConfig"): ("static_forward_context",),
    ("vllm.config", "ParallelConfig"): (
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "decode_context_parallel_size",
        "prefill_context_parallel_size",
        "data_parallel_rank",
        "data_parallel_index",
        "rank",
    ),
    ("vllm.platforms.interface", "Platform"): ("device_type", "is_cpu"),
    (_BASE, "KVConnectorRole"): ("SCHEDULER",),
    (_BASE, "KVConnectorTransferResults"): ("finished_sending", "finished_recving", "failed_recving"),
    (_METRICS, "KVConnectorPromMetrics"): (
        "_histogram_cls",
        "_counter_cls",
        "_labelnames",
        "per_engine_labelvalues",
    ),
    (_FACTORY, "KVConnectorFactory"): ("_registry",),
    ("vllm.v1.outputs", "KVConnectorOutput"): (
        "finished_sending",
        "finished_recving",
        "failed_recving",
        "kv_connector_worker_meta",
    ),
    ("vllm.v1.request", "Request"): (
        "request_id",
        "kv_transfer_params",
        "all_token_ids",
        "num_prompt_tokens",
        "num_computed_tokens",
        "num_preemptions",
        "status",
        "sampling_params",
        "abort_immediately",
        "get_skip_reading_prefix_cache",
        "max_tokens",
        "prompt_token_ids",
        "_all_token_ids",
        "block_hashes",
        "update_block_hashes",
        "trace_headers",
        *HASHED,
    ),
    ("vllm.lora.request", "LoRARequest"): ("lora_name", "lora_path"),
    ("vllm.multimodal.inputs", "MultiModalFeatureSpec"): ("identifier", "mm_position"),
    ("vllm.multimodal.inputs", "PlaceholderRange"): ("offset",),
    ("vllm.v1.request", "RequestStatus"): ("FINISHED_LENGTH_CAPPED", "FINISHED_STOPPED"),
    ("vllm.v1.core.sched.output", "SchedulerOutput"): ("num_scheduled_tokens", "scheduled_spec_decode_tokens"),
    ("vllm.v1.core.sched.scheduler", "Scheduler"): (
        "has_finished_requests",
        "set_pause_state",
        "get_request_counts",
        "pause_state",
        "finished_req_ids",
        "requests",
        "connector",
        "kv_cache_manager",
    ),
    ("vllm.v1.core.sched.interface", "PauseState"): ("PAUSED_ALL",),
    ("vllm.v1.core.kv_cache_manager", "KVCacheManager"): (
        "get_block_ids",
        "reset_prefix_cache",
        "evict_blocks",
        "block_pool",
    ),
    ("vllm.v1.core.block_pool", "BlockPool"): ("num_gpu_blocks", "get_num_free_blocks"),
    ("vllm.v1.core.kv_cache_manager", "KVCacheBlocks"): ("get_block_ids",),
    (_CACHE, "KVCacheConfig"): ("kv_cache_groups", "transfer_group_ids"),
    (_CACHE, "KVCacheGroupSpec"): ("layer_names", "kv_cache_spec"),
    (_CACHE, "UniformTypeKVCacheSpecs"): ("kv_cache_specs", "block_size"),
    (_CACHE, "MambaSpec"): ("block_size", "shapes", "dtypes", "mamba_type"),
    (_CACHE, "FullAttentionSpec"): ("block_size", "num_kv_heads", "head_size", "head_size_v"),
    ("vllm.v1.attention.backend", "AttentionBackend"): ("get_name",),
}

# Calls into vLLM, as the plugin makes them.
CALLED: dict[tuple[str, str], tuple[str, str]] = {
    (_FACTORY, "KVConnectorFactory"): ("register_connector", "register_connector(name, module, cls)"),
    ("vllm.engine.arg_utils", "EngineArgs"): ("add_cli_args", "add_cli_args(parser)"),
    (_METRICS, "KVConnectorPromMetrics"): (
        "__init__",
        "__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)",
    ),
    ("vllm.v1.core.kv_cache_manager", "KVCacheManager"): ("get_block_ids", "get_block_ids(request_id)"),
    ("vllm.v1.core.kv_cache_manager", "KVCacheBlocks"): ("get_block_ids", "get_block_ids()"),
}

TEXTS = (
    ("vllm.plugins", "vllm.general_plugins"),
    ("vllm.engine.arg_utils", "--kv-transfer-config"),
    # How it names multimodal items that it does not hash (scheduler/prompt.py).
    ("vllm.renderers.base", 'f"renderer{self.api_process_rank}-mm-'),
    ("vllm.renderers.base", 'f"{mm_req_id}-{modality}-{i}"'),
)
