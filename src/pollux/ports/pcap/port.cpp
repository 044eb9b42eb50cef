// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/pcap/port.hpp"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <utility>

#include "pollux/ports/pcap/sink.hpp"
#include "pollux/ports/pcap/source.hpp"

namespace pollux {
namespace {

constexpr std::array<PortKey, 4> kKeys{{
    {"tx", "file that sent packets are written to (none)"},
    {"loop", "on: play the file again when it ends (off)"},
    {"snaplen", "most bytes of a packet that are written, 14 to 262144 (262144)"},
    {"format", "of the tx file, pcap or pcapng (by its name)"},
}};

class PcapPort final : public Port {
 public:
  PcapPort(std::unique_ptr<PcapSource> source, std::unique_ptr<PcapSink> sink, std::string target)
      : target_(std::move(target)), source_(std::move(source)), sink_(std::move(sink)) {}
  ~PcapPort() override { stop(); }

  [[nodiscard]] Status start() override {
    // The sink first: it checks that it does not write over the source.
    if (sink_) {
      if (Status started = sink_->start(); !started) return started;
    }
    if (source_) {
      if (Status started = source_->start(); !started) return started;
    }
    started_ = true;
    return {};
  }

  void stop() noexcept override {
    if (source_) source_->stop();
    if (sink_) sink_->stop();
    started_ = false;
  }

  [[nodiscard]] PortInfo info() const override {
    PortInfo info;
    info.kind = "pcap";
    info.target = target_;
    info.link_up = started_;
    info.state = !source_ ? "writing" : finished() ? "at the end of the file" : "reading";
    if (source_) info.broken = source_->broken();
    if (sink_ && info.broken.empty()) info.broken = sink_->broken();
    info.rx_queues = source_ ? 1 : 0;
    info.tx_queues = sink_ ? 1 : 0;
    return info;
  }

  [[nodiscard]] std::vector<RxQueue> rx_queues() override {
    if (!source_) return {};
    return {source_->queue()};
  }
  [[nodiscard]] std::vector<TxQueue> tx_queues() override {
    if (!sink_) return {};
    return {sink_->queue()};
  }

  [[nodiscard]] bool can_finish() const override { return source_ != nullptr; }
  [[nodiscard]] bool finished() const override { return source_ && source_->finished(); }

 private:
  const std::string target_;
  std::unique_ptr<PcapSource> source_;
  std::unique_ptr<PcapSink> sink_;
  bool started_ = false;
};

}  // namespace

std::span<const PortKey> pcap_port_keys() { return kKeys; }

Result<std::unique_ptr<Port>> make_pcap_port(const PortSpec& spec, const PortContext& context) {
  SpecReader read(spec);
  const std::string tx = read.get_string("tx");
  const bool loop = read.get_bool("loop", false);
  CaptureWriter::Options options;
  options.snaplen = read.get_u32("snaplen", {.min = 14, .max = 262144}, options.snaplen);
  const bool named_pcapng = tx.ends_with(".pcapng") || tx.ends_with(".ntar");
  options.format = static_cast<CaptureFormat>(
      read.get_choice("format", {"pcap", "pcapng"}, named_pcapng ? 1 : 0));
  if (spec.target.empty() && tx.empty()) {
    read.fail_with(
        "names no file: write pcap:IN.pcap to read, pcap:,tx=OUT.pcap to write, or both");
  }
  if (spec.target.empty() && loop) read.fail_with("loop=on: there is no file to read");
  if (Status done = read.finish(); !done) return forward(done);

  std::unique_ptr<PcapSource> source;
  std::unique_ptr<PcapSink> sink;
  if (!spec.target.empty()) {
    source = std::make_unique<PcapSource>(spec.target, loop, context.pool, context.log);
  }
  if (!tx.empty()) {
    sink = std::make_unique<PcapSink>(tx, options, spec.target, context.pool, context.clock,
                                      context.log);
  }
  return std::make_unique<PcapPort>(std::move(source), std::move(sink),
                                    spec.target.empty() ? tx : spec.target);
}

}  // namespace pollux
