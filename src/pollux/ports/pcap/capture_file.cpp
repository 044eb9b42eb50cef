// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/pcap/capture_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pcap/pcap.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "pollux/base/endian.hpp"

namespace pollux {
namespace {

// The records of draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng, little endian.
constexpr uint32_t kLinkTypeEthernet = 1;
constexpr uint32_t kPcapNanoMagic = 0xa1b23c4d;

struct PcapFileHeader {
  Le32 magic;
  Le16 version_major;
  Le16 version_minor;
  Le32 reserved1;
  Le32 reserved2;
  Le32 snaplen;
  Le32 link_type;
};
static_assert(sizeof(PcapFileHeader) == 24);

struct PcapRecord {
  Le32 seconds;
  Le32 nanoseconds;
  Le32 captured_len;
  Le32 original_len;
};
static_assert(sizeof(PcapRecord) == 16);

constexpr uint32_t kSectionHeaderBlock = 0x0a0d0d0a;
constexpr uint32_t kInterfaceBlock = 1;
constexpr uint32_t kEnhancedPacketBlock = 6;

struct SectionHeader {
  Le32 type;
  Le32 length;
  Le32 byte_order_magic;
  Le16 version_major;
  Le16 version_minor;
  Le32 section_length_low;  // of 64 bits that are not aligned; all ones: not known
  Le32 section_length_high;
  Le32 length_again;
};
static_assert(sizeof(SectionHeader) == 28);

struct InterfaceDescription {
  Le32 type;
  Le32 length;
  Le16 link_type;
  Le16 reserved;
  Le32 snaplen;
  Le16 tsresol_code;  // if_tsresol: time stamps count 10^-9 s
  Le16 tsresol_length;
  Le32 tsresol_value;
  Le32 end_of_options;
  Le32 length_again;
};
static_assert(sizeof(InterfaceDescription) == 32);

struct EnhancedPacket {
  Le32 type;
  Le32 length;
  Le32 interface;
  Le32 timestamp_high;
  Le32 timestamp_low;
  Le32 captured_len;
  Le32 original_len;
};
static_assert(sizeof(EnhancedPacket) == 28);

std::string advice_for(int link_type) {
  if (link_type == DLT_LINUX_SLL || link_type == DLT_LINUX_SLL2) {
    return "capture on one interface, not on 'any'";
  }
  if (link_type == DLT_RAW || link_type == DLT_NULL) {
    return "put Ethernet headers before its packets, e.g. with tcprewrite --dlt=enet";
  }
  return "only Ethernet captures can be played";
}

}  // namespace

void CaptureReader::Closer::operator()(pcap* handle) const { pcap_close(handle); }

Result<CaptureReader> CaptureReader::open(const std::string& path) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(nullptr, [](FILE* f) { return std::fclose(f); });
  // Non-blocking, so that a pipe without writer is refused rather than waited for.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return fail_errno(errno, fmt::format("capture file '{}'", path));
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return fail(
        ErrorCode::kInvalidArgument,
        fmt::format("capture file '{}' is not a regular file: save the capture first", path));
  }
  file.reset(::fdopen(fd.get(), "rb"));
  if (!file) return fail_errno(errno, fmt::format("capture file '{}'", path));
  (void)fd.release();

  char error[PCAP_ERRBUF_SIZE] = "";
  std::unique_ptr<pcap, Closer> handle(
      pcap_fopen_offline_with_tstamp_precision(file.get(), PCAP_TSTAMP_PRECISION_NANO, error));
  if (!handle) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is not a pcap or pcapng file that can be read: {}", path, error));
  }
  (void)file.release();  // libpcap closes it
  if (const int link_type = pcap_datalink(handle.get()); link_type != DLT_EN10MB) {
    const char* name = pcap_datalink_val_to_description_or_dlt(link_type);
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("capture file '{}' holds {} packets, not Ethernet frames: {}", path,
                            name, advice_for(link_type)));
  }
  return CaptureReader(path, std::move(handle));
}

