// math: the elementary functions. Not <cmath>: with the special functions that it brings it took a
// sixth of what including the cpu's layers costs a compiler.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace math {

// Of every scalar that networks compute in.
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isnan(long double x) { return __builtin_isnan(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }
inline bool isfinite(long double x) { return __builtin_isfinite(x); }
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline long double abs(long double x) { return __builtin_fabsl(x); }
inline float sqrt(float x) { return __builtin_sqrtf(x); }
inline double sqrt(double x) { return __builtin_sqrt(x); }
inline long double sqrt(long double x) { return __builtin_sqrtl(x); }
inline float exp(float x) { return __builtin_expf(x); }
inline double exp(double x) { return __builtin_exp(x); }
inline long double exp(long double x) { return __builtin_expl(x); }
inline float expm1(float x) { return __builtin_expm1f(x); }
inline double expm1(double x) { return __builtin_expm1(x); }
inline long double expm1(long double x) { return __builtin_expm1l(x); }
inline float log(float x) { return __builtin_logf(x); }
inline double log(double x) { return __builtin_log(x); }
inline long double log(long double x) { return __builtin_logl(x); }
inline float log1p(float x) { return __builtin_log1pf(x); }
inline double log1p(double x) { return __builtin_log1p(x); }
inline long double log1p(long double x) { return __builtin_log1pl(x); }
inline float erfc(float x) { return __builtin_erfcf(x); }
inline double erfc(double x) { return __builtin_erfc(x); }
inline long double erfc(long double x) { return __builtin_erfcl(x); }
inline float tanh(float x) { return __builtin_tanhf(x); }
inline double tanh(double x) { return __builtin_tanh(x); }
inline long double tanh(long double x) { return __builtin_tanhl(x); }

// Of angles, speeds and counts, which are double.
inline double pow(double x, double y) { return __builtin_pow(x, y); }
inline double sin(double x) { return __builtin_sin(x); }
inline double cos(double x) { return __builtin_cos(x); }
inline double floor(double x) { return __builtin_floor(x); }
inline double ceil(double x) { return __builtin_ceil(x); }
inline long lround(double x) { return __builtin_lround(x); }

}  // namespace math
}  // namespace finegrain::inline FINEGRAIN_ABI
