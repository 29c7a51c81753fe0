// Optimisers: one pass over a leaf, a launch each. tinygan/optim.py has the equations.
//
// Every product is rounded before it is added, as in NumPy: the same bits as the primitives that
// tinygan/optim.py goes through on a CPU, on every device. The rate and Adam's root are read from
// device memory, since they vary from step to step and a CUDA graph would keep a number.
//
// y has one row of n numbers for each new array: the parameter, then the state. Rows are not
// aligned to 16 bytes, and a thread of Adam has four loads under way: numbers go one by one.
#include "dialect.cuh"

constexpr int THREADS = 256;

#ifdef TG_EMULATOR  // compiled with -ffp-contract=off
TG_DEVICE double __dmul_rn(double a, double b) { return a * b; }
TG_DEVICE double __dadd_rn(double a, double b) { return a + b; }
#endif

// Products and sums that no compiler joins to a fused one.
TG_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
TG_DEVICE double multiply(double a, double b) { return __dmul_rn(a, b); }
TG_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
TG_DEVICE double add(double a, double b) { return __dadd_rn(a, b); }
TG_DEVICE float root_of(float x) { return sqrtf(x); }
TG_DEVICE double root_of(double x) { return sqrt(x); }

template <class T> TG_DEVICE T blend(T m, T d, T keep, T take) {
  return add(multiply(d, take), multiply(m, keep));
}

template <class T> TG_DEVICE T descend(T p, T d, T rate) {
  return add(multiply(d, -rate), p);
}

template <class T> TG_DEVICE T descend_scaled(T p, T m, T v, T rate, T root, T eps) {
  return descend(p, m / add(multiply(root_of(v), root), eps), rate);
}

TG_DEVICE long long first() { return (long long)blockIdx.x * THREADS + threadIdx.x; }
TG_DEVICE long long stride() { return (long long)gridDim.x * THREADS; }

// Moves 3 arrays; CuPy 5, in 3 launches.
template <class T>
__global__ void __launch_bounds__(THREADS, 4)
    sgd(const T* __restrict__ p, const T* __restrict__ g, const T* __restrict__ rate, long long n,
        T* __restrict__ y) {
  for (long long i = first(); i < n; i += stride()) y[i] = descend(p[i], g[i], *rate);
}

// Rows: parameter, velocity. Moves 5 arrays; CuPy 10, with Nesterov's 15.
template <class T, bool NESTEROV>
__global__ void __launch_bounds__(THREADS, 4)
    momentum(const T* __restrict__ p, const T* __restrict__ g, const T* __restrict__ velocity,
             const T* __restrict__ rate, T keep, long long n, T* __restrict__ y) {
  for (long long i = first(); i < n; i += stride()) {
    const T d = g[i];
    const T v = add(multiply(velocity[i], keep), d);
    const T ahead = NESTEROV ? add(multiply(v, keep), d) : v;
    y[i] = descend(p[i], ahead, *rate);
    y[n + i] = v;
  }
}

// Rows: parameter, square. Moves 5 arrays; CuPy 23.
template <class T>
__global__ void __launch_bounds__(THREADS, 4)
    rmsprop(const T* __restrict__ p, const T* __restrict__ g, const T* __restrict__ square,
            const T* __restrict__ rate, T keep, T take, T eps, long long n, T* __restrict__ y) {
  for (long long i = first(); i < n; i += stride()) {
    const T d = g[i];
    const T v = blend(square[i], multiply(d, d), keep, take);
    y[i] = descend_scaled(p[i], d, v, *rate, T(1), eps);
    y[n + i] = v;
  }
}

// Rows: parameter, mean, square. Moves 7 arrays; CuPy 30, in 14 launches.
template <class T>
__global__ void __launch_bounds__(THREADS, 4)
    adam(const T* __restrict__ p, const T* __restrict__ g, const T* __restrict__ mean,
         const T* __restrict__ square, const T* __restrict__ rate, const T* __restrict__ root,
         T keep1, T take1, T keep2, T take2, T eps, long long n, T* __restrict__ y) {
  for (long long i = first(); i < n; i += stride()) {
    const T d = g[i];
    const T m = blend(mean[i], d, keep1, take1);
    const T v = blend(square[i], multiply(d, d), keep2, take2);
    y[i] = descend_scaled(p[i], m, v, *rate, *root, eps);
    y[n + i] = m;
    y[2 * n + i] = v;
  }
}
