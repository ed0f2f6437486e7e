# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Prefill and decode as deployments of Ray Serve on one node, with vLLM for the CPU: `make ray-example`.

One vLLM engine answers all prompts first. Then Ray starts two, and the same prompts go to its HTTP server. The tokens
must be the same, the cache of each prompt must have been pulled once, and nothing that was started may be left.
"""

import argparse
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

# Ray reports its use to its makers unless it is told not to, before it is imported.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# On a small machine Ray's own processes take long to start, with the niceness that it gives them, and would be given up
# and started again.
os.environ.update({"RAY_worker_niceness": "0"})
os.environ.update({f"RAY_SERVE_PROXY_{what}_CHECK_TIMEOUT_S": "60" for what in ("READY", "HEALTH")})
# All that is started has it in its environment; by it what is left is found.
MARK = f"KVDIRECT_RAY_EXAMPLE={secrets.token_hex(8)}"
os.environ.update([MARK.split("=")])

import ray  # noqa: E402
from ray import serve  # noqa: E402
from ray.serve.llm import LLMConfig  # noqa: E402

from kvdirect.harness.completions import TALE, complete  # noqa: E402
from kvdirect.harness.model import make_tiny_llama  # noqa: E402
from kvdirect.harness.processes import CPU_ENVIRONMENT, ProcessSet, free_port, vllm_engine  # noqa: E402
from kvdirect.ray_serve import build_pd_openai_app  # noqa: E402

MODEL = "demo"
ENGINE = {
    "dtype": "float32",
    "max_model_len": 2048,
    "kv_cache_memory_bytes": 128 << 20,
    "block_size": 32,
    "enforce_eager": True,
    "max_num_seqs": 8,
}
PROMPTS = [f"{number}. " + (TALE * 6)[: 200 * (number + 1)] for number in range(6)]


def say(text: str) -> None:
    """One line of progress."""
    print(f"ray_serve_pd: {text}", flush=True)


def tokens_of(url: str, tag: str) -> list[tuple[int, ...]]:
    """What is answered to each prompt."""
    return [complete(url, prompt, f"{tag}-{number}", timeout=120).tokens for number, prompt in enumerate(PROMPTS)]


def reference(model: Path, folder: Path) -> list[tuple[int, ...]]:
    """The tokens of one engine that prefills and decodes."""
    options = []
    for name, value in ENGINE.items():
        if name not in {"enforce_eager", "max_num_seqs"}:  # as it has them anyway
            options += [f"--{name.replace('_', '-')}", str(value)]
    engine = vllm_engine("aggregated", str(model), folder, options=options, offline=True)
    with ProcessSet([engine], deadline=600, say=say):
        return tokens_of(engine.url, "reference")


def deployment(name: str, role: str, model: Path, **settings: str) -> LLMConfig:
    """One engine on one CPU; what replicas must not share is left to `kvdirect.ray_serve`."""
    transfer = {"kv_connector": "kvdirect", "kv_role": role, "kv_connector_extra_config": settings}
    return LLMConfig(
        model_loading_config={"model_id": MODEL, "model_source": str(model)},
        accelerator_type=None,
        placement_group_config={"bundles": [{"CPU": 1}]},
        deployment_config={
            "name": name,
            "autoscaling_config": {"min_replicas": 1, "max_replicas": 1},
            "health_check_timeout_s": 60,
        },
        engine_kwargs={**ENGINE, "distributed_executor_backend": "uni", "kv_transfer_config": transfer},
        runtime_env={"env_vars": {**CPU_ENVIRONMENT, "HF_HUB_OFFLINE": "1"}},
    )


@contextlib.contextmanager
def ray_here(folder: Path) -> Iterator[None]:
    """Ray on this node alone, for as long as the block runs."""
    try:
        # Each engine and each part of Serve asks for a CPU of its own; they are counted, and not bound to any.
        ray.init(
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=128 << 20,
            _temp_dir=str(folder),
        )
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def disaggregated(model: Path, folder: Path, pull_log: Path) -> list[tuple[int, ...]]:
    """The tokens of two engines that Ray starts."""
    port = free_port()
    configs = {
        "prefill_config": deployment("prefill", "kv_producer", model),
        "decode_config": deployment("decode", "kv_consumer", model, pull_log=str(pull_log)),
    }
    with ray_here(folder):
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        # Not before: whoever builds it without a Ray gets one with other settings.
        serve.run(build_pd_openai_app(configs), name="pd")
        say("both engines are up")
        return tokens_of(f"http://127.0.0.1:{port}", "ray")


def complaints_in_logs(folder: Path) -> list[str]:
    """Lines of Ray's logs that say that it does not know the connector."""
    return [
        f"{log.name}: {line}"
        for log in folder.rglob("*")
        if log.is_file() and log.suffix in {".log", ".out", ".err"}
        for line in log.read_text(errors="replace").splitlines()
        if "Unsupported connector backend" in line
    ]


def left_behind() -> list[int]:
    """Processes that were started here and are not yet gone."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(entry.name) != os.getpid() and MARK.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def end_all(seconds: float = 30) -> list[int]:
    """Wait for what was started, and end what does not end by itself; the process ids of that."""
    deadline = time.monotonic() + seconds
    while (left := left_behind()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def problems(folder: Path) -> list[str]:
    """Run everything; what was not as it should be."""
    model, pull_log = make_tiny_llama(folder / "model"), folder / "pulls.jsonl"
    say("one engine answers first")
    expected = reference(model, folder)
    say("Ray starts two, which takes a minute or two")
    found = disaggregated(model, folder / "ray", pull_log)
    wrong = [
        f"prompt {number}: {got} instead of {want}"
        for number, (got, want) in enumerate(zip(found, expected, strict=True))
        if got != want
    ]
    pulls: list[dict[str, Any]] = [json.loads(line) for line in pull_log.read_text().splitlines()]
    moved = sum(pull["bytes"] for pull in pulls)
    if len(pulls) != len(PROMPTS) or not all(pull["status"] == "ok" and pull["bytes"] > 0 for pull in pulls):
        wrong.append(f"{len(pulls)} pulls for {len(PROMPTS)} prompts: {pulls}")
    wrong += complaints_in_logs(folder / "ray")
    lanes = sorted({pull["lane"] for pull in pulls})
    same = sum(got == want for got, want in zip(found, expected, strict=True))
    say(f"{same} of {len(PROMPTS)} prompts identical, {moved} bytes in {len(pulls)} pulls over {', '.join(lanes)}")
    return wrong


def too_late(_number: int, _frame: FrameType | None) -> None:
    """The time is over: everything is ended on the way out."""
    raise TimeoutError("not done in time")


def main() -> int:
    """The exit status: 0 if all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for everything")
    parser.add_argument("--keep", type=Path, help="keep logs in this folder if something is wrong")
    options = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Ray has every request shown
    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(options.timeout)
    # Below /tmp, as Ray makes unix sockets in it, whose paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="kvd-", dir="/tmp"))
    wrong = ["it broke off"]
    try:
        wrong = problems(folder)
    except Exception:  # noqa: BLE001  (whatever it is, it is told before all is ended)
        traceback.print_exc()
    finally:
        signal.alarm(0)
        if left := end_all():
            wrong.append(f"processes were left: {left}")
        if wrong and options.keep:
            shutil.copytree(folder, options.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("sockets", "model"))
        shutil.rmtree(folder, ignore_errors=True)
    for line in wrong:
        say(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
