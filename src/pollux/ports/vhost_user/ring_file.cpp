// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/ring_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <utility>

#include "pollux/mem/shared_access.hpp"

namespace pollux::vhost_user {

/// Of the whole file. Another kMagic for anything that is laid out otherwise.
struct RingFile::Head {
  static constexpr uint64_t kMagic = 0x3152'5855'4c4c'4f50;  // "POLLUXR1"
  uint64_t magic;
};

/// Of one ring; its chains follow. The batch is kNone while the rest is written.
struct RingFile::Record {
  static constexpr uint64_t kNone = ~uint64_t{0};  // a batch that no ring can have
  uint64_t batch;
  uint64_t size;
  FilePlace place;
  uint64_t zero[3];
};

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kRecordSize = 64;
constexpr size_t record_bytes(uint32_t ring_size) {
  return kRecordSize + ring::PackedJournal::places_for(ring_size) * sizeof(ring::PackedChain);
}
/// From one record to the next: room for the largest ring. What is not used takes no memory.
constexpr size_t kStride = (record_bytes(spec::kMaxPackedQueueSize) + kPage - 1) / kPage * kPage;

size_t file_bytes(uint16_t rings) { return kPage + rings * kStride; }

Status make_directory_of(const std::string& path) {
  const std::string directory = path.substr(0, path.rfind('/'));
  if (::mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return fail_errno(errno, fmt::format("can not make the directory {}", directory));
}

Status check_ours(int fd, const std::string& path) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return fail_errno(errno, fmt::format("can not inspect {}", path));
  if (S_ISREG(st.st_mode) && st.st_uid == ::geteuid() && (st.st_mode & 077) == 0) return {};
  return fail(ErrorCode::kPermission, fmt::format("{} is not a file of yours alone", path));
}

}  // namespace

Result<std::unique_ptr<RingFile>> RingFile::open(const std::string& path, uint16_t rings) {
  if (auto ok = make_directory_of(path); !ok) return forward(ok);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return fail_errno(errno, fmt::format("can not open {}", path));
  if (auto ok = check_ours(fd.get(), path); !ok) return forward(ok);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return fail(ErrorCode::kAlreadyExists, fmt::format("another switch uses {}", path));
  }
  return map(std::move(fd), rings);
}

Result<std::unique_ptr<RingFile>> RingFile::adopt(UniqueFd fd, uint16_t rings) {
  return map(std::move(fd), rings);
}

Result<std::unique_ptr<RingFile>> RingFile::map(UniqueFd fd, uint16_t rings) {
  const size_t size = file_bytes(rings);
  // Records that are there stay, also those of more rings than there are now.
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return fail_errno(errno, "can not inspect the file of rings");
  if (static_cast<uint64_t>(st.st_size) < size &&
      ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return fail_errno(errno, "can not enlarge the file of rings");
  }
  if (const int error = ::posix_fallocate(fd.get(), 0, kPage); error != 0) {
    return fail_errno(error, "there is no room for the file of rings");
  }
  void* base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return fail_errno(errno, "can not map the file of rings");
  std::unique_ptr<RingFile> file(new RingFile(std::move(fd), static_cast<std::byte*>(base), rings));
  auto* head = reinterpret_cast<Head*>(file->base_);
  if (head->magic != Head::kMagic) {
    // Another version's, or new: no record of it means anything.
    if (::ftruncate(file->fd(), 0) != 0 || ::ftruncate(file->fd(), static_cast<off_t>(size)) != 0 ||
        ::posix_fallocate(file->fd(), 0, kPage) != 0) {
      return fail_errno(errno, "can not empty the file of rings");
    }
    head->magic = Head::kMagic;
  }
  return file;
}

RingFile::~RingFile() { ::munmap(base_, file_bytes(rings_)); }

RingFile::Record& RingFile::record(uint16_t index) const {
  static_assert(sizeof(Record) == kRecordSize);
  return *reinterpret_cast<Record*>(base_ + kPage + index * kStride);
}

Result<ring::PackedJournal> RingFile::journal(uint16_t index, const FilePlace& place,
                                              uint32_t size) {
  // Reserved here, as a file system that is full would end us when it is written to.
  const auto at = static_cast<off_t>(kPage + index * kStride);
  const auto bytes = static_cast<off_t>(record_bytes(size));
  if (const int error = ::posix_fallocate(fd_.get(), at, bytes); error != 0) {
    return fail_errno(error, "there is no room to note how far a ring is");
  }
  Record& kept = record(index);
  if (kept.size != size || kept.place != place) {
    forget(index);
    kept.size = size;
    kept.place = place;
  }
  auto* chains = reinterpret_cast<ring::PackedChain*>(base_ + at + kRecordSize);
  return ring::PackedJournal{&kept.batch, {chains, ring::PackedJournal::places_for(size)}};
}

void RingFile::forget(uint16_t index) noexcept {
  const SharedAccess access;
  access.store_release(&record(index).batch, Record::kNone);
}

}  // namespace pollux::vhost_user
