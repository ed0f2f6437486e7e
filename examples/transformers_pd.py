# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Prefill in one process and decode in another, with a Hugging Face model and without vLLM.

Each process has a model, and a pool of blocks in which the model's cache lies. The prefill process leases the blocks of
a prompt and says which they are; the decode process pulls them into other blocks of its own pool and goes on from
there. The tokens must be those of `model.generate` in one process.

The first token comes with the lease: the prefill process has it anyway, so a user could see it before anything is
pulled, and the decode process computes no position of the prompt again.
"""

import argparse
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection

import numpy as np
import torch
from transformers import Cache, DynamicLayer, LlamaConfig, LlamaForCausalLM

import kvtransfer as kt

LAYERS, HEADS, HEAD_DIM, VOCABULARY = 4, 2, 32, 512
BLOCK_TOKENS, PREFILL_BLOCKS, DECODE_BLOCKS = 16, 64, 96
SECONDS = 240.0  # no wait is longer: a lease ends by then, whatever becomes of its reader


class PagedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of a model's cache, in the blocks of a table; `length` positions are there already."""

    def __init__(self, pool: torch.Tensor, table: list[int], length: int) -> None:
        super().__init__()
        self.keys, self.values = pool.flatten(1, 2)
        within = torch.arange(BLOCK_TOKENS, device=pool.device)
        self.slots = (torch.tensor(table, device=pool.device)[:, None] * BLOCK_TOKENS + within).flatten()
        self.length = length
        self.is_initialized = True

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, ...]:
        """Write the new positions into their blocks; gather all, which a kernel for paged attention would not need."""
        start, self.length = self.length, self.length + keys.shape[-2]
        new, seen = self.slots[start : self.length], self.slots[: self.length]
        self.keys[new], self.values[new] = keys[0].transpose(0, 1), values[0].transpose(0, 1)
        return self.keys[seen].transpose(0, 1)[None], self.values[seen].transpose(0, 1)[None]

    def get_seq_length(self) -> int:  # noqa: D102
        return self.length


class Worker:
    """What both processes have: a model, the same in both, a pool for its cache, and an engine that moves blocks."""

    def __init__(self, name: str, device: str, blocks: int) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=LAYERS, head_dim=HEAD_DIM,
            num_attention_heads=4, num_key_value_heads=HEADS, initializer_range=0.3, eos_token_id=None,
        )  # fmt: skip
        self.model = LlamaForCausalLM(config).to(device).eval().requires_grad_(False)
        self.free: list[int] = torch.randperm(blocks).tolist()  # in no order, as in a pool that has been in use
        self.leased: dict[kt.LeaseRef, list[int]] = {}
        shape = (LAYERS, 2, blocks, BLOCK_TOKENS, HEADS, HEAD_DIM)
        # Host memory that others are to map (lane shm) comes from the library; on a GPU torch's own will do.
        on_gpu = device == "cuda"
        self.pool = torch.zeros(shape, device=device) if on_gpu else torch.from_numpy(kt.empty(shape, np.float32))
        self.engine = kt.Engine(name=name)
        axes = ("layer", "side", "block", "token", "head", "element")
        self.engine.publish(kt.TensorMap([self.engine.register_tensor("kv", self.pool, axes)]))

    def take_blocks(self, positions: int) -> list[int]:
        """A block table for so many positions, once enough leases have ended."""
        count = -(-positions // BLOCK_TOKENS)
        while len(self.free) < count and self.leased:
            self.take_back()
        if len(self.free) < count:
            raise RuntimeError(f"{positions} positions need {count} blocks; {len(self.free)} are free")
        return [self.free.pop() for _ in range(count)]

    def take_back(self) -> None:
        """Blocks whose lease has ended are free."""
        time.sleep(0.001)
        for end in self.engine.take_ended():
            self.free += self.leased.pop(end.lease)

    def cache(self, table: list[int], length: int = 0) -> Cache:
        """The model's cache, in the blocks of `table`."""
        return Cache(layers=[PagedLayer(layer, table, length) for layer in self.pool])

    def step(self, cache: Cache, tokens: list[int]) -> torch.Tensor:
        """Put `tokens` after what is in the cache; the most likely next one."""
        ids = torch.tensor([tokens], device=self.pool.device)
        return self.model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[0, -1].argmax()

    def decode(self, cache: Cache, first: int, count: int) -> list[int]:
        """So many tokens, of which the first is given."""
        tokens = [first]
        while len(tokens) < count:
            tokens.append(int(self.step(cache, tokens[-1:])))
        return tokens

    def generate(self, prompt: list[int], count: int) -> list[int]:
        """What must come out: the tokens of this process alone, with the cache that transformers makes by itself."""
        ids = torch.tensor([prompt], device=self.pool.device)
        mask = torch.ones_like(ids)
        whole = self.model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False)
        return list(whole[0, len(prompt) :].tolist())

    def stream(self) -> int | None:
        """On a GPU work is only queued: the engine must know on which stream, to wait for it."""
        return torch.cuda.current_stream().cuda_stream if self.pool.is_cuda else None


