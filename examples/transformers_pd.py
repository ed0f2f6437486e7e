# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Prefill in one process and decode in another, with a Hugging Face model and without vLLM.

Each process has a model, and a pool of blocks in which the model's cache lies. The prefill process leases the blocks of
a prompt and says which they are; the decode process pulls them into other blocks of its own pool and goes on from
there, with several requests in each of its steps: one joins as soon as it has been pulled, and leaves when it has its
tokens. The tokens must be those of `model.generate` in one process.

The first token comes with the lease: the prefill process has it anyway, so a user could see it before anything is
pulled, and the decode process computes no position of the prompt again.
"""

import argparse
import json
import multiprocessing
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from transformers import Cache, DynamicLayer, LlamaConfig, LlamaForCausalLM

import kvtransfer as kt

BLOCK_TOKENS, VOCABULARY = 16, 512
SECONDS = 240.0  # no wait is longer: a lease ends by then, whatever becomes of its reader


@dataclass(frozen=True)
class Size:
    """A model with random weights, and prompts that suit it."""

    layers: int
    hidden: int
    heads: int  # of keys and values
    head_dim: int
    step: int  # tokens by which one prompt is longer than the one before
    longest: int

    def prompt(self, index: int) -> list[int]:
        """Random tokens; the lengths differ."""
        tokens: list[int] = torch.randint(VOCABULARY, (5 + self.step * index % self.longest,)).tolist()
        return tokens

    def blocks(self, requests: int, tokens: int) -> int:
        """Enough for so many requests with so many tokens after the prompt."""
        return requests * blocks_for(self.longest + 5 + tokens)


# The large one has 0.7 billion parameters and caches 128 KiB a position.
SIZES = {"small": Size(4, 128, 2, 32, 29, 128), "large": Size(16, 2048, 8, 128, 464, 2048)}


def blocks_for(positions: int) -> int:
    """Blocks that so many positions take."""
    return -(-positions // BLOCK_TOKENS)


class Places:
    """Where the caches of some requests lie: a block table each, and how many positions are there already."""

    def __init__(self, tables: list[list[int]], lengths: list[int], device: torch.device) -> None:
        longest = max(map(len, tables))
        blocks = torch.tensor([table + table[:1] * (longest - len(table)) for table in tables], device=device)
        self.slots = (blocks[:, :, None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS, device=device)).flatten(1)
        self.lengths = torch.tensor(lengths, device=device)[:, None]
        self.longest = max(lengths)

    def new(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions, and slots, of the next `count` tokens of each request."""
        positions = self.lengths + torch.arange(count, device=self.slots.device)
        return positions, self.slots.gather(1, positions)

    def seen(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots of all positions after those, aligned at the end; and where there is one, since lengths differ."""
        every = torch.arange(self.longest + count, device=self.slots.device) - (self.longest - self.lengths)
        return self.slots.gather(1, every.clamp(min=0)), every >= 0


class PagedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of a model's cache, in the blocks of a pool."""

    def __init__(self, pool: torch.Tensor, places: Places) -> None:
        super().__init__()
        self.keys, self.values = pool.flatten(1, 2)
        self.places = places
        self.is_initialized = True

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, ...]:
        """Write the new positions into their blocks; gather all, which a kernel for paged attention would not need."""
        count = keys.shape[-2]
        _, new = self.places.new(count)
        self.keys[new], self.values[new] = keys.transpose(1, 2), values.transpose(1, 2)
        seen, _ = self.places.seen(count)
        return self.keys[seen].transpose(1, 2), self.values[seen].transpose(1, 2)

    def get_seq_length(self) -> int:  # noqa: D102
        return self.places.longest


