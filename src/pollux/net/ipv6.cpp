// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/ipv6.hpp"

#include "pollux/net/wire.hpp"

namespace pollux::net {
namespace {

bool is_extension(uint8_t protocol) {
  return protocol == kIpv6HopByHop || protocol == kIpv6Routing || protocol == kIpv6Fragment ||
         protocol == kIpv6Authentication || protocol == kIpv6DestinationOptions;
}

/// The first two bytes of every extension header.
struct ExtensionStart {
  uint8_t next_header;
  uint8_t length;
};

size_t extension_size(uint8_t protocol, uint8_t length) {
  if (protocol == kIpv6Fragment) return sizeof(Ipv6FragmentHeader);
  if (protocol == kIpv6Authentication) return (size_t{length} + 2) * 4;  // RFC 4302, 2.2
  return (size_t{length} + 1) * 8;
}

}  // namespace

Ipv6Chain walk_ipv6_chain(std::span<const std::byte> bytes, size_t offset,
                          uint8_t protocol) noexcept {
  Ipv6Chain chain{.protocol = protocol, .offset = offset};
  for (size_t i = 0; i <= kMaxIpv6Extensions; ++i) {
    if (!is_extension(chain.protocol)) {
      chain.complete = true;
      return chain;
    }
    ExtensionStart start;
    if (i == kMaxIpv6Extensions || !read_at(bytes, chain.offset, start)) return chain;
    const size_t size = extension_size(chain.protocol, start.length);
    if (bytes.size() - chain.offset < size) return chain;
    if (chain.protocol == kIpv6Fragment) {
      Ipv6FragmentHeader fragment;
      if (!read_at(bytes, chain.offset, fragment)) return chain;
      // An offset of 0 and no more to come is an "atomic" fragment: whole, RFC 6946.
      chain.first_fragment = fragment.fragment_offset() == 0;
      chain.fragment = !chain.first_fragment || fragment.more_fragments();
    }
    chain.protocol = start.next_header;
    chain.offset += size;
    if (!chain.first_fragment) return chain;
  }
  return chain;
}

}  // namespace pollux::net
