// SPDX-License-Identifier: Apache-2.0
#include "pollux/base/pin.hpp"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

namespace pollux {
namespace {

/// In a thread of its own, as the affinity stays.
template <typename Body>
void in_a_thread(Body&& body) {
  std::thread(body).join();
}

TEST(Pin, KeepsTheThreadOnTheCpu) {
  in_a_thread([] {
    cpu_set_t allowed;
    ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) continue;
      ASSERT_TRUE(pin_this_thread(cpu)) << cpu;
      EXPECT_EQ(sched_getcpu(), cpu);
    }
  });
}

TEST(Pin, RefusesCpusThatAreNotThere) {
  in_a_thread([] {
    for (const int cpu : {-1, CPU_SETSIZE - 1, CPU_SETSIZE, 1 << 30}) {
      const Status pinned = pin_this_thread(cpu);
      ASSERT_FALSE(pinned) << cpu;
      EXPECT_NE(pinned.error().what.find(std::to_string(cpu)), std::string::npos);
    }
  });
}

}  // namespace
}  // namespace pollux
