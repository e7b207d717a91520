// expect: token ids are std::int32_t
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/batch.hpp>
#include <vector>

namespace fg = finegrain;

void model(fg::id_list);

#ifdef FIXED
void run(std::vector<std::int32_t> const& ids) { model(ids); }
#else
void run(std::vector<std::int64_t> const& ids) { model(ids); }
#endif
