// Ref<T>: a counted reference to an object that counts itself.
//
// Counts are plain integers: objects are created, referenced and destroyed with the monitor held
// (core/engine/monitor.h), or by one thread alone.
#pragma once

#include <cstdint>
#include <utility>

#include "core/base/check.h"

namespace fusefs {

class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;

  uint32_t ref_count() const { return ref_count_; }

 protected:
  virtual ~RefCounted() { CHECK(ref_count_ == 0); }
  // Called when the last reference goes; an owner that keeps a cache may keep the object.
  virtual void last_reference_dropped() { delete this; }

 private:
  template <class T>
  friend class Ref;
  uint32_t ref_count_ = 0;
};

template <class T>
class Ref {
 public:
  Ref() = default;
  Ref(std::nullptr_t) {}
  explicit Ref(T* object) : object_(object) { acquire(); }
  Ref(const Ref& other) : object_(other.object_) { acquire(); }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  template <class U>
  Ref(const Ref<U>& other) : object_(other.get()) {
    acquire();
  }
  ~Ref() { reset(); }
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }

  void reset() {
    T* object = std::exchange(object_, nullptr);
    if (object != nullptr && --counted(object).ref_count_ == 0) {
      counted(object).last_reference_dropped();
    }
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  friend bool operator==(const Ref& a, const Ref& b) { return a.object_ == b.object_; }
  friend bool operator==(const Ref& a, std::nullptr_t) { return a.object_ == nullptr; }

 private:
  static RefCounted& counted(T* object) { return *object; }
  void acquire() {
    if (object_ != nullptr) ++counted(object_).ref_count_;
  }

  T* object_ = nullptr;
};

template <class T, class... Args>
Ref<T> make_ref(Args&&... args) {
  return Ref<T>(new T(std::forward<Args>(args)...));
}

}  // namespace fusefs
