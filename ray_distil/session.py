"""The Ray that a run works on, and the environment of its worker processes."""

import logging
import os

# One definition of what every worker process sees, on this machine and on a cluster.
WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def start_ray(num_cpus: int | None) -> None:
    """Connect to the cluster that the job runs on, else start a Ray of `num_cpus` logical CPUs on this machine."""
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of the C++ side, in this process
    import ray
    import ray.data

    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        local = "RAY_ADDRESS" not in os.environ
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
