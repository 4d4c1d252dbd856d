"""vLLM's engine arguments that change no text: how a model is loaded, divided, scheduled and watched, not what it says.

The groups are vLLM's own. Two ways to divide or compute a model round differently, so that a text may differ in the end
as it does from one run of an engine to the next; that is no reason to pay for it again. An argument that is not here
counts as changing texts: `dtype`, `quantization`, `kv_cache_dtype`, `hf_overrides`, speculative decoding, ...
"""

from typing import Any

SILENT: dict[str, set[str]] = {
    "ParallelConfig": {
        "all2all_backend", "cp_kv_cache_interleave_size", "cpu_distributed_timeout_seconds",
        "data_parallel_address", "data_parallel_backend", "data_parallel_external_lb", "data_parallel_hybrid_lb",
        "data_parallel_multi_port_external_lb", "data_parallel_rank", "data_parallel_rpc_port",
        "data_parallel_size", "data_parallel_size_local", "data_parallel_start_rank",
        "dbo_decode_token_threshold", "dbo_prefill_token_threshold", "dcp_comm_backend",
        "dcp_kv_cache_interleave_size", "dcp_q_replicate", "decode_context_parallel_size", "device_ids",
        "disable_custom_all_reduce", "disable_nccl_for_dp_synchronization", "distributed_executor_backend",
        "distributed_timeout_seconds", "enable_batch_sharded_sampling", "enable_dbo", "enable_elastic_ep",
        "enable_ep_weight_filter", "enable_eplb", "enable_expert_parallel", "enable_fault_tolerance",
        "eplb_config", "expert_placement_strategy", "fault_tolerance_config", "master_addr", "master_port",
        "max_parallel_loading_workers", "nnodes", "node_rank", "numa_bind", "numa_bind_cpus", "numa_bind_nodes",
        "pipeline_parallel_size", "prefill_context_parallel_size", "ray_workers_use_nsight",
        "tensor_parallel_size", "ubatch_size",
    },
    "SchedulerConfig": {
        "async_scheduling", "disable_chunked_mm_input", "disable_hybrid_kv_cache_manager",
        "enable_chunked_prefill", "long_prefill_token_threshold", "max_num_batched_tokens", "max_num_queued_reqs",
        "max_num_queued_tokens", "max_num_scheduled_tokens", "max_num_seqs", "prefill_schedule_interval",
        "scheduler_reserve_full_isl", "scheduling_policy", "stream_interval", "watermark",
    },
    "LoadConfig": {
        "download_dir", "pt_load_map_location", "safetensors_load_strategy", "safetensors_prefetch_block_size",
        "safetensors_prefetch_num_threads", "use_tqdm_on_load",
    },
    "CacheConfig": {
        "block_size", "enable_prefix_caching", "gpu_memory_utilization", "kv_cache_memory_bytes",
        "kv_offloading_backend", "kv_offloading_size", "mamba_block_size", "mamba_cache_mode",
        "num_gpu_blocks_override", "prefix_cache_retention_interval", "prefix_caching_hash_algo",
        "prefix_match_unit",
    },
    "OffloadConfig": {
        "cpu_offload_gb", "cpu_offload_params", "offload_backend", "offload_group_size", "offload_num_in_group",
        "offload_params", "offload_prefetch_step",
    },
    "ObservabilityConfig": {
        "collect_detailed_traces", "cudagraph_metrics", "enable_layerwise_nvtx_tracing",
        "enable_logging_iteration_details", "enable_mfu_metrics", "jit_monitor_mode", "jit_monitor_verbose",
        "kv_cache_metrics", "kv_cache_metrics_sample", "otlp_traces_endpoint", "per_request_spec_decode_metrics",
        "show_hidden_metrics_for_version",
    },
    "CompilationConfig": {
        "cudagraph_capture_sizes", "max_cudagraph_capture_size",
    },
    "KernelConfig": {
        "enable_flashinfer_autotune", "ir_op_priority", "linear_backend", "moe_backend",
    },
    "AttentionConfig": {
        "attention_backend",
    },
    "options": {
        "aggregate_engine_logging", "disable_log_stats", "fail_on_environ_validation", "gdn_prefill_backend",
        "kda_prefill_backend", "shutdown_timeout",
    },
    "MultiModalConfig": {
        "interleave_mm_strings", "language_model_only", "limit_mm_per_prompt", "media_io_kwargs",
        "mm_device_do_normalize", "mm_encoder_attn_backend", "mm_encoder_attn_dtype", "mm_encoder_fp8_scale_path",
        "mm_encoder_fp8_scale_save_margin", "mm_encoder_fp8_scale_save_path", "mm_encoder_only",
        "mm_encoder_tp_mode", "mm_hasher_algorithm", "mm_ipc_gpu_memory_gb", "mm_processor_cache_gb",
        "mm_processor_cache_type", "mm_processor_device", "mm_processor_kwargs",
        "mm_shm_cache_max_object_size_mb", "mm_tensor_ipc", "skip_mm_profiling", "video_pruning_method",
        "video_pruning_rate",
    },
    "ModelConfig": {
        "allowed_local_media_path", "allowed_media_domains", "disable_cascade_attn", "enable_cumem_allocator",
        "enable_sleep_mode", "enforce_eager", "hf_token", "max_logprobs", "max_model_len", "renderer_num_workers",
        "served_model_name", "trust_remote_code",
    },
    "VllmConfig": {
        "attention_config", "compilation_config", "ec_manager_config", "ec_transfer_config", "kernel_config",
        "kv_events_config", "kv_transfer_config", "optimization_level", "performance_mode", "profiler_config",
        "weight_transfer_config",
    },
    "of earlier versions of vLLM": {"swap_space"},
}  # fmt: skip
NAMES = frozenset().union(*SILENT.values())
DUMMY = "dummy"  # a `load_format` of random weights; all others load the same weights


def of_texts(engine_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that change texts."""
    is_dummy = engine_kwargs.get("load_format") == DUMMY
    arguments = {name: value for name, value in engine_kwargs.items() if name not in {*NAMES, "load_format"}}
    return arguments | ({"load_format": DUMMY} if is_dummy else {})
