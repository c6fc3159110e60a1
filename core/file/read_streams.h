// ReadStreams: recognizes in the reads of one open file what will be read next.
//
//     sequential   |--read--|--read--|....window....|           each read begins where one ended
//     strided      |-read-|     |-read-|     |-read-|     |....|     the same distance each time
//
// A sequential stream is recognized at its second read, a strided one, forwards or backwards, at
// its third. Its window begins with kReadaheadBytesMin and doubles each time half of it has been
// used up, to the given bound. Requests of one stream may come in a slightly different order: the
// kernel has several under way.
//
// The streams of several readers of one open file are told apart, up to kStreamsMax; the one
// unused for longest makes room. Knows no pages and no device. Monitor held for every call.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace fusefs {

inline constexpr uint64_t kReadaheadBytesMin = 128 << 10;
inline constexpr uint64_t kReadaheadBytesMax = 1 << 20;
// Pieces of a strided stream that are read ahead at a time.
inline constexpr uint64_t kReadaheadPiecesMax = 64;

// `count` pieces of `len` bytes, the first at `pos`, each `stride` after the one before.
struct ReadaheadPlan {
  uint64_t pos = 0;
  uint64_t len = 0;
  int64_t stride = 0;
  uint64_t count = 1;
  bool is_strided() const { return stride != 0; }
};

class ReadStreams {
 public:
  // [pos, pos + len) is being read, `len` not zero: what to read ahead now, if anything.
  std::optional<ReadaheadPlan> note_read(uint64_t pos, uint64_t len, uint64_t window_max);
  // Whether a sequential reader has come by `pos` lately: it is too late to read it ahead.
  bool has_passed(uint64_t pos) const;

 private:
  static constexpr size_t kStreamsMax = 4;
  struct Stream {
    enum class Kind : uint8_t { unused, fresh, maybe_strided, strided, sequential };
    Kind kind = Kind::unused;
    uint64_t pos = 0;  // of the last read
    uint64_t end = 0;  // of the furthest read
    int64_t stride = 0;
    uint64_t window_bytes = kReadaheadBytesMin;
    uint64_t ahead = 0;  // read ahead and not yet read: up to this position / so many pieces
    uint64_t used_at = 0;
  };

  Stream* find_stream(uint64_t pos, uint64_t len);
  Stream& begin_stream(uint64_t pos, uint64_t len);
  static std::optional<ReadaheadPlan> advance_sequential(Stream& stream, uint64_t window_max);
  static std::optional<ReadaheadPlan> advance_strided(Stream& stream, uint64_t len,
                                                      uint64_t window_max);

  std::array<Stream, kStreamsMax> streams_ = {};
  uint64_t now_ = 0;
};

}  // namespace fusefs
