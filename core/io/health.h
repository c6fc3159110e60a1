// Health: whether the volume may still be written, and why not.
//
// One per volume. A write error on metadata turns the volume read-only: what was committed stays,
// what was not is refused from here on. The first reason is kept and said once.
//
// Monitor held for every call.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "core/base/error.h"

namespace fusefs {

class Health {
 public:
  // `report` is called once, with the sentence for the log.
  explicit Health(bool read_only, std::function<void(const std::string&)> report = {})
      : read_only_(read_only), report_(std::move(report)) {}

  bool writable() const { return !read_only_ && !failed_; }
  // True after fail(): an error and not the user made it read-only.
  bool failed() const { return failed_; }
  Error error() const { return error_; }
  const std::string& reason() const { return reason_; }

  // Turns the volume read-only. `what` names the thing and place: "journal, block 4711".
  void fail(Error error, std::string what) {
    if (failed_) return;
    failed_ = true;
    error_ = error;
    reason_ = std::move(what) + ": " + std::string(error_text(error));
    if (report_) report_(reason_);
  }
  // Met a damaged structure while reading: remembered in the superblock, so that it is checked.
  void note_corruption(std::string what) {
    saw_corruption_ = true;
    if (report_ && reason_.empty()) report_(what + ": damaged; run fusefs check");
    if (reason_.empty()) reason_ = std::move(what);
  }
  bool saw_corruption() const { return saw_corruption_; }

 private:
  const bool read_only_;
  bool failed_ = false;
  bool saw_corruption_ = false;
  Error error_ = Error::io_failed;
  std::string reason_;
  std::function<void(const std::string&)> report_;
};

}  // namespace fusefs
