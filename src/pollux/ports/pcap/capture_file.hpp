// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/packet/packet.hpp"

struct pcap;

namespace pollux {

/// One frame of a capture file.
struct CapturedFrame {
  std::span<const std::byte> bytes;  ///< what was captured; good until the next call of next()
  uint32_t length = 0;               ///< bytes that it had on the wire: more when it was cut
  uint64_t timestamp = 0;            ///< nanoseconds since 1970
};

/// Reads Ethernet frames from a pcap or pcapng file, by libpcap. One thread.
class CaptureReader {
 public:
  /// Errors: kNotFound and kPermission as the system says; kInvalidArgument when it is no regular
  /// file, no capture file, or one of another link type, with advice.
  [[nodiscard]] static Result<CaptureReader> open(const std::string& path);

  /// The next frame, or nothing at the end of the file. Errors: kSystem when the file can not be
  /// read on, e.g. because it ends inside a frame.
  [[nodiscard]] Result<std::optional<CapturedFrame>> next();

 private:
  struct Closer {
    void operator()(pcap* handle) const;
  };
  CaptureReader(std::string path, std::unique_ptr<pcap, Closer> handle)
      : path_(std::move(path)), handle_(std::move(handle)) {}

  std::string path_;
  std::unique_ptr<pcap, Closer> handle_;
};

enum class CaptureFormat { kPcap, kPcapng };

/// Writes packets to a new pcap or pcapng file with time stamps in nanoseconds. Not by libpcap,
/// which writes no pcapng and does not say which packets were lost when the disk is full: here
/// packets are collected and written in batches, and a batch that can not be written whole leaves
/// no trace in the file. One thread.
class CaptureWriter {
 public:
  struct Options {
    CaptureFormat format = CaptureFormat::kPcap;
    uint32_t snaplen = 262144;  ///< most bytes of a packet that are kept
  };

  /// Makes the file, or empties it, and writes its header. Errors: the system's; kInvalidArgument
  /// for a path that is a pipe, a socket or `not_this` (the file that is being read).
  [[nodiscard]] static Result<CaptureWriter> create(const std::string& path, Options options,
                                                    const std::string& not_this = {});

  /// Collects a packet; `timestamp` in nanoseconds since 1970.
  void add(const Packet& packet, uint64_t timestamp);

  /// Packets and bytes collected and not yet written.
  [[nodiscard]] uint64_t pending_packets() const { return pending_packets_; }
  [[nodiscard]] uint64_t pending_bytes() const { return pending_bytes_; }
  /// True when it is time for write_out().
  [[nodiscard]] bool full() const { return buffer_.size() >= kBatch; }

  /// Writes what was collected. After an error it is lost, and the file ends before it.
  [[nodiscard]] Status write_out();

 private:
  static constexpr size_t kBatch = 256 * 1024;

  CaptureWriter(std::string path, UniqueFd fd, Options options)
      : path_(std::move(path)), fd_(std::move(fd)), options_(options) {}
  void add_file_header();
  template <typename T>
  void append(const T& record);
  Status write_all();

  std::string path_;
  UniqueFd fd_;
  Options options_;
  std::vector<std::byte> buffer_;
  uint64_t written_ = 0;  // length of the file
  uint64_t pending_packets_ = 0;
  uint64_t pending_bytes_ = 0;
};

}  // namespace pollux
