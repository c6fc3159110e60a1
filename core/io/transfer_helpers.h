// TransferHelpers: threads that take part in large transfers of a device that is memory.
//
// A transfer there is a copy, or a compression, by the processor of whoever asks: 60 to 600 us for
// one MiB, while other processors have nothing to do. So a large one is cut into pieces. The caller
// takes one after another; helpers, woken at the beginning, take of the same pieces:
//
//      caller   wake | piece 0 | piece 1 | piece 3 | piece 5 |  wait for piece 6
//      helper            (wakes up)  | piece 2 | piece 4 | piece 6 |
//
// A helper that comes late finds less to do, or nothing; the caller waits for pieces only that have
// been begun. One transfer at a time has the helpers: who comes meanwhile does all of it himself,
// for then other processors are busy.
//
// Any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace fusefs {

class TransferHelpers {
 public:
  // Transfers below this are not worth a wake-up.
  static constexpr uint64_t kBytesMin = 256 << 10;
  // Multiples of any block; not so long that the last one is waited for.
  static constexpr uint64_t kPieceBytes = 64 << 10;

  // One transfer, as preadv2(2): a count, or a negative errno.
  class Transfer {
   public:
    // Moves the bytes [begin, begin + len) of it. Called by several threads at once, each with
    // bytes of its own.
    virtual int64_t move(uint64_t begin, uint64_t len) = 0;

   protected:
    ~Transfer() = default;
  };

  struct Outcome {
    int64_t result = 0;   // as move() of everything: what has been moved without a gap, or an error
    bool helped = false;  // somebody else took a piece
  };

  // At most `thread_max` threads, which begin with the first large transfer.
  explicit TransferHelpers(unsigned thread_max) : thread_max_(thread_max) {}
  ~TransferHelpers();
  TransferHelpers(const TransferHelpers&) = delete;
  TransferHelpers& operator=(const TransferHelpers&) = delete;

  // As many as there are processors that this process may use besides the caller's, up to three.
  static unsigned thread_max_here();

  // All `len` bytes of it, but those behind an error.
  Outcome run(Transfer& transfer, uint64_t len);

 private:
  bool has_piece() const { return transfer_ != nullptr && next_ < len_; }
  void start_threads();
  void help();
  void move_piece(std::unique_lock<std::mutex>& lock);
  void wait_for_others(std::unique_lock<std::mutex>& lock);

  const unsigned thread_max_;
  std::mutex mutex_;
  std::condition_variable piece_there_;
  std::condition_variable all_moved_;
  bool started_ = false;
  bool ending_ = false;
  std::vector<std::thread> threads_;

  // The transfer that has the helpers.
  Transfer* transfer_ = nullptr;
  uint64_t len_ = 0;
  uint64_t next_ = 0;       // the first byte of the next piece
  uint64_t moved_end_ = 0;  // where the first gap begins
  int64_t error_ = 0;       // of the piece there, if that moved nothing
  bool helped_ = false;
  std::atomic<unsigned> under_way_ = 0;  // pieces; changed with the mutex held
};

}  // namespace fusefs
