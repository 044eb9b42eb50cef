// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "pollux/base/fd.hpp"

namespace pollux::vhost {

/// Tells a client when somebody makes the socket that it waits for, so that it need not ask again
/// and again (inotify). Where that can not be told, e.g. as long as there is no such directory, it
/// tells nothing: ask now and then all the same. One thread.
class PathWatch {
 public:
  explicit PathWatch(std::string path);

  /// Readable when something happened to the path; -1 when it can not be told. May change with
  /// each call of renew().
  [[nodiscard]] int fd() const { return fd_.get(); }

  /// Begins to watch, if that failed before or the directory was made anew. Call it before looking
  /// at the path, so that nothing is missed in between.
  void renew();

  /// Takes what was told; true when the path may be worth a look.
  [[nodiscard]] bool take();

 private:
  std::string directory_;
  std::string name_;
  UniqueFd fd_;
};

}  // namespace pollux::vhost