class Worker:
    """What both processes have: a model, the same in both, a pool for its cache, and an engine that moves blocks."""

    def __init__(self, name: str, device: str, blocks: int, size: Size = SIZES["small"]) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=size.hidden, intermediate_size=2 * size.hidden,
            num_hidden_layers=size.layers, head_dim=size.head_dim, num_attention_heads=2 * size.heads,
            num_key_value_heads=size.heads, initializer_range=3.4 / size.hidden**0.5, eos_token_id=None,
            max_position_embeddings=4096,
        )  # fmt: skip
        with torch.device(device):
            self.model = LlamaForCausalLM(config).eval().requires_grad_(False)
        self.free: list[int] = torch.randperm(blocks).tolist()  # in no order, as in a pool that has been in use
        self.leased: dict[kt.LeaseRef, list[int]] = {}
        shape = (size.layers, 2, blocks, BLOCK_TOKENS, size.heads, size.head_dim)
        # Host memory that others are to map (lane shm) comes from the library; on a GPU torch's own will do.
        on_gpu = device == "cuda"
        self.pool = torch.zeros(shape, device=device) if on_gpu else torch.from_numpy(kt.empty(shape, np.float32))
        self.engine = kt.Engine(name=name)
        axes = ("layer", "side", "block", "token", "head", "element")
        self.engine.publish(kt.TensorMap([self.engine.register_tensor("kv", self.pool, axes)]))

    def take_blocks(self, positions: int) -> list[int]:
        """A block table for so many positions, once enough leases have ended."""
        count = blocks_for(positions)
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

    def step(self, tables: list[list[int]], lengths: list[int], tokens: list[list[int]]) -> list[int]:
        """Put as many `tokens` of each request after what is in its cache; the most likely next one of each."""
        places = Places(tables, lengths, self.pool.device)
        count = len(tokens[0])
        positions, _ = places.new(count)
        _, present = places.seen(count)
        logits = self.model(
            input_ids=torch.tensor(tokens, device=self.pool.device),
            attention_mask=present.long(),
            position_ids=positions,
            past_key_values=Cache(layers=[PagedLayer(layer, places) for layer in self.pool]),
            logits_to_keep=1,
        ).logits
        return list(logits[:, -1].argmax(-1).tolist())

    def generate(self, prompt: list[int], count: int) -> list[int]:
        """What must come out: the tokens of this process alone, with the cache that transformers makes by itself."""
        ids = torch.tensor([prompt], device=self.pool.device)
        mask = torch.ones_like(ids)
        whole = self.model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False)
        return list(whole[0, len(prompt) :].tolist())

    def stream(self) -> int | None:
        """On a GPU work is only queued: the engine must know on which stream, to wait for it."""
        return torch.cuda.current_stream().cuda_stream if self.pool.is_cuda else None


def prefill(pipe: Connection, device: str, size: Size, blocks: int) -> None:
    """The prefill process: lease the cache of each prompt, and have the blocks back when the lease has ended."""
    worker = Worker("prefill", device, blocks, size)
    pipe.send_bytes(worker.engine.descriptor())
    for prompt in json.loads(receive(pipe)):
        table = worker.take_blocks(len(prompt))
        began = time.monotonic()
        (first,) = worker.step([table], [0], [prompt])
        lease = worker.engine.grant([table], watermark=len(prompt), term=SECONDS, stream=worker.stream())
        worker.leased[lease] = table
        answer = {"slot": lease.slot, "epoch": lease.epoch, "blocks": table, "first": first, "began": began}
        pipe.send_bytes(json.dumps(answer).encode())
    while worker.leased:
        worker.take_back()


@dataclass
class Request:
    """One prompt on its way through the decode process; times are of this host's one clock."""

    prompt: list[int]
    began: float  # its prefill
    asked: float  # its pull
    lease: kt.LeaseRef
    remote: list[int]
    table: list[int]
    pull: kt.Pull
    tokens: list[int]
    joined: float = 0.0  # the batch
    ended: float = 0.0

    def __str__(self) -> str:
        local = self.table[: len(self.remote)]
        return f"{len(self.prompt)} positions, {self.remote} to {local}, {self.pull.result().bytes} bytes"


@dataclass
class Decoder:
    """A continuous batch: requests join it when they have been pulled, and leave it when they have their tokens."""

    worker: Worker
    peer: kt.Peer
    count: int  # tokens of a request
    pulling: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)

    def has_room(self, prompt: list[int], batch: int) -> bool:
        """Whether one more fits beside those that are here."""
        needed = blocks_for(len(prompt) + self.count)
        return len(self.pulling) + len(self.running) < batch and needed <= len(self.worker.free)

    def start(self, prompt: list[int], answer: dict[str, Any]) -> None:
        """Pull a prompt's cache; what has its tokens goes on meanwhile."""
        asked, remote = time.monotonic(), answer["blocks"]
        lease = kt.LeaseRef(answer["slot"], answer["epoch"])
        table = self.worker.take_blocks(len(prompt) + self.count)
        local = table[: len(remote)]
        pull = self.peer.pull(lease, [remote], [local], stop=len(prompt), timeout=SECONDS, stream=self.worker.stream())
        first = [answer["first"]]
        self.pulling.append(Request(prompt, answer["began"], asked, lease, remote, table, pull, first))

    def join(self) -> None:
        """Those that have been pulled; where nothing else is to be done, after waiting for the first."""
        if self.pulling and not self.running:
            self.pulling[0].pull.wait(SECONDS)
        for request in [one for one in self.pulling if one.pull.poll()]:
            request.pull.result()  # raises what the pull failed with
            self.peer.complete(request.lease)  # the prefill process may write to its blocks again
            request.joined = time.monotonic()
            self.pulling.remove(request)
            self.running.append(request)

    def step(self) -> None:
        """One token for each request that runs."""
        requests = self.running
        lengths = [len(one.prompt) + len(one.tokens) - 1 for one in requests]
        following = self.worker.step([one.table for one in requests], lengths, [one.tokens[-1:] for one in requests])
        now = time.monotonic()
        for request, token in zip(requests, following, strict=True):
            request.tokens.append(token)
            if len(request.tokens) == self.count:
                request.ended = now
                self.worker.free += request.table
                self.finished.append(request)
        self.running = [one for one in requests if not one.ended]


