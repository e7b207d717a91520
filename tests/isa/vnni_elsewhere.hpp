// AVX's products of bytes where a machine has AVX-512's instead: the same instruction on the same 32-byte
// registers, but for its encoding.
//
//   c++ -march=x86-64-v3 -include tests/isa/vnni_elsewhere.hpp ...
//
// GNU's assembler takes it whatever the flags are. SPDX-License-Identifier: Apache-2.0
#pragma once

#define __AVXVNNI__ 1
#define FINEGRAIN_BYTE_PRODUCTS "vpdpbusd"
