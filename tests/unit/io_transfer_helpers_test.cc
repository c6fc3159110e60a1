// Transfers that several threads carry out.
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "core/io/transfer_helpers.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kPiece = TransferHelpers::kPieceBytes;
constexpr uint64_t kLen = 16 * kPiece;

// Notes what is moved by whom. Does not end its first piece before `threads_wanted` have come.
class NotedTransfer final : public TransferHelpers::Transfer {
 public:
  explicit NotedTransfer(size_t threads_wanted = 1) : threads_wanted_(threads_wanted) {}

  int64_t move(uint64_t begin, uint64_t len) override {
    std::unique_lock lock(mutex_);
    CHECK(moved_.emplace(begin, len).second);
    threads_.insert(std::this_thread::get_id());
    came_.notify_all();
    came_.wait_for(lock, std::chrono::seconds(20),
                   [this] { return threads_.size() >= threads_wanted_; });
    const auto answer = answers.find(begin);
    return answer != answers.end() ? answer->second : static_cast<int64_t>(len);
  }

  // Where the bytes from 0 on end that have been moved, each once.
  uint64_t moved_end() const {
    uint64_t end = 0;
    for (const auto& [begin, len] : moved_) {
      if (begin != end) break;
      end += len;
    }
    return end;
  }
  size_t piece_count() const { return moved_.size(); }
  size_t thread_count() const { return threads_.size(); }

  std::map<uint64_t, int64_t> answers;  // of pieces that do not succeed, by where they begin

 private:
  const size_t threads_wanted_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::map<uint64_t, uint64_t> moved_;
  std::set<std::thread::id> threads_;
};

}  // namespace

TEST_CASE("a large transfer is moved once by all helpers, also where its end is no piece's") {
  TransferHelpers helpers(2);
  for (int i = 0; i < 3; ++i) {
    NotedTransfer transfer(3);
    const TransferHelpers::Outcome outcome = helpers.run(transfer, kLen + 4096);
    CHECK(outcome.result == kLen + 4096);
    CHECK(outcome.helped);
    CHECK(transfer.moved_end() == kLen + 4096);
    CHECK(transfer.thread_count() == 3);
  }
}

TEST_CASE("small transfers, and those without helpers, are the caller's, in one piece") {
  for (const auto& [threads, len] :
       {std::pair{2u, TransferHelpers::kBytesMin - 1}, std::pair{0u, kLen}}) {
    TransferHelpers helpers(threads);
    NotedTransfer transfer;
    const TransferHelpers::Outcome outcome = helpers.run(transfer, len);
    CHECK(outcome.result == static_cast<int64_t>(len));
    CHECK_FALSE(outcome.helped);
    CHECK(transfer.piece_count() == 1);
  }
}

TEST_CASE("a transfer is as long as it has no gap, and an error is one where nothing was moved") {
  TransferHelpers helpers(1);
  const auto result_of = [&helpers](std::map<uint64_t, int64_t> answers) {
    NotedTransfer transfer(2);
    transfer.answers = std::move(answers);
    return helpers.run(transfer, kLen).result;
  };
  CHECK(result_of({{0, -EIO}}) == -EIO);
  CHECK(result_of({{0, 0}}) == 0);
  CHECK(result_of({{kPiece, -EIO}}) == kPiece);
  CHECK(result_of({{5 * kPiece, 4096}}) == 5 * kPiece + 4096);
  CHECK(result_of({{5 * kPiece, 4096}, {6 * kPiece, -EIO}}) == 5 * kPiece + 4096);
  CHECK(result_of({{0, 4096}, {kPiece, -ENOSPC}}) == 4096);
  CHECK(result_of({}) == kLen);
}

TEST_CASE("who finds the helpers busy does all of it himself") {
  class Outer final : public TransferHelpers::Transfer {
   public:
    explicit Outer(TransferHelpers& helpers) : helpers_(helpers) {}
    int64_t move(uint64_t begin, uint64_t len) override {
      if (begin == 0) {
        NotedTransfer inner;
        outcome = helpers_.run(inner, kLen);
        pieces = inner.piece_count();
      }
      return static_cast<int64_t>(len);
    }
    TransferHelpers::Outcome outcome;
    size_t pieces = 0;

   private:
    TransferHelpers& helpers_;
  };
  TransferHelpers helpers(1);
  Outer outer(helpers);
  CHECK(helpers.run(outer, kLen).result == kLen);
  CHECK(outer.outcome.result == kLen);
  CHECK_FALSE(outer.outcome.helped);
  CHECK(outer.pieces == 1);
}

TEST_CASE("helpers take no signals but those of their own faults") {
  // Ends when both have a piece.
  class Masks final : public TransferHelpers::Transfer {
   public:
    int64_t move(uint64_t, uint64_t len) override {
      std::unique_lock lock(mutex_);
      pthread_sigmask(SIG_BLOCK, nullptr, &masks[std::this_thread::get_id()]);
      came_.notify_all();
      came_.wait_for(lock, std::chrono::seconds(20), [this] { return masks.size() == 2; });
      return static_cast<int64_t>(len);
    }
    std::map<std::thread::id, sigset_t> masks;

   private:
    std::mutex mutex_;
    std::condition_variable came_;
  };
  TransferHelpers helpers(1);
  Masks transfer;
  CHECK(helpers.run(transfer, kLen).result == kLen);
  const bool caller_takes = sigismember(&transfer.masks[std::this_thread::get_id()], SIGTERM) == 0;
  transfer.masks.erase(std::this_thread::get_id());
  REQUIRE(transfer.masks.size() == 1);
  const sigset_t& mask = transfer.masks.begin()->second;
  for (const int blocked : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) CHECK(sigismember(&mask, blocked));
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) CHECK(!sigismember(&mask, fault));
  CHECK(caller_takes);
}

TEST_CASE("transfers of many threads, at once and one after another, are whole") {
  TransferHelpers helpers(3);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&helpers, &wrong] {
      for (int round = 0; round < 300; ++round) {
        NotedTransfer transfer;
        const bool fails = round % 7 == 3;
        if (fails) transfer.answers[2 * kPiece] = -EIO;
        const int64_t result = helpers.run(transfer, kLen).result;
        const bool whole = transfer.piece_count() == 1;  // the helpers were busy
        const uint64_t expected = fails && !whole ? 2 * kPiece : kLen;
        if (result != static_cast<int64_t>(expected) || transfer.moved_end() < expected) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

}  // namespace fusefs
