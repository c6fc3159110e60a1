// TestOperation: an operation from a function and a name, for tests of the engine itself. Tests of
// the layers above use SimWorld::run().
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "core/engine/operation.h"

namespace fusefs {

class TestOperation : public Operation {
 public:
  using Fn = std::function<Attempt<void>(TestOperation&)>;
  using OnDone = std::function<void(Result<void>)>;

  TestOperation(std::string name, Fn fn, OnDone on_done = {})
      : name_(std::move(name)), fn_(std::move(fn)), on_done_(std::move(on_done)) {}

  const char* name() const override { return name_.c_str(); }
  Attempt<void> attempt() override { return fn_(*this); }
  void finish(Result<void> outcome) override {
    if (on_done_) on_done_(outcome);
  }
  bool is_background() const override { return background; }

  bool background = false;
  int phase = 0;  // the smallest stash

 private:
  std::string name_;
  Fn fn_;
  OnDone on_done_;
};

}  // namespace fusefs
