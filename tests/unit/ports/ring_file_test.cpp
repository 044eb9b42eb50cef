// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/ring_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace pollux::vhost_user {
namespace {

constexpr FilePlace kPlace{1, 2, 0x3000};
constexpr uint64_t kNone = ~uint64_t{0};

class RingFiles : public testing::Test {
 protected:
  void SetUp() override {
    std::string directory = testing::TempDir() + "ringsXXXXXX";
    ASSERT_NE(mkdtemp(directory.data()), nullptr);
    directory_ = directory;
    path_ = directory_ / "run" / "x.rings";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::unique_ptr<RingFile> open(uint16_t rings = 4) {
    auto file = RingFile::open(path_, rings);
    EXPECT_TRUE(file) << file.error().what;
    return file ? std::move(*file) : nullptr;
  }

  std::filesystem::path directory_;
  std::filesystem::path path_;
};

TEST_F(RingFiles, KeepsWhatWasWritten) {
  {
    auto file = open();
    auto journal = file->journal(3, kPlace, 100).value();
    EXPECT_EQ(*journal.batch, kNone) << "nothing yet";
    ASSERT_EQ(journal.chains.size(), 128u);
    *journal.batch = 77;
    journal.chains[127].addr = 5;
    auto largest = file->journal(2, kPlace, 32768).value();
    largest.chains.back().addr = 6;
  }
  auto file = open();
  auto journal = file->journal(3, kPlace, 100).value();
  EXPECT_EQ(*journal.batch, 77u);
  EXPECT_EQ(journal.chains[127].addr, 5u);
  EXPECT_EQ(file->journal(2, kPlace, 32768).value().chains.back().addr, 6u);
}

TEST_F(RingFiles, AnotherRingBeginsWithNothing) {
  auto file = open();
  const auto write = [&] { *file->journal(0, kPlace, 64).value().batch = 5; };
  write();
  EXPECT_EQ(*file->journal(0, kPlace, 64).value().batch, 5u);
  EXPECT_EQ(*file->journal(0, kPlace, 65).value().batch, kNone);
  write();
  EXPECT_EQ(*file->journal(0, {1, 3, 0x3000}, 64).value().batch, kNone);
  write();
  EXPECT_EQ(*file->journal(1, kPlace, 64).value().batch, kNone);
  file->forget(0);
  EXPECT_EQ(*file->journal(0, kPlace, 64).value().batch, kNone);
}

TEST_F(RingFiles, BelongsToOneProcessAtATime) {
  auto file = open();
  auto second = RingFile::open(path_, 4);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
  // A hand-over: the same file, and still nobody else's.
  *file->journal(0, kPlace, 64).value().batch = 5;
  auto handed = RingFile::adopt(UniqueFd(fcntl(file->fd(), F_DUPFD_CLOEXEC, 0)), 4);
  ASSERT_TRUE(handed);
  file.reset();
  EXPECT_FALSE(RingFile::open(path_, 4));
  EXPECT_EQ(*(*handed)->journal(0, kPlace, 64).value().batch, 5u);
  handed->reset();
  EXPECT_TRUE(RingFile::open(path_, 4));
}

TEST_F(RingFiles, ContentsOfAnotherKindAreThrownAway) {
  open();
  std::filesystem::resize_file(path_, 0);
  UniqueFd raw(::open(path_.c_str(), O_WRONLY | O_CLOEXEC));
  const std::string junk(1 << 20, 'x');
  ASSERT_EQ(::write(raw.get(), junk.data(), junk.size()), static_cast<ssize_t>(junk.size()));
  EXPECT_EQ(*open()->journal(0, kPlace, 64).value().batch, kNone);
}

TEST_F(RingFiles, OthersFilesAreLeftAlone) {
  open();
  std::filesystem::permissions(path_, std::filesystem::perms(0666));
  const auto shared = RingFile::open(path_, 4);
  ASSERT_FALSE(shared);
  EXPECT_EQ(shared.error().code, ErrorCode::kPermission);
  std::filesystem::remove(path_);
  std::filesystem::create_symlink("/dev/null", path_);
  EXPECT_FALSE(RingFile::open(path_, 4));
}

}  // namespace
}  // namespace pollux::vhost_user
