// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/peer_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

namespace pollux {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

UniqueFd make_file(uint64_t size) {
  UniqueFd fd(memfd_create("peer-memory-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  return fd;
}
UniqueFd copy_of(const UniqueFd& fd) { return UniqueFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }

/// A load that the compiler leaves where it is.
std::byte look(const std::byte* at) { return *static_cast<const volatile std::byte*>(at); }
void put(std::byte* at, std::byte value) { *static_cast<volatile std::byte*>(at) = value; }

size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  size_t count = 0;
  for (std::string line; std::getline(maps, line);)
    count += line.find("peer-memory-test") != std::string::npos;
  return count;
}

TEST(PeerMapping, MapsWhatTheFileHolds) {
  const UniqueFd file = make_file(4 * kPage);
  const char text[] = "hello";
  ASSERT_EQ(pwrite(file.get(), text, sizeof(text), kPage), ssize_t{sizeof(text)});
  {
    auto mapping = PeerMapping::map(copy_of(file), kPage, 2 * kPage);
    ASSERT_TRUE(mapping) << mapping.error().what;
    EXPECT_EQ((*mapping)->size(), 2 * kPage);
    EXPECT_STREQ(reinterpret_cast<const char*>((*mapping)->data()), "hello");
    (*mapping)->data()[0] = std::byte{'j'};
    char back = 0;
    ASSERT_EQ(pread(file.get(), &back, 1, kPage), 1);
    EXPECT_EQ(back, 'j') << "shared, not private";
    EXPECT_EQ(mappings(), 1U);
  }
  EXPECT_EQ(mappings(), 0U);
}

TEST(PeerMapping, OffsetNeedsNoAlignment) {
  const UniqueFd file = make_file(2 * kPage);
  const std::byte mark{0x42};
  ASSERT_EQ(pwrite(file.get(), &mark, 1, 4100), 1);
  auto mapping = PeerMapping::map(copy_of(file), 4100, kPage - 4);
  ASSERT_TRUE(mapping) << mapping.error().what;
  EXPECT_EQ((*mapping)->data()[0], mark);
}

struct BadRange {
  const char* name;
  uint64_t offset;
  uint64_t size;
};

TEST(PeerMapping, RefusesWhatTheFileDoesNotHold) {
  const BadRange ranges[] = {
      {"empty", 0, 0},
      {"one byte too many", 0, 4 * kPage + 1},
      {"starts at the end", 4 * kPage, 1},
      {"starts behind the end", 5 * kPage, 1},
      {"ends behind the end", 3 * kPage, kPage + 1},
      {"wraps around", kPage, kMax},
      {"everything", 0, kMax},
      {"far away", kMax, 1},
      {"far away and wraps", kMax, kMax},
  };
  const UniqueFd file = make_file(4 * kPage);
  for (const BadRange& range : ranges) {
    auto mapping = PeerMapping::map(copy_of(file), range.offset, range.size);
    ASSERT_FALSE(mapping) << range.name;
    EXPECT_EQ(mapping.error().code, ErrorCode::kInvalidArgument) << range.name;
  }
  EXPECT_EQ(mappings(), 0U);
}

TEST(PeerMapping, RefusesWhatIsNotMemory) {
  std::array<int, 2> pipe_fds{};
  ASSERT_EQ(pipe2(pipe_fds.data(), O_CLOEXEC), 0);
  const UniqueFd other_end(pipe_fds[1]);
  EXPECT_FALSE(PeerMapping::map(UniqueFd(pipe_fds[0]), 0, kPage)) << "a pipe";
  EXPECT_FALSE(PeerMapping::map(UniqueFd(eventfd(0, EFD_CLOEXEC)), 0, kPage)) << "an eventfd";
  EXPECT_FALSE(PeerMapping::map(UniqueFd(open("/dev/zero", O_RDWR | O_CLOEXEC)), 0, kPage))
      << "a device";
  EXPECT_FALSE(PeerMapping::map(UniqueFd(open("/dev/shm", O_RDONLY | O_CLOEXEC)), 0, kPage))
      << "a directory";
  EXPECT_FALSE(PeerMapping::map(UniqueFd(open("/proc/self/exe", O_RDONLY | O_CLOEXEC)), 0, kPage))
      << "a file on disk";
  EXPECT_FALSE(PeerMapping::map(UniqueFd(), 0, kPage)) << "nothing";
}

TEST(PeerMapping, RefusesReadOnlyMemory) {
  const UniqueFd file = make_file(kPage);
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  EXPECT_FALSE(PeerMapping::map(UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC)), 0, kPage));
  ASSERT_EQ(fcntl(file.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_FALSE(PeerMapping::map(copy_of(file), 0, kPage)) << "sealed against writing";
}

TEST(PeerMapping, AFileThatShrinksReadsAsZerosAndIsNoticed) {
  const UniqueFd file = make_file(4 * kPage);
  auto mapping = PeerMapping::map(copy_of(file), 0, 4 * kPage);
  ASSERT_TRUE(mapping);
  auto other = PeerMapping::map(make_file(kPage), 0, kPage);
  ASSERT_TRUE(other);
  std::byte* data = (*mapping)->data();
  put(data + 3 * kPage, std::byte{1});
  EXPECT_FALSE((*mapping)->faulted());
  ASSERT_EQ(ftruncate(file.get(), 0), 0);
  EXPECT_EQ(look(data + 3 * kPage), std::byte{0});
  EXPECT_TRUE((*mapping)->faulted());
  put(data, std::byte{7});
  EXPECT_EQ(look(data), std::byte{7}) << "writes go nowhere, but do not fault";
  EXPECT_FALSE((*other)->faulted());
}

TEST(PeerMapping, AHoleIsNotAFault) {
  const UniqueFd file = make_file(4 * kPage);
  auto mapping = PeerMapping::map(copy_of(file), 0, 4 * kPage);
  ASSERT_TRUE(mapping);
  ASSERT_EQ(fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage), 0);
  EXPECT_EQ(look((*mapping)->data()), std::byte{0});
  EXPECT_FALSE((*mapping)->faulted());
}

TEST(SigbusGuardDeathTest, OtherBusErrorsStillEndTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        auto guarded = PeerMapping::map(make_file(kPage), 0, kPage);
        const UniqueFd file = make_file(kPage);
        auto* own =
            static_cast<volatile char*>(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, file.get(), 0));
        if (ftruncate(file.get(), 0) == 0) (void)own[0];
        std::exit(guarded ? 0 : 1);
      },
      "");
}

