// Multiversioning: one source, compiled for several instruction sets, chosen once at load.
//
// Kernels that use it keep a fixed number of lanes and no fused multiply-add, so that every version
// gives the same bits. ThreadSanitizer crashes in the resolvers, and builds can turn it off.
#pragma once

namespace dspex {
// Vectors spelled out, where the compiler would not find them.
using Floats = float __attribute__((vector_size(32)));
using Ints = int __attribute__((vector_size(32)));
}  // namespace dspex

#if defined(__SANITIZE_THREAD__) || defined(DSPEX_NO_MULTIVERSIONING) || !defined(__x86_64__) || \
    !defined(__GNUC__) || defined(__clang__) || __GNUC__ < 12
#define DSPEX_CLONES
#else
#define DSPEX_CLONES __attribute__((flatten, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
