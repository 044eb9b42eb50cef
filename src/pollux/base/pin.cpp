// SPDX-License-Identifier: Apache-2.0
#include "pollux/base/pin.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

namespace pollux {

Status pin_this_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu >= 0) CPU_SET(static_cast<size_t>(cpu), &set);  // an empty set is refused
  if (const int err = pthread_setaffinity_np(pthread_self(), sizeof set, &set); err != 0) {
    return fail_errno(err, fmt::format("can not run on CPU {}, name another", cpu));
  }
  return {};
}

}  // namespace pollux