Result<std::optional<CapturedFrame>> CaptureReader::next() {
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  const int got = pcap_next_ex(handle_.get(), &header, &data);
  if (got == PCAP_ERROR_BREAK) return std::optional<CapturedFrame>();
  if (got != 1) {
    return fail(ErrorCode::kSystem, fmt::format("capture file '{}' can not be read on: {}", path_,
                                                pcap_geterr(handle_.get())));
  }
  CapturedFrame frame;
  frame.bytes = std::as_bytes(std::span(data, header->caplen));
  frame.length = header->len;
  // With nanosecond precision tv_usec counts nanoseconds.
  frame.timestamp = static_cast<uint64_t>(header->ts.tv_sec) * 1'000'000'000 +
                    static_cast<uint64_t>(header->ts.tv_usec);
  return std::optional(frame);
}

Result<CaptureWriter> CaptureWriter::create(const std::string& path, Options options,
                                            const std::string& not_this) {
  struct stat there{};
  struct stat other{};
  if (::stat(path.c_str(), &there) == 0) {
    if (S_ISFIFO(there.st_mode) || S_ISSOCK(there.st_mode) || S_ISDIR(there.st_mode)) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("'{}' is no regular file: name a file to write to", path));
    }
    if (!not_this.empty() && ::stat(not_this.c_str(), &other) == 0 &&
        there.st_dev == other.st_dev && there.st_ino == other.st_ino) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("'{}' is being read: write to another file", path));
    }
  }
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) return fail_errno(errno, fmt::format("capture file '{}' can not be written", path));
  CaptureWriter writer(path, std::move(fd), options);
  writer.add_file_header();
  if (Status written = writer.write_out(); !written) return forward(written);
  return writer;
}

template <typename T>
void CaptureWriter::append(const T& record) {
  const auto bytes = std::as_bytes(std::span(&record, 1));
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

void CaptureWriter::add_file_header() {
  if (options_.format == CaptureFormat::kPcap) {
    append(PcapFileHeader{Le32(kPcapNanoMagic), Le16(2), Le16(4), Le32(0), Le32(0),
                          Le32(options_.snaplen), Le32(kLinkTypeEthernet)});
    return;
  }
  append(SectionHeader{Le32(kSectionHeaderBlock), Le32(sizeof(SectionHeader)), Le32(0x1a2b3c4d),
                       Le16(1), Le16(0), Le32(~0u), Le32(~0u), Le32(sizeof(SectionHeader))});
  append(InterfaceDescription{Le32(kInterfaceBlock), Le32(sizeof(InterfaceDescription)),
                              Le16(kLinkTypeEthernet), Le16(0), Le32(options_.snaplen), Le16(9),
                              Le16(1), Le32(9), Le32(0), Le32(sizeof(InterfaceDescription))});
}

void CaptureWriter::add(const Packet& packet, uint64_t timestamp) {
  const uint32_t kept = std::min(packet.size(), options_.snaplen);
  const bool pcapng = options_.format == CaptureFormat::kPcapng;
  const uint32_t padding = pcapng ? -kept & 3 : 0;
  const uint32_t block = static_cast<uint32_t>(sizeof(EnhancedPacket)) + kept + padding + 4;
  if (pcapng) {
    append(EnhancedPacket{Le32(kEnhancedPacketBlock), Le32(block), Le32(0),
                          Le32(static_cast<uint32_t>(timestamp >> 32)),
                          Le32(static_cast<uint32_t>(timestamp)), Le32(kept), Le32(packet.size())});
  } else {
    append(PcapRecord{Le32(static_cast<uint32_t>(timestamp / 1'000'000'000)),
                      Le32(static_cast<uint32_t>(timestamp % 1'000'000'000)), Le32(kept),
                      Le32(packet.size())});
  }
  const size_t at = buffer_.size();
  buffer_.resize(at + kept + padding);
  packet.copy_to(buffer_.data() + at, 0, kept);
  if (pcapng) append(Le32(block));
  ++pending_packets_;
  pending_bytes_ += packet.size();
}

Status CaptureWriter::write_out() {
  Status done = write_all();
  if (done) {
    written_ += buffer_.size();
  } else if (::ftruncate(fd_.get(), static_cast<off_t>(written_)) == 0) {
    ::lseek(fd_.get(), static_cast<off_t>(written_), SEEK_SET);
  }
  buffer_.clear();
  pending_packets_ = 0;
  pending_bytes_ = 0;
  return done;
}

Status CaptureWriter::write_all() {
  for (size_t done = 0; done < buffer_.size();) {
    const ssize_t n = ::write(fd_.get(), buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, fmt::format("capture file '{}' can not be written", path_));
    done += static_cast<size_t>(n);
  }
  return {};
}

}  // namespace pollux
