// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

// Also read by the CUDA compiler: plain types, no includes of our own.

namespace kvdirect {

// A warp's share of a multiprocessor's shared memory: slots that are loaded and stored by turns, where what fills each
// of them goes, and a barrier for each.
inline constexpr unsigned bulk_slots = 2;
inline constexpr unsigned bulk_slot_bytes = 4096;
inline constexpr unsigned bulk_warp_bytes = bulk_slots * bulk_slot_bytes + 128;

// Rows at fixed distances, or a part of one.
struct BulkPiece {
  unsigned long long target;
  unsigned long long target_row;
  unsigned row_bytes;
  unsigned rows;
};

struct BulkShare {
  unsigned char slots[bulk_slots][bulk_slot_bytes];
  BulkPiece pieces[bulk_slots];
  unsigned long long barriers[bulk_slots];
};
static_assert(sizeof(BulkShare) <= bulk_warp_bytes);
// Of a block: as many as a multiprocessor's shared memory holds, so that the block has it to itself.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
inline constexpr unsigned bulk_warps = 12;
#else
inline constexpr unsigned bulk_warps = 26;
#endif
// Shorter rows are copied by all lanes: one lane would spend its time on asking for them.
inline constexpr unsigned bulk_least_row = 512;
// What moves bytes so came with this compute capability.
inline constexpr int bulk_capability = 9;
inline constexpr const char* bulk_kernel_name = "kvdirect_bulk_tiles";

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

// One warp's slots, as one of its threads uses them: the GPU moves what that thread asks for. A slot is loaded when its
// barrier says so, and may be loaded again when what was stored from it has been read.
class BulkSlots {
 public:
  __device__ __forceinline__ explicit BulkSlots(unsigned warp) {
    extern __shared__ __align__(128) unsigned char memory[];
    _share = reinterpret_cast<BulkShare*>(memory + warp * bulk_warp_bytes);
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(_read_once));
  }

  // Before all else.
  __device__ __forceinline__ void open() const {
#pragma unroll
    for (unsigned slot = 0; slot < bulk_slots; ++slot) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier(slot)) : "memory");
    }
    // What loads see the barriers, too.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }

  // What is in it, by its number.
  __device__ __forceinline__ BulkPiece& piece(unsigned slot) const { return _share->pieces[slot]; }
  // So many bytes will be loaded into it.
  __device__ __forceinline__ void expect(unsigned slot, unsigned bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier(slot)), "r"(bytes) : "memory");
  }
  __device__ __forceinline__ void load(unsigned slot, unsigned at, unsigned long long source, unsigned bytes) const {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
            "r"(address(slot) + at),
        "l"(source), "r"(bytes), "r"(barrier(slot)), "l"(_read_once)
        : "memory");
  }
  // Until it is loaded for the nth time; `odd`: whether n, from 0 on, is odd.
  __device__ __forceinline__ void await_load(unsigned slot, unsigned odd) const {
    unsigned loaded = 0;
    while (loaded == 0) {
      asm volatile(
          "{\n"
          ".reg .pred loaded;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 loaded, [%1], %2;\n"
          "selp.u32 %0, 1, 0, loaded;\n"
          "}"
          : "=r"(loaded)
          : "r"(barrier(slot)), "r"(odd)
          : "memory");
    }
  }
  __device__ __forceinline__ void store(unsigned slot, unsigned at, unsigned long long target, unsigned bytes) const {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(target), "r"(address(slot) + at),
                 "r"(bytes)
                 : "memory");
  }
  // Until all that was stored has been read from its slots.
  __device__ __forceinline__ void await_reads() const {
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
  }
  // Until all that was stored is in its place.
  __device__ __forceinline__ void await_stores() const {
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
  }

 private:
  static __device__ __forceinline__ unsigned in_shared(const void* address) {
    return static_cast<unsigned>(__cvta_generic_to_shared(address));
  }
  __device__ __forceinline__ unsigned address(unsigned slot) const { return in_shared(_share->slots[slot]); }
  __device__ __forceinline__ unsigned barrier(unsigned slot) const { return in_shared(_share->barriers + slot); }

  BulkShare* _share;
  unsigned long long _read_once;
};

#endif

}  // namespace kvdirect
