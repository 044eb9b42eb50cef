// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/page_faults.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace pollux {
namespace {

/// With all rights first. Without CAP_SYS_PTRACE the kernel lets faults of user mode be handled,
/// which does: system calls are only made on pages that are there.
UniqueFd open_any() {
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;
  UniqueFd fd(static_cast<int>(syscall(SYS_userfaultfd, kFlags)));
#ifdef UFFD_USER_MODE_ONLY
  if (!fd && errno == EPERM) {
    fd = UniqueFd(static_cast<int>(syscall(SYS_userfaultfd, kFlags | UFFD_USER_MODE_ONLY)));
  }
#endif
  return fd;
}

uffdio_range range_of(const PeerMapping& mapping) {
  const std::span<std::byte> pages = mapping.pages();
  return {reinterpret_cast<uintptr_t>(pages.data()), pages.size()};
}

}  // namespace

Result<PageFaults> PageFaults::open() {
  UniqueFd fd = open_any();
  if (!fd && errno == EPERM) {
    return fail(ErrorCode::kPermission,
                "page faults can not be handed to the front end: give this process CAP_SYS_PTRACE "
                "or set vm.unprivileged_userfaultfd=1");
  }
  if (!fd) return fail_errno(errno, "page faults can not be handed to the front end (userfaultfd)");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) {
    return fail(ErrorCode::kUnsupported,
                "this kernel does not hand over page faults in shared memory: use Linux 4.11 or "
                "later");
  }
  return PageFaults(std::move(fd));
}

Status PageFaults::watch(const PeerMapping& mapping) const {
  uffdio_register wanted{};
  wanted.range = range_of(mapping);
  wanted.mode = UFFDIO_REGISTER_MODE_MISSING;
  // A page that comes must not bring neighbours along: who waits for those is woken one by one.
  ::madvise(reinterpret_cast<void*>(wanted.range.start), wanted.range.len, MADV_NOHUGEPAGE);
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &wanted) != 0) {
    return fail_errno(errno, "can not hand page faults in the peer's memory to the front end");
  }
  return {};
}

void PageFaults::unwatch(const PeerMapping& mapping) const noexcept {
  uffdio_range range = range_of(mapping);
  (void)::ioctl(fd_.get(), UFFDIO_UNREGISTER, &range);
}

void PageFaults::abandon(PeerMapping& mapping) const noexcept {
  mapping.replace_by_zeros();
  uffdio_range range = range_of(mapping);
  (void)::ioctl(fd_.get(), UFFDIO_WAKE, &range);
}

}  // namespace pollux
