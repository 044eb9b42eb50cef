// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/shared_region.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace pollux {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t size, size_t page) { return (size + page - 1) / page * page; }

struct Attempt {
  unsigned memfd_flags;
  size_t page;
};

struct Mapped {
  UniqueFd fd;
  std::byte* base;
  size_t size;
};

/// memfd, size, seals, mapping, population; any step that fails ends the attempt.
Result<Mapped> try_map(const std::string& name, size_t size, const Attempt& attempt) {
  UniqueFd fd(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | attempt.memfd_flags));
  if (!fd) return fail_errno(errno, "can not create a memfd");
  const size_t bytes = round_up(std::max<size_t>(size, 1), attempt.page);
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
    return fail_errno(errno, "can not size a memfd");
  // A peer that gets the descriptor must not be able to shrink the file under us.
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return fail_errno(errno, "can not seal a memfd");
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return fail_errno(errno, "can not map a memfd");
  // Populating by madvise reports a shortage as an error; MAP_POPULATE would hide it until SIGBUS.
  if (madvise(base, bytes, MADV_POPULATE_WRITE) != 0 && errno != EINVAL) {
    const int err = errno;
    munmap(base, bytes);
    return fail_errno(err, "can not populate shared memory");
  }
  return Mapped{std::move(fd), static_cast<std::byte*>(base), bytes};
}

}  // namespace

Result<SharedRegion> SharedRegion::create(const std::string& name, size_t size, HugePages pages) {
  if (pages != HugePages::kNever) {
    auto mapped = try_map(name, size, {MFD_HUGETLB | MFD_HUGE_2MB, kHugePage});
    if (mapped) return SharedRegion(std::move(mapped->fd), mapped->base, mapped->size, kHugePage);
    if (pages == HugePages::kRequire) {
      return fail(ErrorCode::kResource,
                  fmt::format("{} huge pages of 2 MiB are needed and not free: run `sysctl -w "
                              "vm.nr_hugepages={}` as root, or do not ask for huge pages",
                              round_up(size, kHugePage) / kHugePage,
                              round_up(size, kHugePage) / kHugePage + 64));
    }
  }
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  auto mapped = try_map(name, size, {0, page});
  if (!mapped) {
    return fail(ErrorCode::kResource,
                fmt::format("{} bytes of shared memory could not be had ({}): lower the pool "
                            "sizes or raise the memory limit",
                            size, mapped.error().what));
  }
  madvise(mapped->base, mapped->size, MADV_HUGEPAGE);  // a hint: shmem may allow it
  return SharedRegion(std::move(mapped->fd), mapped->base, mapped->size, page);
}

SharedRegion::SharedRegion(SharedRegion&& other) noexcept
    : fd_(std::move(other.fd_)),
      base_(std::exchange(other.base_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      page_size_(other.page_size_) {}

SharedRegion& SharedRegion::operator=(SharedRegion&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(base_, other.base_);
  std::swap(size_, other.size_);
  std::swap(page_size_, other.page_size_);
  return *this;
}

SharedRegion::~SharedRegion() {
  if (base_ != nullptr) munmap(base_, size_);
}

std::string SharedRegion::describe() const {
  const auto human = [](size_t n) {
    return n >= (size_t{1} << 20) ? fmt::format("{} MiB", n >> 20) : fmt::format("{} KiB", n >> 10);
  };
  return fmt::format("{} on {} pages", human(size_), human(page_size_));
}

}  // namespace pollux
