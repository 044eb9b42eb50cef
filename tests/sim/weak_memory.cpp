// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/weak_memory.hpp"

#include <algorithm>

namespace pollux::sim {
namespace {

constexpr uint64_t mix(uint64_t state, uint64_t what) {
  state = (state ^ what) * 0x9e3779b97f4a7c15U;
  return state ^ (state >> 29);
}

}  // namespace

void WeakMemory::clear(size_t bytes) {
  cells_.assign((bytes + 1) / 2, Cell{});
  sides_ = {};
}

void WeakMemory::observe(Side side, uint64_t what) {
  uint64_t& history = sides_[index(side)].history;
  history = mix(history, what + 1);
}

// The newest store of a cell that the reader can not miss, when it has seen the other's stores up
// to `horizon`.
uint8_t WeakMemory::visible(const Cell& cell, Side reader, uint32_t horizon) const {
  uint8_t i = static_cast<uint8_t>(cell.count - 1);
  for (; i > 0; --i) {
    const Store& store = cell.stores[i];
    if (store.writer == reader || store.number <= horizon ||
        cell.base + i <= cell.seen[index(reader)]) {
      break;
    }
  }
  return i;
}

size_t WeakMemory::look(Side reader, size_t at, size_t bytes) {
  reader_ = reader;
  at_ = at;
  bytes_ = bytes;
  news_ = 0;
  const uint32_t horizon = sides_[index(reader)].horizon;
  for (size_t c = at / 2; c <= (at + bytes - 1) / 2; ++c) {
    const Cell& cell = cells_[c];
    for (size_t i = visible(cell, reader, horizon) + 1U; i < cell.count; ++i) {
      const uint32_t number = cell.stores[i].number;
      if (std::find(new_.begin(), new_.begin() + news_, number) == new_.begin() + news_) {
        new_[news_++] = number;
      }
    }
  }
  if (news_ > 1) std::sort(new_.begin(), new_.begin() + news_);
  return news_ + 1;
}

uint64_t WeakMemory::read(size_t missed, bool acquire) {
  State& self = sides_[index(reader_)];
  const uint32_t seen = missed < news_ ? new_[news_ - 1 - missed] : 0;
  const uint32_t horizon = std::max(self.horizon, seen);
  uint64_t value = 0;
  size_t shift = 0;
  uint64_t observed = 0;
  uint32_t released = 0;
  for (size_t c = at_ / 2; c <= (at_ + bytes_ - 1) / 2; ++c) {
    Cell& cell = cells_[c];
    const uint8_t i = visible(cell, reader_, horizon);
    const Store& store = cell.stores[i];
    cell.seen[index(reader_)] = std::max(cell.seen[index(reader_)], cell.base + i);
    if (store.writer != reader_) released = std::max(released, store.released);
    observed = mix(observed, store.value + (uint64_t{cell.base + i} << 16));
    if (shift == 0 && at_ % 2 != 0) {
      value = store.value >> 8;
      shift = 8;
    } else {
      if (shift < 64) value |= uint64_t{store.value} << shift;
      shift += 16;
    }
  }
  self.heard = std::max(self.heard, released);
  if (acquire) self.horizon = std::max(self.horizon, released);
  observe(reader_, observed);
  return bytes_ == 8 ? value : value & ((uint64_t{1} << (8 * bytes_)) - 1);
}

void WeakMemory::write(Side writer, size_t at, size_t bytes, uint64_t value, bool release) {
  State& self = sides_[index(writer)];
  const uint32_t number = ++self.stores;
  observe(writer, number);
  size_t done = 0;
  for (size_t c = at / 2; c <= (at + bytes - 1) / 2; ++c) {
    Cell& cell = cells_[c];
    const Store& last = cell.stores[cell.count - 1U];
    // Where two sides write, their order is a part of the state.
    if (last.writer != writer) observe(writer, last.number);
    uint16_t now = last.value;
    for (size_t byte = 2 * c; byte < 2 * c + 2; ++byte) {
      if (byte < at || byte >= at + bytes) continue;
      const unsigned shift = 8 * (byte % 2);
      const auto part = static_cast<uint16_t>((value >> (8 * done++)) & 0xff);
      now = static_cast<uint16_t>((now & ~(0xffU << shift)) | (unsigned{part} << shift));
    }
    if (cell.count == kKept) {
      std::copy(cell.stores.begin() + 1, cell.stores.end(), cell.stores.begin());
      --cell.count;
      ++cell.base;
    }
    cell.stores[cell.count++] = {now, writer, number, release ? number : self.fenced};
  }
}

void WeakMemory::full_fence(Side side) {
  State& self = sides_[index(side)];
  const State& peer = sides_[index(other(side))];
  self.horizon = std::max({self.horizon, self.heard, peer.fenced});
  self.fenced = self.stores;
  observe(side, peer.fenced);
}

void WeakMemory::see(Side reader, uint32_t progress) {
  State& self = sides_[index(reader)];
  self.horizon = std::max(self.horizon, progress);
  observe(reader, progress);
}

void WeakMemory::settle() {
  see(Side::kDriver, progress(Side::kDevice));
  see(Side::kDevice, progress(Side::kDriver));
}

uint64_t WeakMemory::newest(size_t at, size_t bytes) const {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) {
    const Cell& cell = cells_[(at + i) / 2];
    const uint16_t both = cell.stores[cell.count - 1U].value;
    value |= uint64_t{static_cast<uint8_t>(both >> (8 * ((at + i) % 2)))} << (8 * i);
  }
  return value;
}

}  // namespace pollux::sim