def receive(pipe: Connection) -> bytes:
    """The other process's next message."""
    if not pipe.poll(SECONDS):
        raise TimeoutError(f"the other process has sent nothing for {SECONDS:.0f} s")
    return pipe.recv_bytes()


def arguments() -> argparse.Namespace:
    """What can be asked for."""
    gpu = torch.cuda.is_available() and kt.CUDA_BUILD
    parser = argparse.ArgumentParser(description="Prefill and decode in two processes, without vLLM.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu else "cpu")
    parser.add_argument("--lane", choices=kt.EngineConfig().lanes, help="refuse any other lane")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model and of the prompts")
    parser.add_argument("--tokens", type=int, default=32, help="tokens per prompt (default: 32)")
    parser.add_argument("--prompts", type=int, default=12, help="how many, of different lengths (default: 12)")
    parser.add_argument("--batch", type=int, default=8, help="requests that decode at once, at most (default: 8)")
    options = parser.parse_args()
    if options.tokens < 2 or options.prompts < 1 or options.batch < 1:
        parser.error("expected one prompt, a batch of one and two tokens at least; the first token needs no cache")
    return options


def report(decoder: Decoder, device: str) -> bool:
    """Compare every token, and say what moving the caches took of the time; False: something was wrong."""
    identical = pulled = 0
    pool = decoder.worker.pool
    for request in decoder.finished:
        expected = pool[:, :, 0, 0].numel() * pool.itemsize * len(request.prompt)
        moved = request.pull.result().bytes
        if moved != expected:
            sys.exit(f"transformers_pd: {moved} bytes for {len(request.prompt)} positions, not {expected}")
        same = request.tokens == decoder.worker.generate(request.prompt, decoder.count)
        identical, pulled = identical + same, pulled + moved
        print(f"{request}:", "identical" if same else "DIFFERENT")
    requests = decoder.finished
    latency = sum(one.ended - one.began for one in requests)
    results = [one.pull.result() for one in requests]
    transfer = sum(one.post_seconds + one.seconds for one in results)
    exposed = sum(one.joined - one.asked for one in requests)
    shares = f"{transfer / latency:.2%} transfer, {exposed / latency:.2%} waiting"
    each = f"{1000 / len(requests) * latency:.0f} ms each, {shares}"
    moved_text = f"{pulled / 2**20:.1f} MiB pulled over {decoder.peer.lane} on {device}"
    print(f"transformers_pd: {identical} of {len(requests)} prompts identical, {moved_text}; {each}")
    return identical == len(requests)


def main() -> None:
    """The decode process, which starts the other."""
    options = arguments()
    size = SIZES[options.size]
    blocks = size.blocks(options.batch, options.tokens)
    context = multiprocessing.get_context("spawn")  # neither engines nor CUDA survive a fork
    pipe, prefills_end = context.Pipe()
    other = context.Process(target=prefill, args=(prefills_end, options.device, size, size.blocks(4, 0)), daemon=True)
    other.start()
    prefills_end.close()  # so that the end of the other process is the end of the pipe
    worker = Worker("decode", options.device, blocks, size)
    peer = worker.engine.connect(receive(pipe), require_lane=options.lane)
    prompts = [size.prompt(index) for index in range(options.prompts)]
    pipe.send_bytes(json.dumps(prompts).encode())
    decoder = Decoder(worker, peer, options.tokens)
    waiting = prompts[::-1]
    while len(decoder.finished) < len(prompts):
        idle = not (decoder.pulling or decoder.running)
        while waiting and decoder.has_room(waiting[-1], options.batch) and (idle or pipe.poll()):
            decoder.start(waiting.pop(), json.loads(receive(pipe)))
            idle = False
        decoder.join()
        if decoder.running:
            decoder.step()
    other.join(SECONDS)
    right = report(decoder, options.device)
    worker.engine.close()
    sys.exit(not right)


if __name__ == "__main__":
    main()
