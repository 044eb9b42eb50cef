// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/world.hpp"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace pollux::sim {
namespace {

constexpr uint32_t kMaxDeaths = 8;  // a run has to end some day
constexpr size_t kReserved = size_t{64} << 20;

/// Addresses without memory: whoever touches them past the access functions dies at once.
std::byte* nowhere() {
  static void* const at =
      mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) std::abort();
  return static_cast<std::byte*>(at);
}

const char* name_of(Side side) { return side == Side::kDriver ? "driver" : "device"; }

}  // namespace

World::World(const Config& config, Chooser& chooser)
    : config_(config), chooser_(chooser), base_(nowhere()), memory_(0) {}

void World::lay_out(std::vector<Part> parts) {
  parts_ = std::move(parts);
  memory_.clear(parts_.back().end);
}

void World::run(const std::function<void()>& driver, const std::function<void()>& device) {
  sides_[0].fiber.start([&] {
    driver();
    finish(Side::kDriver);
  });
  sides_[1].fiber.start([&] {
    device();
    finish(Side::kDevice);
  });
  Fiber::switch_to(program_, sides_[0].fiber);
}

bool World::runnable(Side side) const {
  const Peer& peer = sides_[index(side)];
  if (peer.finished) return false;
  if (!peer.waiting || over_) return true;
  return peer.until ? peer.until() : peer.bells != 0;
}

void World::pass(Side from) {
  Fiber::switch_to(sides_[index(from)].fiber, sides_[index(other(from))].fiber);
}

void World::finish(Side side) {
  Peer& self = sides_[index(side)];
  Peer& peer = sides_[index(other(side))];
  self.finished = true;
  if (!over_) memory_.observe(side, 0xf1);
  if (!peer.finished) {
    if (!runnable(other(side))) {
      stuck(std::string("the ") + name_of(other(side)) + " waits, and nobody will wake it");
    }
    Fiber::leave_for(self.fiber, peer.fiber);
  } else {
    Fiber::leave_for(self.fiber, program_);
  }
}

uint64_t World::state() const {
  return memory_.history(Side::kDriver) * 0x9e3779b97f4a7c15U ^ memory_.history(Side::kDevice);
}

void World::fail(const std::string& why) {
  if (!over_) failure_ = why;
  over_ = true;
}

// Who lies may well let the other wait for ever.
void World::stuck(const std::string& why) {
  if (config_.liar == Liar::kNobody) {
    fail(why);
  } else {
    give_up();
  }
}

void World::begin_call(Side side, uint64_t bound) { sides_[index(side)].budget = bound; }

// What comes before each access. False: the access does not take place.
bool World::step(Side side, bool is_store) {
  Peer& self = sides_[index(side)];
  if (over_ || self.dying) return false;
  if (++steps_ > config_.max_steps) {
    stuck("no end after " + std::to_string(config_.max_steps) + " steps");
    return false;
  }
  if (self.budget-- == 0) {
    fail(std::string("a call of the ") + name_of(side) + " takes too many accesses");
    return false;
  }
  if (is_store && !chooser_.stops_at_stores()) return true;
  // A side that was passed on to arrives where the other one did.
  if (const uint64_t now = state(); now != arrived_) {
    arrived_ = now;
    if (!chooser_.arrive(now)) {
      give_up();
      return false;
    }
  }
  if (deaths_ < kMaxDeaths &&
      chooser_.dies(side, side == Side::kDevice ? config_.kill_rate : config_.reset_rate)) {
    ++deaths_;
    note(side, "dies");
    memory_.observe(side, 0xdead);
    self.dying = true;
    return false;
  }
  Peer& peer = sides_[index(other(side))];
  if (peer.waiting && !peer.until && peer.bells == 0 && chooser_.happens(config_.bell_rate / 16)) {
    ++peer.bells;  // for nothing
  }
  if (runnable(other(side)) && chooser_.pass_on()) pass(side);
  if (config_.liar != Liar::kNobody) lie(side);
  return !over_ && !self.dying;
}

// A peer that lies writes anything anywhere, more often where it hurts.
void World::lie(Side victim) {
  const bool lies = (config_.liar == Liar::kDriver) == (victim == Side::kDevice);
  if (!lies || !chooser_.happens(config_.lie_rate)) return;
  const Part& part = parts_[chooser_.below(static_cast<uint32_t>(parts_.size()))];
  const size_t span = (part.end - part.begin) / 2;
  if (span == 0) return;
  const bool front = chooser_.below(2) == 0;
  const size_t cell = chooser_.below(static_cast<uint32_t>(front && span > 8 ? 8 : span));
  const size_t at = part.begin + 2 * cell;
  const auto before = static_cast<uint32_t>(memory_.newest(at, 2));
  const uint32_t size = config_.size;
  const uint32_t values[] = {0,
                             0xffff,
                             size,
                             size - 1,
                             size + 1,
                             before + 1,
                             before - 1,
                             before + size,
                             before ^ 0x8000,
                             before + 0x7fff,
                             1,
                             2,
                             4,
                             chooser_.below(0x10000)};
  const auto value = static_cast<uint16_t>(values[chooser_.below(std::size(values))]);
  memory_.write(other(victim), at, 2, value, chooser_.below(2) == 0);
  if (trace_) std::printf("  %s LIES %s = %x\n", name_of(other(victim)), where(at).c_str(), value);
}

