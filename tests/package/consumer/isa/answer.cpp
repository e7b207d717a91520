// A function for several instruction sets.
// SPDX-License-Identifier: Apache-2.0
extern "C" int answer(int x) { return 2 * x; }
