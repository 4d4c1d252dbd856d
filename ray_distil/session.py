"""The Ray that a run works on, and the environment of its worker processes."""

import logging
import os
import warnings

# One definition of what every worker process sees, on this machine and on a cluster.
WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def start_ray(num_cpus: int | None) -> None:
    """Connect to the cluster that the job runs on, else start a Ray of `num_cpus` logical CPUs on this machine."""
    local = "RAY_ADDRESS" not in os.environ
    if local:
        # Nobody watches this Ray's dashboard, and its reporter would take a tenth of a core.
        os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")  # of the C++ side, in this process
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", message="Use 'expr' instead of 'fn'")
    import ray
    import ray.data

    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        ray.init(
            num_cpus=num_cpus if local else None,
            include_dashboard=False if local else None,
            runtime_env={"env_vars": WORKER_ENV},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