bool World::allowed(Side side, const void* at, size_t bytes, bool write, size_t& offset) {
  const auto place = reinterpret_cast<uintptr_t>(at) - reinterpret_cast<uintptr_t>(base_);
  const size_t end = parts_.back().end;
  offset = place;
  const bool inside = place < end && bytes <= end - place;
  if (inside && (over_ || sides_[index(side)].dying || (resetting_ && write))) return true;
  const auto right =
      static_cast<uint8_t>((write ? Part::kDriverWrites : Part::kDriverReads) << (2 * index(side)));
  size_t reached = place;
  for (const Part& part : parts_) {
    if (reached >= part.begin && reached < part.end && (part.may & right) != 0) reached = part.end;
  }
  if (inside && reached >= place + bytes) return true;
  fail(std::string("the ") + name_of(side) + (write ? " writes " : " reads ") +
       std::to_string(bytes) + " bytes at " + (inside ? where(place) : "a place outside") +
       ", where it must not");
  return false;
}

std::string World::where(size_t offset) const {
  for (const Part& part : parts_) {
    if (offset >= part.begin && offset < part.end) {
      return std::string(part.name) + "+" + std::to_string(offset - part.begin);
    }
  }
  return "?";
}

uint64_t World::load(Side side, const void* from, size_t bytes, bool acquire) {
  size_t at = 0;
  const bool goes = step(side, false);
  if (!allowed(side, from, bytes, false, at)) return 0;
  if (!goes) return memory_.newest(at, bytes);
  const size_t options = memory_.look(side, at, bytes);
  const size_t missed = options == 1 ? 0 : chooser_.pick_value(options);
  const uint64_t value = memory_.read(missed, acquire);
  if (trace_) {
    std::printf("  %s loads %s%s: %llx%s\n", name_of(side), where(at).c_str(),
                acquire ? " (acquire)" : "", static_cast<unsigned long long>(value),
                missed != 0 ? " (old)" : "");
  }
  return value;
}

void World::store(Side side, void* to, size_t bytes, uint64_t value, bool release) {
  size_t at = 0;
  const bool goes = step(side, true);
  if (!allowed(side, to, bytes, true, at) || !goes) return;
  memory_.write(side, at, bytes, value, release);
  if (trace_) {
    std::printf("  %s stores %s%s: %llx\n", name_of(side), where(at).c_str(),
                release ? " (release)" : "", static_cast<unsigned long long>(value));
  }
}

void World::full_fence(Side side) {
  if (!step(side, false)) return;
  memory_.full_fence(side);
  note(side, "fence");
}

void World::ring(Side from) {
  Peer& peer = sides_[index(other(from))];
  if (over(from)) return;
  note(from, "rings");
  if (!peer.armed && chooser_.happens(config_.bell_rate)) return;  // nobody listens
  ++peer.bells;
  if (chooser_.happens(config_.bell_rate)) ++peer.bells;
  peer.rung_at = memory_.progress(from);
}

void World::wait(Side side) {
  if (!step(side, false)) return;
  Peer& self = sides_[index(side)];
  self.waiting = true;
  while (self.bells == 0 && !over_) {
    if (!runnable(other(side))) {
      stuck(sides_[index(other(side))].finished
                ? std::string("the ") + name_of(side) + " waits, and the other side has ended"
                : "both sides wait: a wake-up was missed");
      break;
    }
    pass(side);
  }
  self.waiting = false;
  if (over_) return;
  memory_.observe(side, self.bells);
  self.bells = self.bells > 1 && chooser_.happens(config_.bell_rate) ? 1 : 0;
  memory_.see(side, self.rung_at);
  note(side, "wakes");
}

void World::wait_until(Side side, const std::function<bool()>& done) {
  Peer& self = sides_[index(side)];
  self.waiting = true;
  self.until = done;
  while (!done() && !over_) {
    if (!runnable(other(side))) {
      stuck("both sides wait: one of them for a message");
      break;
    }
    pass(side);
  }
  self.waiting = false;
  self.until = nullptr;
}

void World::note(Side side, const char* what, uint64_t value) const {
  if (trace_)
    std::printf("  %s %s %llu\n", name_of(side), what, static_cast<unsigned long long>(value));
}

}  // namespace pollux::sim