def prefill(pipe: Connection, device: str) -> None:
    """The prefill process: lease the cache of each prompt, and have the blocks back when the lease has ended."""
    worker = Worker("prefill", device, PREFILL_BLOCKS)
    pipe.send_bytes(worker.engine.descriptor())
    for prompt in json.loads(receive(pipe)):
        table = worker.take_blocks(len(prompt))
        first = worker.step(worker.cache(table), prompt)
        lease = worker.engine.grant([table], watermark=len(prompt), term=SECONDS, stream=worker.stream())
        worker.leased[lease] = table
        answer = {"slot": lease.slot, "epoch": lease.epoch, "blocks": table, "first": int(first)}
        pipe.send_bytes(json.dumps(answer).encode())
    while worker.leased:
        worker.take_back()


def receive(pipe: Connection) -> bytes:
    """The other process's next message."""
    if not pipe.poll(SECONDS):
        raise TimeoutError(f"the other process has sent nothing for {SECONDS:.0f} s")
    return pipe.recv_bytes()


def main() -> None:
    """The decode process, which starts the other."""
    gpu = torch.cuda.is_available() and kt.CUDA_BUILD
    parser = argparse.ArgumentParser(description="Prefill and decode in two processes, without vLLM.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu else "cpu")
    parser.add_argument("--lane", choices=kt.EngineConfig().lanes, help="refuse any other lane")
    parser.add_argument("--tokens", type=int, default=32, help="tokens per prompt (default: 32)")
    parser.add_argument("--prompts", type=int, default=4, help="how many, of different lengths (default: 4)")
    options = parser.parse_args()
    if options.tokens < 2 or options.prompts < 1:
        parser.error("expected one prompt and two tokens at least; the first token needs no cache")
    context = multiprocessing.get_context("spawn")  # neither engines nor CUDA survive a fork
    pipe, prefills_end = context.Pipe()
    other = context.Process(target=prefill, args=(prefills_end, options.device), daemon=True)
    other.start()
    prefills_end.close()  # so that the end of the other process is the end of the pipe
    worker = Worker("decode", options.device, DECODE_BLOCKS)
    peer = worker.engine.connect(receive(pipe), require_lane=options.lane)
    prompts = [torch.randint(VOCABULARY, (5 + 29 * i % 128,)).tolist() for i in range(options.prompts)]
    pipe.send_bytes(json.dumps(prompts).encode())
    identical = pulled = 0
    for prompt in prompts:
        answer = json.loads(receive(pipe))
        lease, remote = kt.LeaseRef(answer["slot"], answer["epoch"]), answer["blocks"]
        table = worker.take_blocks(len(prompt) + options.tokens)
        local = table[: len(remote)]
        pull = peer.pull(lease, [remote], [local], stop=len(prompt), timeout=SECONDS, stream=worker.stream())
        result = pull.wait()
        peer.complete(lease)  # the prefill process may write to its blocks again
        expected = LAYERS * 2 * len(prompt) * HEADS * HEAD_DIM * worker.pool.itemsize
        if result.bytes != expected:
            sys.exit(f"transformers_pd: {result.bytes} bytes were pulled for {len(prompt)} positions, not {expected}")
        tokens = worker.decode(worker.cache(table, len(prompt)), answer["first"], options.tokens)
        same = tokens == worker.generate(prompt, options.tokens)
        worker.free += table
        identical, pulled = identical + same, pulled + result.bytes
        print(f"{len(prompt)} positions, {remote} to {local}, {expected} bytes:", "identical" if same else "DIFFERENT")
    other.join(SECONDS)
    worker.engine.close()
    moved = f"{pulled / 2**20:.1f} MiB pulled over {peer.lane} on {options.device}"
    print(f"transformers_pd: {identical} of {len(prompts)} prompts identical, {moved}")
    sys.exit(identical != len(prompts))


if __name__ == "__main__":
    main()
