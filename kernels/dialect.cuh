// The dialect that every kernel is written in: CUDA C++17 and the few operations below.
//
// On a GPU they are thin wrappers around PTX. With TG_EMULATOR defined, emulator.hpp stands in for
// CUDA itself and gives each operation a CPU twin that checks how it is used. Kernels include this
// file and the project's own headers only: NVRTC has no standard headers.
//
// Source: PTX ISA, the sections on cp.async, ldmatrix, mma.m16n8k8 and cvt.
#pragma once
#ifdef TG_EMULATOR
#include "emulator.hpp"
#else

#define TG_DEVICE __device__ __forceinline__

// T* name: the dynamic shared memory of the block, 16-byte aligned.
#define TG_SHARED(T, name)                                             \
  extern __shared__ __align__(16) unsigned char tg_shared_memory[];    \
  T* const name = reinterpret_cast<T*>(tg_shared_memory)

// 1 where to_tf32() and mma() exist; kernels that use them put their bodies under #if.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define TG_TENSOR_CORES 1
#else
#define TG_TENSOR_CORES 0
#endif

namespace tg {

// Reads and writes of shared memory. The emulator counts their bank conflicts by source line.
template <class V>
TG_DEVICE V load_shared(const V* p) {
  return *p;
}

template <class V>
TG_DEVICE void store_shared(V* p, V v) {
  *p = v;
}

// a * b + c, rounded once.
TG_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
TG_DEVICE double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

TG_DEVICE unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Copies 4, 8 or 16 bytes from global to shared memory; writes zeros when !ok, and then does not
// read `global`. The bytes are there for this thread after copy_wait(), for others after a barrier.
// REREAD: the block will read them again soon, so they may take a place in the L1 cache.
template <int BYTES, bool REREAD = false>
TG_DEVICE void copy_async(void* shared, const void* global, bool ok) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "copy_async copies 4, 8 or 16 bytes");
#if TG_TENSOR_CORES
  if constexpr (BYTES == 16 && !REREAD)   // .cg, past the L1 cache, exists for 16 bytes only
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(ok ? 16 : 0)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                 "l"(global), "n"(BYTES), "r"(ok ? BYTES : 0)
                 : "memory");
#else
  if constexpr (BYTES == 16)
    *static_cast<int4*>(shared) = ok ? *static_cast<const int4*>(global) : make_int4(0, 0, 0, 0);
  else if constexpr (BYTES == 8)
    *static_cast<int2*>(shared) = ok ? *static_cast<const int2*>(global) : make_int2(0, 0);
  else
    *static_cast<int*>(shared) = ok ? *static_cast<const int*>(global) : 0;
#endif
}

// Ends a group of copies: those issued since the last commit.
TG_DEVICE void copy_commit() {
#if TG_TENSOR_CORES
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the N latest groups of this thread are still in flight.
template <int N>
TG_DEVICE void copy_wait() {
#if TG_TENSOR_CORES
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// Four 8x8 matrices of 16-bit elements, which is four 8x4 matrices of words. Lane 8j + i names row
// i of matrix j, 16 bytes of shared memory; r[j] is word lane % 4 of row lane / 4 of matrix j.
TG_DEVICE void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

#if TG_TENSOR_CORES
// The nearest TF32 number (10 bits after the point); ties go away from zero.
TG_DEVICE unsigned to_tf32(float v) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
}

// d[m][n] += a[m] b[n], a warp's tile of MT x NT products m16n8k8. With g = lane / 4 and
// t = lane % 4: a = A[g][t], A[g+8][t], A[g][t+4], A[g+8][t+4]; b = B[t][g], B[t+4][g];
// d = D[g][2t], D[g][2t+1], D[g+8][2t], D[g+8][2t+1]. The low 13 bits of a and b are ignored.
template <int MT, int NT>
TG_DEVICE void mma(float (&d)[MT][NT][4], const unsigned (&a)[MT][4], const unsigned (&b)[NT][2]) {
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int n = 0; n < NT; n++)
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
          "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
          : "+f"(d[m][n][0]), "+f"(d[m][n][1]), "+f"(d[m][n][2]), "+f"(d[m][n][3])
          : "r"(a[m][0]), "r"(a[m][1]), "r"(a[m][2]), "r"(a[m][3]), "r"(b[n][0]), "r"(b[n][1]));
}
#endif

}  // namespace tg
#endif  // TG_EMULATOR
