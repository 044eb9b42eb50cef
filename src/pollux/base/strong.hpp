// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstdint>

namespace pollux {

/// A distinct integer type: values of different tags do not mix by accident.
template <typename Tag, typename T>
struct Strong {
  T value{};

  friend constexpr auto operator<=>(const Strong&, const Strong&) = default;
};

/// A guest-physical address: what descriptors hold without an IOMMU.
using GuestAddr = Strong<struct GuestAddrTag, uint64_t>;
/// An address in the front end's own address space: what SET_VRING_ADDR holds.
using UserAddr = Strong<struct UserAddrTag, uint64_t>;
/// An I/O virtual address: what descriptors and rings hold behind a virtual IOMMU.
using Iova = Strong<struct IovaTag, uint64_t>;

}  // namespace pollux
