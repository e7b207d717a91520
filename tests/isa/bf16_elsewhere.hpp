// AVX-512's bf16 and VBMI where a machine has AVX-512 without them: what kernels use of the two is made
// of other instructions, with the results that Intel's manual specifies, so that their tests run.
//
//   c++ -march=x86-64-v4 -mavx512vnni -mno-red-zone -include tests/isa/bf16_elsewhere.hpp ...
//
// Kernels write these instructions in assembly: here the assembler takes these words for macros, which
// keep all registers, and what they need on the stack. SPDX-License-Identifier: Apache-2.0
#pragma once

#define __AVX512BF16__ 1
#define __AVX512VBMI__ 1

asm(R"(
  .pushsection .rodata
bf16_exponent: .long 0x7f800000
bf16_sign: .long 0x80000000
bf16_last: .long 1
bf16_half: .long 0x7fff
bf16_quiet: .long 0x400000
vbmi_index: .long 0x007f007f
vbmi_byte: .long 0x00ff00ff
  .popsection

  .macro bf16_begin a, b, c
  lea -512(%rsp), %rsp
  vmovups \a, (%rsp)
  vmovups \b, 64(%rsp)
  vmovups \c, 128(%rsp)
  vmovups %zmm0, 192(%rsp)
  vmovups %zmm1, 256(%rsp)
  vmovups %zmm2, 320(%rsp)
  kmovq %k1, 384(%rsp)
  .endm
  .macro bf16_end from, c
  vmovups 192(%rsp), %zmm0
  vmovups 256(%rsp), %zmm1
  vmovups 320(%rsp), %zmm2
  kmovq 384(%rsp), %k1
  vmovups \from(%rsp), \c
  lea 512(%rsp), %rsp
  .endm
  .macro bf16_flush x # subnormal numbers become 0, with their sign
  vptestnmd bf16_exponent(%rip){1to16}, \x, %k1
  vpandd bf16_sign(%rip){1to16}, \x, \x{%k1}
  .endm

  .macro bf16_add_products # zmm2 += zmm0 * zmm1
  bf16_flush %zmm0
  bf16_flush %zmm1
  bf16_flush %zmm2
  vfmadd231ps %zmm0, %zmm1, %zmm2
  bf16_flush %zmm2
  .endm
  .macro vdpbf16ps a, b, c # the odd numbers' products first
  bf16_begin \a, \b, \c
  vmovups (%rsp), %zmm0
  vpsrld $16, %zmm0, %zmm0
  vpslld $16, %zmm0, %zmm0
  vmovups 64(%rsp), %zmm1
  vpsrld $16, %zmm1, %zmm1
  vpslld $16, %zmm1, %zmm1
  vmovups 128(%rsp), %zmm2
  bf16_add_products
  vmovups (%rsp), %zmm0
  vpslld $16, %zmm0, %zmm0
  vmovups 64(%rsp), %zmm1
  vpslld $16, %zmm1, %zmm1
  bf16_add_products
  vmovups %zmm2, 128(%rsp)
  bf16_end 128, \c
  .endm

  .macro bf16_round from # 16 floats become 16 bf16, to the nearest, ties to even
  vmovups \from(%rsp), %zmm0
  bf16_flush %zmm0
  vpsrld $16, %zmm0, %zmm1
  vpandd bf16_last(%rip){1to16}, %zmm1, %zmm1
  vpaddd bf16_half(%rip){1to16}, %zmm1, %zmm1
  vpaddd %zmm0, %zmm1, %zmm1
  vcmpunordps %zmm0, %zmm0, %k1
  vpord bf16_quiet(%rip){1to16}, %zmm0, %zmm1{%k1}
  vpsrld $16, %zmm1, %zmm1
  vpmovdw %zmm1, \from(%rsp)
  .endm
  .macro vcvtne2ps2bf16 a, b, c # all of a, then all of b
  bf16_begin \a, \b, \c
  bf16_round 0
  bf16_round 64
  vmovups 64(%rsp), %ymm0
  vmovups %ymm0, 32(%rsp)
  bf16_end 0, \c
  .endm

  .macro vbmi_find # bytes of 0(%rsp), then 64(%rsp), at the lower byte of each word of zmm0, in zmm1
  vpandd vbmi_index(%rip){1to16}, %zmm0, %zmm0
  vpsrlw $1, %zmm0, %zmm1
  vmovups (%rsp), %zmm2
  vpermi2w 64(%rsp), %zmm2, %zmm1
  vpsllw $15, %zmm0, %zmm0
  vpsrlw $12, %zmm0, %zmm0
  vpsrlvw %zmm0, %zmm1, %zmm1
  vpandd vbmi_byte(%rip){1to16}, %zmm1, %zmm1
  .endm
  .macro vpermi2b b, a, c # bytes of a, then of b, at the lower 7 bits of those of c
  bf16_begin \a, \b, \c
  vmovups 128(%rsp), %zmm0
  vbmi_find
  vmovups %zmm1, 448(%rsp)
  vmovups 128(%rsp), %zmm0
  vpsrlw $8, %zmm0, %zmm0
  vbmi_find
  vpsllw $8, %zmm1, %zmm1
  vpord 448(%rsp), %zmm1, %zmm1
  vmovups %zmm1, 128(%rsp)
  bf16_end 128, \c
  .endm
)");
