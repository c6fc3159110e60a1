// TempImage: a file of a given size for tests of the real device, gone with the object.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "core/base/check.h"

namespace fusefs {

class TempImage {
 public:
  // In `folder`; without one in $TMPDIR or /tmp.
  explicit TempImage(uint64_t size_bytes, std::string folder = {}) {
    if (folder.empty()) {
      const char* tmpdir = ::getenv("TMPDIR");
      folder = tmpdir != nullptr ? tmpdir : "/tmp";
    }
    path_ = folder + "/fusefs-test-XXXXXX";
    const int fd = ::mkstemp(path_.data());
    CHECK_MSG(fd >= 0, path_.c_str());
    CHECK_MSG(::ftruncate(fd, static_cast<off_t>(size_bytes)) == 0, path_.c_str());
    ::close(fd);
  }
  TempImage(const TempImage&) = delete;
  TempImage& operator=(const TempImage&) = delete;
  ~TempImage() { ::unlink(path_.c_str()); }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace fusefs