// Regions over memory of our own; nothing of it is touched here.
std::array<std::byte, 4 * kPage> backing;

PeerRegion region(uint64_t guest, uint64_t user, uint64_t size, uint64_t host = 0) {
  return {GuestAddr{guest}, UserAddr{user}, size, backing.data() + host, nullptr};
}

TEST(PeerMemory, TranslatesWithinARegion) {
  auto memory = *PeerMemory::create({region(0x1000, 0x70001000, kPage)});
  const auto start = memory->translate(GuestAddr{0x1000}, 16, MemoryAccess::kRead);
  EXPECT_EQ(start.status, TranslationStatus::kOk);
  EXPECT_EQ(start.data, backing.data());
  EXPECT_EQ(start.size, 16U);
  const auto last = memory->translate(GuestAddr{0x1fff}, 1, MemoryAccess::kWrite);
  EXPECT_EQ(last.data, backing.data() + kPage - 1);
}

TEST(PeerMemory, FaultsOutside) {
  auto memory = *PeerMemory::create({region(0x1000, 0x70001000, kPage)});
  for (const uint64_t addr : {uint64_t{0}, uint64_t{0xfff}, uint64_t{0x2000}, kMax}) {
    EXPECT_EQ(memory->translate(GuestAddr{addr}, 1, MemoryAccess::kRead).status,
              TranslationStatus::kFault)
        << addr;
  }
  auto nothing = *PeerMemory::create({});
  EXPECT_EQ(nothing->translate(GuestAddr{0}, 1, MemoryAccess::kRead).status,
            TranslationStatus::kFault);
}

TEST(PeerMemory, CutsAtTheEndOfARegion) {
  auto memory = *PeerMemory::create(
      {region(0x2000, 0x70002000, kPage, kPage), region(0x1000, 0x70001000, kPage)});
  const auto first = memory->translate(GuestAddr{0x1ff0}, 0x20, MemoryAccess::kRead);
  EXPECT_EQ(first.status, TranslationStatus::kOk);
  EXPECT_EQ(first.size, 0x10U);
  const auto second = memory->translate(GuestAddr{0x2000}, 0x10, MemoryAccess::kRead);
  EXPECT_EQ(second.data, backing.data() + kPage);
  EXPECT_EQ(memory->translate(GuestAddr{0x2ff0}, kMax, MemoryAccess::kRead).size, 0x10U)
      << "a length that wraps";
}

TEST(PeerMemory, UserRangesMustLieInOneRegion) {
  auto memory = *PeerMemory::create(
      {region(0x1000, 0x70001000, kPage), region(0x2000, 0x70002000, kPage, kPage)});
  EXPECT_EQ(memory->translate_user(UserAddr{0x70001000}, kPage).data, backing.data());
  EXPECT_EQ(memory->translate_user(UserAddr{0x70002fff}, 1).status, TranslationStatus::kOk);
  EXPECT_EQ(memory->translate_user(UserAddr{0x70001ff0}, 0x20).status, TranslationStatus::kFault)
      << "across two";
  EXPECT_EQ(memory->translate_user(UserAddr{0x70002fff}, 2).status, TranslationStatus::kFault);
  EXPECT_EQ(memory->translate_user(UserAddr{0x70000fff}, 1).status, TranslationStatus::kFault);
  EXPECT_EQ(memory->translate_user(UserAddr{0x70001000}, kMax).status, TranslationStatus::kFault);
  EXPECT_EQ(memory->translate_user(UserAddr{kMax}, 1).status, TranslationStatus::kFault);
}

TEST(PeerMemory, RefusesRegionsThatCanNotBe) {
  const struct {
    const char* name;
    std::vector<PeerRegion> regions;
  } cases[] = {
      {"empty", {region(0x1000, 0x1000, 0)}},
      {"wraps in guest addresses", {region(kMax - 10, 0x1000, kPage)}},
      {"wraps in user addresses", {region(0x1000, kMax - 10, kPage)}},
      {"the same twice", {region(0x1000, 0x1000, kPage), region(0x1000, 0x1000, kPage)}},
      {"overlap by a byte", {region(0x1000, 0x1000, kPage + 1), region(0x2000, 0x9000, kPage)}},
      {"one inside another", {region(0x1000, 0x1000, 3 * kPage), region(0x2000, 0x9000, 1)}},
      {"not mapped", {{GuestAddr{0}, UserAddr{0}, kPage, nullptr, nullptr}}},
  };
  for (const auto& c : cases) EXPECT_FALSE(PeerMemory::create(c.regions)) << c.name;
}

TEST(PeerMemory, AliasesInUserAddressesAreLegal) {
  // The same RAM at two guest addresses, as old PC firmware has it.
  EXPECT_TRUE(PeerMemory::create(
      {region(0x1000, 0x70001000, kPage), region(0xf0001000, 0x70001000, kPage)}));
}

TEST(PeerMemory, FindsAmongMany) {
  std::vector<PeerRegion> regions;
  for (uint64_t i = 0; i < 509; ++i) regions.push_back(region((508 - i) * 0x10000, i << 32, kPage));
  auto memory = *PeerMemory::create(std::move(regions));
  for (uint64_t i = 0; i < 509; ++i) {
    ASSERT_NE(memory->find(GuestAddr{i * 0x10000 + 5}), nullptr) << i;
    EXPECT_EQ(memory->find(GuestAddr{i * 0x10000 + 5})->guest.value, i * 0x10000);
    EXPECT_EQ(memory->find(GuestAddr{i * 0x10000 + kPage}), nullptr) << i;
  }
}

TEST(PeerMemory, AViewRemembersAndFaultsAlike) {
  auto memory = *PeerMemory::create(
      {region(0x1000, 0x70001000, kPage), region(0x5000, 0x70005000, kPage, kPage)});
  PeerView view(*memory);
  for (const uint64_t addr : {0x1000, 0x1800, 0x5000, 0x1010, 0x5fff}) {
    const auto seen = view.translate(addr, 1, MemoryAccess::kRead);
    const auto real = memory->translate(GuestAddr{addr}, 1, MemoryAccess::kRead);
    EXPECT_EQ(seen.data, real.data) << addr;
    EXPECT_EQ(seen.status, TranslationStatus::kOk);
  }
  EXPECT_EQ(view.translate(0x2000, 1, MemoryAccess::kRead).status, TranslationStatus::kFault);
  EXPECT_EQ(view.translate(0xfff, 1, MemoryAccess::kRead).status, TranslationStatus::kFault);
  EXPECT_EQ(view.translate(kMax, 1, MemoryAccess::kRead).status, TranslationStatus::kFault);
  const auto cut = view.translate(0x5ff0, 0x100, MemoryAccess::kWrite);
  EXPECT_EQ(cut.size, 0x10U);
}

TEST(PeerMemory, FaultOfOneMappingShows) {
  const UniqueFd file = make_file(kPage);
  auto mapping = *PeerMapping::map(copy_of(file), 0, kPage);
  auto memory = *PeerMemory::create(
      {region(0x10000, 0x70010000, kPage),
       PeerRegion{GuestAddr{0}, UserAddr{0x70000000}, kPage, mapping->data(), mapping}});
  EXPECT_FALSE(memory->faulted());
  ASSERT_EQ(ftruncate(file.get(), 0), 0);
  EXPECT_EQ(look(mapping->data()), std::byte{0});
  EXPECT_TRUE(memory->faulted());
}

}  // namespace
}  // namespace pollux
